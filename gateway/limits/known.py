"""What this process remembers of limits, so that it need not ask: the last headers, and refusals that still hold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from gateway.limits.headers import limit_reached
from gateway.limits.plan import Charge, Kind
from gateway.limits.reserve import Headers
from gateway.limits.store import NEVER, Level

MAX_KNOWN: Final = 16_384

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Until ``until`` nothing of this limit comes back: requests are never refunded."""

    until: float
    charge: Charge
    level: Level
    headers: Headers


class Known:
    """Bounded; ``clock`` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._headers: OrderedDict[str, Headers] = OrderedDict()
        self._refusals: OrderedDict[str, _Refusal] = OrderedDict()

    def headers(self, principal_id: str) -> Headers:
        """The last ones this principal was sent."""
        return self._headers.get(principal_id, ())

    def keep_headers(self, principal_id: str, headers: Headers) -> None:
        """Remember them."""
        _put(self._headers, principal_id, headers)

    def check(self, key: str, capacity: int | None) -> None:
        """Raise the 429 of this limit if it is certain that it would be the answer; ``capacity`` is today's."""
        refusal = self._refusals.get(key)
        if refusal is None:
            return
        left = refusal.until - self._clock()
        if left <= 0 or capacity != refusal.charge.capacity:
            del self._refusals[key]
            return
        wait = Level(refusal.level.used, refusal.level.reset_ms, max(1, int(left * 1000)))
        raise limit_reached(refusal.charge, wait, refusal.headers)

    def keep_refusals(self, charges: Sequence[Charge], levels: Sequence[Level], headers: Headers) -> None:
        """Remember what was refused for good for a while."""
        for charge, level in zip(charges, levels, strict=True):
            if charge.kind in (Kind.REQUESTS, Kind.BUCKET) and level.wait_ms not in (0, NEVER):
                until = self._clock() + level.wait_ms / 1000
                _put(self._refusals, charge.key, _Refusal(until, charge, level, headers))


def _put(known: OrderedDict[str, T], key: str, value: T) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > MAX_KNOWN:
        known.popitem(last=False)
