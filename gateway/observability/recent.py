"""What happened in the last minute, for people who look. Prometheus keeps its own time, from ``/metrics``."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

WINDOW_SECONDS: Final = 60
#: Times that are kept of one second: enough for percentiles, and a bound on what sorting them costs.
KEPT_PER_SECOND: Final = 64


@dataclass(slots=True)
class _Second:
    """``number``: of the second, on the clock."""

    number: int
    ttft: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Spread:
    """Of ``count`` times that are known, in seconds; None where there is none."""

    count: int
    p50: float | None
    p95: float | None


class LastMinute:
    """Times and endings of the last :data:`WINDOW_SECONDS`, in slots of one second. Use from one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds: deque[_Second] = deque()

    def first_token(self, seconds: float) -> None:
        """A stream's time to first token."""
        _keep(self._now().ttft, seconds)

    def waited(self, seconds: float) -> None:
        """A request was let in after ``seconds`` in the queue."""
        _keep(self._now().waits, seconds)

    def finished(self, outcome: str, code: str | None) -> None:
        """A request for a model was answered; ``code`` is its error's. Both are our own words, so they are few."""
        second = self._now()
        second.outcomes[outcome] += 1
        if code:
            second.refusals[code] += 1

    def ttft(self) -> Spread:
        """Of the streams."""
        return _spread(value for second in self._known() for value in second.ttft)

    def waits(self) -> Spread:
        """Of the queue."""
        return _spread(value for second in self._known() for value in second.waits)

    def outcomes(self) -> Counter[str]:
        """Answered requests by how they ended."""
        return sum((second.outcomes for second in self._known()), Counter())

    def refusals(self) -> Counter[str]:
        """Errors by code."""
        return sum((second.refusals for second in self._known()), Counter())

    def ttft_by_second(self) -> list[float | None]:
        """The median of each second, oldest first; None for those without a stream."""
        known = {second.number: second for second in self._known()}
        now = int(self._clock())
        numbers = range(now - WINDOW_SECONDS + 1, now + 1)
        return [_spread(known[number].ttft).p50 if number in known else None for number in numbers]

    def _known(self) -> Iterable[_Second]:
        self._forget(int(self._clock()))
        return self._seconds

    def _now(self) -> _Second:
        number = int(self._clock())
        if not self._seconds or self._seconds[-1].number != number:
            self._forget(number)
            self._seconds.append(_Second(number))
        return self._seconds[-1]

    def _forget(self, number: int) -> None:
        while self._seconds and self._seconds[0].number <= number - WINDOW_SECONDS:
            self._seconds.popleft()


def _keep(values: list[float], value: float) -> None:
    if len(values) < KEPT_PER_SECOND:
        values.append(value)


def _spread(values: Iterable[float]) -> Spread:
    ordered = sorted(values)
    if not ordered:
        return Spread(0, None, None)
    return Spread(len(ordered), _percentile(ordered, 0.5), _percentile(ordered, 0.95))


def _percentile(ordered: list[float], share: float) -> float:
    """The nearest rank: a value that was seen."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
