"""One replica by itself: what it may admit while the shared store is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from gateway.limits.memory import OWN_LEASE_MS, MemoryStore
from gateway.limits.plan import Charge, Kind
from gateway.limits.store import NEVER, Decision


class LocalShare:
    """This replica's share of every limit: ``1/replicas`` of it, rounded down.

    It remembers what the shared store has granted to this replica, so at the moment of a cut it starts from its own
    true use. In any window all replicas together admit at most the limit plus, for each replica, what its share
    exceeded its own use by at the cut. ``retry_ms``: when it is worth to ask again for what no share will ever hold.
    """

    def __init__(self, replicas: int, retry_ms: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._replicas = replicas
        self._retry_ms = retry_ms
        self._store = MemoryStore(OWN_LEASE_MS, clock)

    def of(self, charges: Sequence[Charge]) -> tuple[Charge, ...]:
        """The same charges on this replica's share of their limits."""
        return tuple(map(self._share, charges))

    def remember(self, request_id: str, charges: Sequence[Charge]) -> None:
        """The shared store granted this."""
        # Only of a bucket the capacity matters to what is remembered: it is full at first.
        own = [self._share(charge) if charge.kind is Kind.BUCKET else charge for charge in charges]
        self._store.reserve(request_id, own, force=True)

    def reserve(self, request_id: str, charges: Sequence[Charge]) -> Decision:
        """Decide alone; the levels are those of the shares."""
        decision = self._store.reserve(request_id, self.of(charges))
        if decision.granted or self._replicas == 1:
            return decision
        # The limit may have room that the share never has: the store may say so once it is back.
        levels = [replace(each, wait_ms=self._retry_ms) if each.wait_ms == NEVER else each for each in decision.levels]
        return Decision(False, tuple(levels))

    def settle(self, request_id: str, charges: Sequence[Charge], tokens: int) -> None:
        """Give back, whoever granted it."""
        self._store.settle(request_id, charges, tokens)

    def _share(self, charge: Charge) -> Charge:
        return replace(
            charge, capacity=charge.capacity // self._replicas, per_second=charge.per_second / self._replicas
        )
