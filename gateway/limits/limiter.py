"""The :class:`~gateway.limits.reserve.Limits` of a deployment that has some."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.access.principal import Principal
from gateway.limits.decide import Decider, Settle
from gateway.limits.headers import headers, refused, too_large
from gateway.limits.known import Known
from gateway.limits.plan import TOKEN_KINDS, Bucket, LimitPlan
from gateway.limits.quota import Quota
from gateway.limits.reserve import Demand, Headers, Lease

#: What a stopping process waits for settlements to arrive.
_CLOSE_SECONDS: Final = 3.0


class _Held:
    __slots__ = ("headers", "settle")

    def __init__(self, rate_headers: Headers, settle: Settle) -> None:
        self.headers = rate_headers
        self.settle = settle


def _nothing(_tokens: int) -> None: ...


@dataclass(frozen=True, slots=True)
class LimitRules:
    """Which limits there are. ``default`` is of keys that say nothing themselves."""

    plan: LimitPlan
    default: Quota
    address: Bucket | None


class RateLimits:
    """Also a :class:`~gateway.lifecycle.Service`. ``rules`` are those that the running request keeps to."""

    def __init__(
        self, rules: Callable[[], LimitRules], decider: Decider, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rules = rules
        self._decider = decider
        self._known = Known(clock)
        self._free = _Held((), _nothing)

    def known(self, principal: Principal, address: str) -> Headers:
        """See :class:`~gateway.limits.reserve.Limits`."""
        rules = self._rules()
        quota = principal.quota.or_else(rules.default)
        if quota.requests_per_minute is not None:
            self._known.check(rules.plan.requests_key(principal.id), quota.requests_per_minute)
        if rules.address is not None and (key := rules.plan.address_key(address)) is not None:
            self._known.check(key, rules.address.burst)
        return self._known.headers(principal.id)

    async def reserve(self, demand: Demand) -> Lease:
        """See :class:`~gateway.limits.reserve.Limits`."""
        charges = self._rules().plan.charges(demand)
        if not charges:
            return self._free
        for charge in charges:
            if charge.kind in TOKEN_KINDS and charge.amount > charge.capacity:
                raise too_large(charge, demand.prompt_param)
        verdict = await self._decider.decide(demand.request_id, charges)
        decided, levels = verdict.charges, verdict.decision.levels
        rate_headers = headers(decided, levels)
        self._known.keep_headers(demand.principal.id, rate_headers)
        if not verdict.decision.granted:
            self._known.keep_refusals(decided, levels, rate_headers)
            raise refused(decided, levels)
        return _Held(rate_headers, verdict.settle)

    # -- as a service -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """See :class:`~gateway.lifecycle.Service`."""
        await self._decider.start()

    async def stop(self) -> None:
        """See :class:`~gateway.lifecycle.Service`."""
        await self._decider.close(_CLOSE_SECONDS)

    def degraded(self) -> Sequence[str]:
        """See :class:`~gateway.lifecycle.Service`."""
        return ("limits",) if self._decider.degraded else ()
