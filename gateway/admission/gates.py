"""A gate per model: each engine has a batch of its own, and a flood of one model leaves the others' queues open."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gateway.admission.gate import Gate, Slot
from gateway.admission.ticket import Ticket


class Gates:
    """Those of ``models``, and of others when they are first asked for. ``make`` builds the gate of one model."""

    def __init__(self, models: Iterable[str], make: Callable[[str], Gate]) -> None:
        self._make = make
        self._gates = {model: make(model) for model in models}
        self._closed_for: float | None = None

    @property
    def in_flight(self) -> int:
        """Requests that are admitted, of all models."""
        return sum(gate.in_flight for gate in self._gates.values())

    @property
    def queued(self) -> int:
        """Requests that wait, of all models."""
        return sum(gate.queued for gate in self._gates.values())

    @property
    def bound(self) -> int:
        """Sequences that may run at once, of all models; 0: no bound."""
        return sum(gate.bound for gate in self._gates.values())

    def close(self, retry_after: float) -> None:
        """See :meth:`Gate.close`."""
        self._closed_for = retry_after
        for gate in self._gates.values():
            gate.close(retry_after)

    def require_open(self, tenant: str | None = None) -> None:
        """Raise :class:`ApiError` 503 if no model takes a new request of ``tenant``; which it names is not known yet.

        Cheap: called before a body is read.
        """
        if not any(gate.takes(tenant) for gate in self._gates.values()):
            for gate in self._gates.values():
                gate.require_open(tenant)

    def crowded(self, model: str) -> bool:
        """See :attr:`Gate.crowded`."""
        return self._of(model).crowded

    async def enter(self, ticket: Ticket) -> Slot:
        """Wait for a turn at the model of ``ticket``. See :meth:`Gate.enter`."""
        return await self._of(ticket.model).enter(ticket)

    def retry_after(self, model: str | None) -> float:
        """Seconds until the queue of ``model`` as it is now has been served; of the longest where none is named."""
        if model is not None:
            return self._of(model).retry_after()
        return max((gate.retry_after() for gate in self._gates.values()), default=1.0)

    def _of(self, model: str) -> Gate:
        gate = self._gates.get(model)
        if gate is None:
            gate = self._gates[model] = self._make(model)
            if self._closed_for is not None:
                gate.close(self._closed_for)
        return gate
