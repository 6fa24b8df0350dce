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

#: So many failures in a row, and nobody asks for REST_SECONDS; then one asks for all.
FAILURES: Final = 5
REST_SECONDS: Final = 5.0


class Seat:
    """Asks ``evaluator``, at most ``concurrency`` times at once. Every way not to answer is a :class:`GuardFailure`."""

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
        self._resting_until = 0.0
        observer.available(evaluator.name, True)

    @property
    def available(self) -> bool:
        """Whether it answered lately, or is about to be tried again."""
        return self._failed < FAILURES

    async def ask(self, content: Content, risks: Sequence[str], seconds: float) -> Mapping[str, Finding]:
        """A finding for every risk. Raises :class:`GuardFailure`."""
        self._require_available()
        began = self._clock()
        try:
            async with asyncio.timeout(seconds), self._turn:
                findings = await self.evaluator.evaluate(content, risks)
            missing = [risk for risk in risks if not isinstance(findings.get(risk), Finding)]
            if missing:
                raise GuardFailure("nonsense", f"no finding for {missing[0]}")
        except Exception as error:
            raise self._note(error) from error
        self._observer.took(self.evaluator.name, self._clock() - began)
        self._recover()
        return findings

    def _require_available(self) -> None:
        if self._failed < FAILURES:
            return
        if self._clock() < self._resting_until:
            self._observer.failed(self.evaluator.name, "resting")
            raise GuardFailure("resting")
        self._resting_until = self._clock() + REST_SECONDS

    def _note(self, error: Exception) -> GuardFailure:
        failure = _as_failure(error)
        self._observer.failed(self.evaluator.name, failure.reason)
        self._failed += 1
        if self._failed == FAILURES:
            self._resting_until = self._clock() + REST_SECONDS
            self._observer.available(self.evaluator.name, False)
            log.error("the evaluator %s is left alone: %s", self.evaluator.name, failure)
        elif self._failed < FAILURES:
            log.warning("the evaluator %s failed: %s", self.evaluator.name, failure)
        return failure

    def _recover(self) -> None:
        if self._failed >= FAILURES:
            self._observer.available(self.evaluator.name, True)
            log.warning("the evaluator %s answers again", self.evaluator.name)
        self._failed = 0


def _as_failure(error: Exception) -> GuardFailure:
    if isinstance(error, GuardFailure):
        return error
    if isinstance(error, TimeoutError):
        return GuardFailure("timeout")
    return GuardFailure("error", f"{type(error).__name__}: {error}"[:200])
