"""One evaluator at the panel: how many may ask it at once, how long they wait, when it is left alone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gateway.guardian.observer import GuardObserver
from gateway.guardian.verdicts import Content, Evaluator, Finding, GuardFailure

log = logging.getLogger("sluice.guardian")

#: So many failures in a row and one on PROBE, and nobody asks for REST_SECONDS; then one asks for all.
FAILURES: Final = 5
REST_SECONDS: Final = 5.0
#: What one that failed is asked about: if it fails on this, it does not answer at all.
PROBE: Final = Content("Hello.")


class Seat:
    """Asks ``evaluator``, at most ``concurrency`` times at once. Every way not to answer is a :class:`GuardFailure`.

    Who fails is left alone only if it fails on a harmless text too: else whoever knows a text that it fails on could
    take the guard from everybody.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        concurrency: int,
        observer: GuardObserver,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.evaluator = evaluator
        self._turn = asyncio.Semaphore(concurrency)
        self._observer = observer
        self._clock = clock
        self._failed = 0
        self._resting = False
        self._resting_until = 0.0
        self._probing: asyncio.Task[None] | None = None
        observer.available(evaluator.name, True)

    @property
    def available(self) -> bool:
        """Whether it is asked; not while it is left alone."""
        return not self._resting

    async def ask(self, content: Content, risks: Sequence[str], seconds: float) -> Mapping[str, Finding]:
        """A finding for every risk. Raises :class:`GuardFailure`."""
        self._require_available()
        try:
            findings = await self._asked(content, risks, seconds)
        except GuardFailure as failure:
            self._failed += 1
            if not self._resting:
                log.warning("the evaluator %s failed: %s", self.evaluator.name, failure)
                self._suspect(seconds)
            raise
        self._recover()
        return findings

    async def probe(self, seconds: float) -> None:
        """Ask one that failed lately whether it answers, so that its state is known also while nobody else asks."""
        if not self._failed or (self._resting and self._clock() < self._resting_until):
            return
        self._resting_until = self._clock() + REST_SECONDS
        try:
            await self._asked(PROBE, sorted(self.evaluator.risks)[:1], seconds)
        except GuardFailure as failure:
            self._failed += 1
            if self._failed > FAILURES and not self._resting:
                self._rest(failure)
        else:
            self._recover()

    async def close(self) -> None:
        """Close the evaluator."""
        if self._probing is not None:
            self._probing.cancel()
        await self.evaluator.close()

    async def _asked(self, content: Content, risks: Sequence[str], seconds: float) -> Mapping[str, Finding]:
        began = self._clock()
        try:
            async with asyncio.timeout(seconds), self._turn:
                findings = await self.evaluator.evaluate(content, risks)
            missing = [risk for risk in risks if not isinstance(findings.get(risk), Finding)]
            if missing:
                raise GuardFailure("nonsense", f"no finding for {missing[0]}")
        except Exception as error:
            failure = _as_failure(error)
            self._observer.failed(self.evaluator.name, failure.reason)
            raise failure from error
        self._observer.took(self.evaluator.name, self._clock() - began)
        return findings

    def _require_available(self) -> None:
        if not self._resting:
            return
        if self._clock() < self._resting_until:
            self._observer.failed(self.evaluator.name, "resting")
            raise GuardFailure("resting")
        self._resting_until = self._clock() + REST_SECONDS

    def _suspect(self, seconds: float) -> None:
        """After enough failures, see at once whether it answers at all."""
        if self._failed >= FAILURES and (self._probing is None or self._probing.done()):
            self._probing = asyncio.create_task(self.probe(seconds), name=f"guard-probe-{self.evaluator.name}")

    def _rest(self, failure: GuardFailure) -> None:
        self._resting = True
        self._resting_until = self._clock() + REST_SECONDS
        self._observer.available(self.evaluator.name, False)
        log.error("the evaluator %s is left alone: %s", self.evaluator.name, failure)

    def _recover(self) -> None:
        if self._resting:
            self._observer.available(self.evaluator.name, True)
            log.warning("the evaluator %s answers again", self.evaluator.name)
        self._resting = False
        self._failed = 0


def _as_failure(error: Exception) -> GuardFailure:
    if isinstance(error, GuardFailure):
        return error
    if isinstance(error, TimeoutError):
        return GuardFailure("timeout")
    return GuardFailure("error", f"{type(error).__name__}: {error}"[:200])
