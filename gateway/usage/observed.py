"""A ledger that also tells somebody of every settled request: what is counted is exactly what is billed."""

from __future__ import annotations

from collections.abc import Callable

from gateway.usage.ledger import Ledger
from gateway.usage.records import Entry, Settled


class ObservedLedger:
    """Hands every row on to ``ledger``, and :class:`Settled` rows to ``on_settled`` too, which must not raise."""

    def __init__(self, ledger: Ledger, on_settled: Callable[[Settled], None]) -> None:
        self._ledger = ledger
        self._on_settled = on_settled

    def write(self, entry: Entry) -> None:
        """See :class:`gateway.usage.ledger.Ledger`."""
        self._ledger.write(entry)
        if isinstance(entry, Settled):
            self._on_settled(entry)

    def violation(self, request_id: str, what: str) -> None:
        """See :class:`gateway.usage.ledger.Ledger`."""
        self._ledger.violation(request_id, what)

    @property
    def degraded(self) -> bool:
        """See :class:`gateway.usage.ledger.Ledger`."""
        return self._ledger.degraded
