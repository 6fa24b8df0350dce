"""Output under guard: held back, looked at while the generation goes on, sent behind the verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from engine.types import Delta
from gateway.guardian.check import Outlet
from gateway.guardian.held import Channel, HeldChoice, Look
from gateway.guardian.policy import StreamPolicy
from gateway.guardian.verdicts import Span


@dataclass(frozen=True, slots=True)
class Ruling:
    """What becomes of one look: stopped, or let through without ``spans`` (positions in the looked-at text)."""

    stop: bool
    spans: tuple[Span, ...] = ()


#: Judges the texts of one look at a choice, each by itself. May raise what the request is to end with.
Judge = Callable[[Sequence[str]], Awaitable[Sequence[Ruling]]]


class HoldBack:
    """A :class:`engine.types.DeltaSink` between the engine and ``outlet``; :meth:`pump` does the looking.

    No character is sent before it was judged together with the ``hold_back`` characters behind it, or the end.
    """

    def __init__(self, outlet: Outlet, policy: StreamPolicy, judge: Judge) -> None:
        self._outlet = outlet
        self._judge = judge
        self._choices = [HeldChoice(index, policy) for index in range(outlet.choices)]
        self._news = asyncio.Event()

    # -- the engine's side ----------------------------------------------------------------------------------------

    def text(self, text: str, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self.delta(Delta(0, text, tokens))

    def delta(self, delta: Delta) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self._outlet.meter.count(delta.tokens)
        self._outlet.meter.reasoning += delta.reasoning_tokens
        choice = self._choices[delta.index]
        choice.take(delta)
        if choice.due:
            self._news.set()

    def cached(self, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self._outlet.sink.cached(tokens)

    # -- the guard's side -----------------------------------------------------------------------------------------

    @property
    def unfinished(self) -> list[HeldChoice]:
        """Choices that the engine still works on."""
        return [choice for choice in self._choices if not choice.finished]

    async def pump(self) -> None:
        """Look, and send; returns when nothing more will be sent. Raises what the judge raises."""
        while not all(choice.over for choice in self._choices):
            due = [choice for choice in self._choices if choice.due]
            if due:
                await asyncio.gather(*map(self._look, due))
            else:
                await self._news.wait()
                self._news.clear()

    def saved(self) -> int:
        """Tokens that a generation cut now might still have cost."""
        return sum(max(0, self._outlet.max_tokens - choice.tokens) for choice in self.unfinished)

    async def _look(self, choice: HeldChoice) -> None:
        looks = choice.looks()
        rulings = await self._judge([look.text for look in looks]) if looks else ()
        if any(ruling.stop for ruling in rulings):
            self._outlet.sink.delta(choice.close())
            return
        choice.passed(looks, _spans(looks, rulings))
        for delta in choice.sendable():
            self._outlet.sink.delta(delta)


def _spans(looks: Sequence[Look], rulings: Sequence[Ruling]) -> dict[Channel, tuple[Span, ...]]:
    return {
        look.channel: tuple((start + look.start, end + look.start) for start, end in ruling.spans)
        for look, ruling in zip(looks, rulings, strict=True)
        if ruling.spans
    }
