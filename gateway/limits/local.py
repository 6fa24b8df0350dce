"""One replica by itself: what it may admit while the shared store is away, and what it owes the store afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from gateway.limits.memory import MAX_SUBJECTS, OWN_LEASE_MS, MemoryStore, SlidingWindow
from gateway.limits.plan import TOKEN_KINDS, WINDOWS, Charge, Kind
from gateway.limits.store import Decision

_OWABLE: Final = frozenset((Kind.REQUESTS, *TOKEN_KINDS))


class LocalShare:
    """This replica's share of every limit: ``1/replicas`` of it, rounded down.

    It remembers what the shared store has granted to this replica, so at the moment of a cut it starts from its own
    true use. All replicas together admit at most ``limit`` plus, for each replica, what its share exceeded its own use
    by at the cut.
    """

    def __init__(self, replicas: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._replicas = replicas
        self._clock = clock
        self._store = MemoryStore(OWN_LEASE_MS, clock)
        self._owed: dict[tuple[str, Kind], SlidingWindow] = {}

    def remember(self, request_id: str, charges: Sequence[Charge]) -> None:
        """The shared store granted this."""
        self._store.reserve(request_id, charges, force=True)

    def reserve(self, request_id: str, charges: Sequence[Charge]) -> Decision:
        """Decide alone."""
        return self._store.reserve(request_id, [self._share(charge) for charge in charges])

    def settle(self, request_id: str, charges: Sequence[Charge], tokens: int) -> None:
        """Give back, whoever granted it."""
        self._store.settle(request_id, charges, tokens)

    def owe(self, charges: Sequence[Charge], tokens: int) -> None:
        """A request that only this replica admitted has ended, and took ``tokens``."""
        now = int(self._clock() * 1000)
        for charge in charges:
            if charge.kind not in _OWABLE:
                continue
            key = charge.key, charge.kind
            if key not in self._owed and len(self._owed) >= MAX_SUBJECTS:
                continue
            window = self._owed.setdefault(key, SlidingWindow(WINDOWS[charge.kind]))
            window.add(window.advance(now), tokens if charge.kind in TOKEN_KINDS else charge.amount)

    def owed(self) -> list[Charge]:
        """What the shared store does not know of and is still in its windows; owed no longer once it was taken."""
        now = int(self._clock() * 1000)
        debts = []
        for (key, kind), window in self._owed.items():
            window.advance(now)
            if window.total:
                debts.append(Charge(key, kind, 0, window.total))
        self._owed.clear()
        return debts

    def owe_again(self, debts: Sequence[Charge]) -> None:
        """The store did not take them after all."""
        for debt in debts:
            self.owe([debt], debt.amount)

    def _share(self, charge: Charge) -> Charge:
        return replace(
            charge, capacity=charge.capacity // self._replicas, per_second=charge.per_second / self._replicas
        )
