"""The limits that replicas share, in Redis: each decision is one call of one script."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

from gateway.limits.link import RedisLink, StoreError
from gateway.limits.plan import WINDOWS, Charge, Kind, LimitPlan
from gateway.limits.script import RENEW, RESERVE, SETTLE
from gateway.limits.store import GRANT_MS, Decision, Level

SCRIPTS: Final = {"reserve": RESERVE, "settle": SETTLE, "renew": RENEW}
#: Longer than a connection can keep back a command that was given up.
MARK_MS: Final = 600_000
#: For grants that nobody will settle: only so that a repeated call is not charged twice.
UNSETTLED_MS: Final = 10_000


class RedisStore:
    """Every method raises :class:`~gateway.limits.link.StoreError`, and may be repeated with the same request id."""

    def __init__(self, link: RedisLink, plan: LimitPlan, lease_ms: int) -> None:
        self._link = link
        self._plan = plan
        self._lease_ms = lease_ms

    async def reserve(
        self, request_id: str, charges: Sequence[Charge], *, force: bool = False, settled: bool = True
    ) -> Decision:
        """See :meth:`gateway.limits.memory.MemoryStore.reserve`. ``settled``: :meth:`settle` will be called."""
        arguments: list[Any] = [request_id, int(force), self._lease_ms, GRANT_MS if settled else UNSETTLED_MS]
        for charge in charges:
            arguments += (charge.kind.value, charge.capacity, charge.amount, *_shape(charge))
        reply = await self._link.call("reserve", self._keys(request_id, charges), _words(arguments))
        try:
            granted, *numbers = map(int, reply.value)
            levels = tuple(Level(*numbers[at : at + 3]) for at in range(0, 3 * len(charges), 3))
        except (TypeError, ValueError):
            raise StoreError("error") from None
        return Decision(bool(granted), levels, reply.repeated)

    async def settle(self, request_id: str, charges: Sequence[Charge], tokens: int, *, unsure: bool = False) -> bool:
        """See :meth:`gateway.limits.memory.MemoryStore.settle`.

        ``unsure``: whether it was granted is not known, or a copy of the reservation may still arrive, which is then
        not charged.
        """
        arguments: list[Any] = [request_id, tokens, MARK_MS if unsure else 0]
        for charge in charges:
            arguments += (charge.kind.value, charge.amount, *_shape(charge))
        reply = await self._link.call("settle", self._keys(request_id, charges), _words(arguments))
        return bool(reply.value)

    async def probe(self) -> None:
        """Do everything that decisions need, with limits that nobody has."""
        name = f"probe-{os.urandom(12).hex()}"
        charges = [Charge(self._plan.probe_key(kind), kind, 1, 1, 1.0) for kind in Kind]
        await self.reserve(name, charges, force=True)
        await self.renew([(charge.key, name) for charge in charges if charge.kind is Kind.CONCURRENT])
        await self.settle(name, charges, 0)

    async def renew(self, leases: Sequence[tuple[str, str]]) -> None:
        """``leases`` are (key, request id) of requests that still run; those that were lost are put back."""
        keys = [key for key, _ in leases]
        words = [self._lease_ms, *(request_id for _, request_id in leases)]
        await self._link.call("renew", keys, _words(words))

    async def close(self) -> None:
        """Let go of the connection."""
        await self._link.close()

    def _keys(self, request_id: str, charges: Sequence[Charge]) -> list[str]:
        return [self._plan.record_key(request_id), *(charge.key for charge in charges)]


def _words(arguments: Sequence[Any]) -> str:
    return " ".join(map(str, arguments))


def _shape(charge: Charge) -> tuple[float, int]:
    if charge.kind is Kind.BUCKET:
        return charge.per_second, 0
    window = WINDOWS.get(charge.kind)
    return (window.slot_ms, window.slots) if window else (0, 0)
