"""All evaluators together: who is asked what about which part of a text, and what it amounts to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.guardian.cache import FindingCache, digest
from gateway.guardian.observer import GuardObserver
from gateway.guardian.seat import Seat
from gateway.guardian.verdicts import Content, Finding, GuardFailure, Verdict
from gateway.guardian.views import views_of
from gateway.observability.tracing.span import NO_SPAN, Span

#: Longer texts are looked through on a thread.
INLINE_CHARACTERS: Final = 4096
#: The part of a window that the next one repeats.
OVERLAP: Final = 8


@dataclass(frozen=True, slots=True)
class Assessment:
    """``failed``: risks that nobody could say anything about."""

    verdicts: tuple[Verdict, ...]
    failed: tuple[str, ...] = ()

    @property
    def flagged(self) -> tuple[Verdict, ...]:
        """Verdicts that say unsafe."""
        return tuple(verdict for verdict in self.verdicts if verdict.unsafe)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one evaluator reads at once. ``offset``: where in the text it stands; None: it is not a part of it."""

    content: Content
    offset: int | None


class Panel:
    """Asks every evaluator that judges one of the risks, all at once."""

    def __init__(self, seats: Sequence[Seat], cache: FindingCache, observer: GuardObserver) -> None:
        self._seats = tuple(seats)
        self._cache = cache
        self._observer = observer
        self.risks = frozenset(risk for seat in seats for risk in seat.evaluator.risks)

    @property
    def names(self) -> frozenset[str]:
        """Of the evaluators."""
        return frozenset(seat.evaluator.name for seat in self._seats)

    def judged_by(self, name: str | None) -> frozenset[str]:
        """The risks that the evaluator ``name`` judges; None: that anyone does."""
        if name is None:
            return self.risks
        return frozenset(risk for seat in self._seats if seat.evaluator.name == name for risk in seat.evaluator.risks)

    def resting(self) -> list[str]:
        """Evaluators that are left alone because they fail."""
        return [seat.evaluator.name for seat in self._seats if not seat.available]

    async def probe(self, seconds: float) -> None:
        """Ask all evaluators that failed lately whether they answer, each within ``seconds``."""
        await asyncio.gather(*(seat.probe(seconds) for seat in self._seats))

    async def close(self) -> None:
        """Close the evaluators."""
        for seat in self._seats:
            await seat.close()

    async def assess(
        self,
        content: Content,
        thresholds: Mapping[str, float],
        *,
        stage: str,
        seconds: float,
        remember: bool = True,
        learned: bool = True,
        only: str | None = None,
        span: Span = NO_SPAN,
    ) -> Assessment:
        """Verdicts on ``content`` for the risks of ``thresholds``. Several evaluators of one risk: the worst counts.

        ``seconds`` are for every answer, its waiting for a turn included; ``learned`` False asks only the others,
        ``only`` names one evaluator, and each has a span within ``span``. Never raises for an evaluator's fault.
        """
        seats = [seat for seat in self._seats if learned or not seat.evaluator.learned]
        seats = [seat for seat in seats if only in (None, seat.evaluator.name)]
        asked = [(seat, risks) for seat in seats if (risks := _of_seat(seat, thresholds))]
        found = await asyncio.gather(
            *(self._ask(seat, content, risks, seconds, remember, span) for seat, risks in asked)
        )
        findings: dict[str, Finding] = {}
        failed = [risk for risk in thresholds if risk not in self.risks]
        for (_, risks), answer in zip(asked, found, strict=True):
            if answer is None:
                failed += risks
                continue
            for risk, finding in answer.items():
                findings[risk] = _worst(findings.get(risk), finding)
        verdicts = tuple(_verdict(risk, finding, thresholds[risk]) for risk, finding in findings.items())
        for verdict in verdicts:
            self._observer.judged(verdict.risk, stage, "flagged" if verdict.unsafe else "safe")
        return Assessment(verdicts, tuple(dict.fromkeys(failed)))

    async def _ask(
        self, seat: Seat, content: Content, risks: Sequence[str], seconds: float, remember: bool, span: Span
    ) -> Mapping[str, Finding] | None:
        pieces = await self._pieces(seat, content)
        try:
            with span.child(f"evaluate {seat.evaluator.name}", {"sluice.guard.pieces": len(pieces)}):
                answers = await asyncio.gather(
                    *(self._ask_piece(seat, piece.content, risks, seconds, remember) for piece in pieces)
                )
        except GuardFailure:
            return None
        whole: dict[str, Finding] = {}
        for piece, answer in zip(pieces, answers, strict=True):
            for risk, finding in answer.items():
                whole[risk] = _worst(whole.get(risk), _moved(finding, piece.offset))
        return whole

    async def _pieces(self, seat: Seat, content: Content) -> list[_Piece]:
        if not seat.evaluator.learned:
            return list(_windows(content, content.judged, seat.evaluator.window, as_it_stands=True))
        text = content.judged
        if len(text) <= INLINE_CHARACTERS:
            views = views_of(text)
        else:
            views = await asyncio.get_running_loop().run_in_executor(None, views_of, text)
        window = seat.evaluator.window
        return [piece for way in views.read() for piece in _windows(content, way, window, as_it_stands=way == text)]

    async def _ask_piece(
        self, seat: Seat, content: Content, risks: Sequence[str], seconds: float, remember: bool
    ) -> Mapping[str, Finding]:
        if not remember:
            return await seat.ask(content, risks, seconds)
        name, hashed = seat.evaluator.name, digest(content)
        known = {risk: finding for risk in risks if (finding := self._cache.get((name, risk, hashed))) is not None}
        missing = [risk for risk in risks if risk not in known]
        self._observer.cached(len(known), len(missing))
        if not missing:
            return known
        found = await seat.ask(content, missing, seconds)
        for risk in missing:
            self._cache.put((name, risk, hashed), found[risk])
        return {**known, **{risk: found[risk] for risk in missing}}


def _of_seat(seat: Seat, thresholds: Mapping[str, float]) -> list[str]:
    return [risk for risk in thresholds if risk in seat.evaluator.risks]


def _windows(content: Content, text: str, window: int | None, *, as_it_stands: bool) -> Iterator[_Piece]:
    """All of ``text`` in pieces of at most ``window`` characters that overlap: nothing is left out."""
    if window is None or len(text) <= window:
        yield _Piece(content.with_judged(text), 0 if as_it_stands else None)
        return
    step = window - window // OVERLAP
    for start in range(0, len(text) - window // OVERLAP, step):
        yield _Piece(content.with_judged(text[start : start + window]), start if as_it_stands else None)


def _worst(one: Finding | None, other: Finding) -> Finding:
    if one is None:
        return other
    worse, better = (one, other) if one.score >= other.score else (other, one)
    spans = tuple(sorted({*worse.spans, *better.spans}))
    return replace(worse, reasoning=worse.reasoning or better.reasoning, spans=spans)


def _moved(finding: Finding, offset: int | None) -> Finding:
    if not finding.spans or offset == 0:
        return finding
    spans = () if offset is None else tuple((start + offset, end + offset) for start, end in finding.spans)
    return replace(finding, spans=spans)


def _verdict(risk: str, finding: Finding, threshold: float) -> Verdict:
    return Verdict(
        risk, finding.score >= threshold, finding.score, finding.reasoning, finding.spans, finding.confidence
    )
