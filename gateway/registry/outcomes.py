"""How the arms of a canary fare: counted in memory, added up over all replicas in the store."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

import msgspec

from gateway.registry.endings import Ending
from gateway.registry.names import Name, split_id
from gateway.registry.table import RoutingTable

_FIRST: Final = 0.005
_GROWTH: Final = 1.2
#: Upper ends of the buckets, in seconds: 5 ms to half an hour, a fifth apart. One more bucket takes what is longer.
BOUNDS: Final = tuple(_FIRST * _GROWTH**index for index in range(72))


class Tally(msgspec.Struct, frozen=True):
    """Requests of one version. ``seconds`` counts those that succeeded by how long they took, by :data:`BOUNDS`."""

    succeeded: int = 0
    failed: int = 0
    seconds: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)

    @property
    def total(self) -> int:
        """Those that say something of the version."""
        return self.succeeded + self.failed

    def plus(self, other: Tally) -> Tally:
        """Both."""
        seconds = tuple(mine + theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True))
        return Tally(self.succeeded + other.succeeded, self.failed + other.failed, seconds)

    def median(self) -> float | None:
        """Seconds that half of those that succeeded took at most, true to a tenth; None if there are none."""
        if not self.succeeded:
            return None
        counts = list(accumulate(self.seconds))
        bucket = next(index for index, count in enumerate(counts) if 2 * count >= self.succeeded)
        return float(_FIRST * _GROWTH ** (bucket - 0.5))


class Counted:
    """A :class:`Tally` that grows."""

    def __init__(self) -> None:
        self.failed = 0
        self.seconds = [0] * (len(BOUNDS) + 1)

    def add(self, ending: Ending, seconds: float) -> None:
        """One more."""
        if ending == "failed":
            self.failed += 1
        elif ending == "succeeded":
            self.seconds[bisect_left(BOUNDS, seconds)] += 1

    def tally(self) -> Tally:
        """As it is now."""
        return Tally(sum(self.seconds), self.failed, tuple(self.seconds))


Key = tuple[str, int]
"""A name, and the epoch of its canary: every step counts anew."""


class Outcomes:
    """Of this process. Used on the event loop's thread."""

    def __init__(self, table: RoutingTable) -> None:
        self._table = table
        self._counted: dict[Key, dict[int, Counted]] = {}

    def ended(self, arm: str, ending: Ending, seconds: float) -> None:
        """A request of ``arm`` is over; counts while a canary runs on its name."""
        text, number = split_id(arm)
        name = self._table.get(text)
        if name is None or name.canary is None or number is None:
            return
        counted = self._counted.setdefault((name.name, name.canary.epoch), {})
        counted.setdefault(number, Counted()).add(ending, seconds)

    def tallies(self) -> dict[Key, dict[int, Tally]]:
        """Everything counted so far."""
        return {key: {number: each.tally() for number, each in arms.items()} for key, arms in self._counted.items()}

    def forget_all_but(self, names: Iterable[Name]) -> None:
        """Drop what was counted of canaries and steps that are over."""
        running = {(name.name, name.canary.epoch) for name in names if name.canary is not None}
        self._counted = {key: arms for key, arms in self._counted.items() if key in running}
