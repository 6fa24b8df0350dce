"""Who decides whether a request fits: this process alone, or the store that all replicas share."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from gateway.limits.breaker import Breaker
from gateway.limits.headers import unavailable
from gateway.limits.journal import Journal
from gateway.limits.link import StoreError
from gateway.limits.local import LocalShare
from gateway.limits.memory import MemoryStore
from gateway.limits.outbox import Outbox, Settlement
from gateway.limits.plan import Charge, Kind
from gateway.limits.redis import RedisStore
from gateway.limits.store import Decision

log = logging.getLogger("sluice.limits")

#: Pause between probes of a store that is away, and what refused callers are told to wait.
OPEN_SECONDS: Final = 2.0
#: Pause between looks at leases and debts.
TICK_SECONDS: Final = 1.0
_PROBE_SECONDS: Final = 1.0
_LEASES_PER_CALL: Final = 100
_TAKEN_AT_ONCE: Final = 100
_SETTLED: Final = frozenset((Kind.TOKENS, Kind.DAY, Kind.CONCURRENT))

Settle = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision on ``charges``, which may be shares of those that were asked for.

    If it was granted, call ``settle`` with the tokens that were used, once.
    """

    charges: Sequence[Charge]
    decision: Decision
    settle: Settle


class LimitObserver(Protocol):
    """Told what happens to limits."""

    def limit_decided(self, by: str, outcome: str) -> None:
        """``by``: memory, redis or local; ``outcome``: granted, refused or error."""

    def limit_latency(self, seconds: float) -> None:
        """How long the shared store took for a decision."""

    def limit_store_error(self, reason: str) -> None:
        """The shared store did not carry something out; reasons are a few fixed words."""

    def limit_store(self, *, available: bool, pending: int) -> None:
        """Its state, and settlements on their way to it."""


class Decider(Protocol):
    """Decides, and lives as long as the gateway."""

    async def decide(self, request_id: str, charges: Sequence[Charge]) -> Verdict:
        """Make all charges or none. Raises :class:`gateway.errors.ApiError` 503 where it may not."""

    async def start(self) -> None:
        """Begin. Does not fail because a store is away."""

    async def close(self, within: float) -> None:
        """End, after at most ``within`` seconds for what must not be lost."""

    @property
    def degraded(self) -> bool:
        """Whether it decides with less than it should know."""


def needs_settling(charges: Sequence[Charge]) -> bool:
    """Whether anything of it is given back at the end."""
    return any(charge.kind in _SETTLED for charge in charges)


def _nothing_to_settle(_tokens: int) -> None: ...


class AloneDecider:
    """The only process there is."""

    degraded = False

    def __init__(self, store: MemoryStore, observer: LimitObserver) -> None:
        self._store = store
        self._observer = observer

    async def decide(self, request_id: str, charges: Sequence[Charge]) -> Verdict:
        """See :class:`Decider`."""
        decision = self._store.reserve(request_id, charges)
        self._observer.limit_decided("memory", "granted" if decision.granted else "refused")
        return Verdict(charges, decision, lambda tokens: self._settle(request_id, charges, tokens))

    def _settle(self, request_id: str, charges: Sequence[Charge], tokens: int) -> None:
        self._store.settle(request_id, charges, tokens)

    async def start(self) -> None:
        """Nothing to do."""

    async def close(self, within: float) -> None:
        """Nothing to do."""


class SharedDecider:
    """One of several replicas. ``policy`` says what happens while the store is away; times in seconds."""

    def __init__(
        self,
        store: RedisStore,
        share: LocalShare,
        *,
        policy: Literal["local", "closed"],
        timeout: float,
        lease_seconds: float,
        observer: LimitObserver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._share = share
        self._journal = Journal(clock)
        self._policy = policy
        self._timeout = timeout
        self._renew_every = lease_seconds / 3
        self._observer = observer
        self._clock = clock
        self._breaker = Breaker(clock, patience=timeout)
        self._outbox = Outbox(store, lambda: self._breaker.closed, self._failed)
        self._leases: dict[str, list[str]] = {}
        self._next_renewal = clock() + self._renew_every
        self._task: asyncio.Task[None] | None = None

    @property
    def degraded(self) -> bool:
        """See :class:`Decider`."""
        return not self._breaker.closed

    # -- deciding -----------------------------------------------------------------------------------------------

    async def decide(self, request_id: str, charges: Sequence[Charge]) -> Verdict:
        """See :class:`Decider`."""
        if self._outbox.full:
            # What is granted now could not be promised to be settled.
            raise unavailable(OPEN_SECONDS)
        if not self._breaker.closed:
            return self._decide_alone(request_id, charges, unsure=False)
        try:
            decision = await self._ask(request_id, charges)
        except StoreError as error:
            self._failed(error)
            return self._decide_alone(request_id, charges, unsure=True)
        except asyncio.CancelledError:
            # It may have been granted all the same.
            self._outbox.put(Settlement(request_id, charges, 0, unsure=True))
            raise
        self._observer.limit_decided("redis", "granted" if decision.granted else "refused")
        if not decision.granted:
            if decision.repeated and needs_settling(charges):
                # The first copy of it may arrive yet, and find room.
                self._outbox.put(Settlement(request_id, charges, 0, unsure=True))
            return Verdict(charges, decision, _nothing_to_settle)
        self._share.remember(request_id, charges)
        self._keep_leases(request_id, charges)
        repeated = decision.repeated
        return Verdict(charges, decision, lambda tokens: self._settle(request_id, charges, tokens, unsure=repeated))

    async def _ask(self, request_id: str, charges: Sequence[Charge]) -> Decision:
        began = self._clock()
        try:
            async with asyncio.timeout(self._timeout):
                return await self._store.reserve(request_id, charges, settled=needs_settling(charges))
        except TimeoutError:
            raise StoreError("timeout") from None
        finally:
            self._observer.limit_latency(self._clock() - began)

    def _decide_alone(self, request_id: str, charges: Sequence[Charge], *, unsure: bool) -> Verdict:
        """``unsure``: the store may have granted it, and the reply was lost."""
        if unsure and needs_settling(charges):
            self._outbox.put(Settlement(request_id, charges, 0, unsure=True))
        if self._policy == "closed":
            self._observer.limit_decided("local", "error")
            raise unavailable(OPEN_SECONDS)
        decision = self._share.reserve(request_id, charges)
        self._observer.limit_decided("local", "granted" if decision.granted else "refused")
        if decision.granted:
            self._journal.admitted(request_id, charges)
        shares = self._share.of(charges)
        return Verdict(shares, decision, lambda tokens: self._settle_alone(request_id, charges, tokens))

    def _settle(self, request_id: str, charges: Sequence[Charge], tokens: int, *, unsure: bool) -> None:
        self._share.settle(request_id, charges, tokens)
        if needs_settling(charges):
            self._give_back(Settlement(request_id, charges, tokens, unsure=unsure))

    def _settle_alone(self, request_id: str, charges: Sequence[Charge], tokens: int) -> None:
        self._share.settle(request_id, charges, tokens)
        if (settlement := self._journal.ended(request_id, tokens)) is not None:
            self._give_back(settlement)

    def _give_back(self, settlement: Settlement) -> None:
        self._leases.pop(settlement.request_id, None)
        self._outbox.put(settlement)

    def _keep_leases(self, name: str, charges: Sequence[Charge]) -> None:
        if leased := [charge.key for charge in charges if charge.kind is Kind.CONCURRENT]:
            self._leases[name] = leased

    # -- the store's health -------------------------------------------------------------------------------------

    def _failed(self, error: StoreError) -> None:
        self._observer.limit_store_error(error.reason)
        if self._breaker.failed(fatal=error.fatal):
            how = "each replica admits its share" if self._policy == "local" else "limited requests are refused"
            log.error("the limits' store is away (%s): %s", error.reason, how)
            self._tell()

    def _tell(self) -> None:
        self._observer.limit_store(available=self._breaker.closed, pending=len(self._outbox))

    async def start(self) -> None:
        """See :class:`Decider`."""
        self._outbox.start()
        try:
            await self._probe()
        except StoreError as error:
            self._failed(StoreError(error.reason, fatal=True))
        self._tell()
        self._task = asyncio.create_task(self._maintain(), name="limit-maintenance")

    async def close(self, within: float) -> None:
        """See :class:`Decider`. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
            await self._bring_home(within)
        await self._outbox.close(within)
        await self._store.close()

    async def _bring_home(self, within: float) -> None:
        try:
            async with asyncio.timeout(within):
                await self._look_after()
        except (StoreError, TimeoutError) as error:
            log.warning("the limits' store could not be reached at the end: %s", error)
        if len(self._journal):
            log.error("%d entries of what this replica admitted by itself were not charged", len(self._journal))

    async def _maintain(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS if self._breaker.closed else OPEN_SECONDS)
            try:
                await self._look_after()
            except StoreError as error:
                self._failed(error)
            except Exception:
                log.exception("the limits' maintenance failed once")
            self._tell()

    async def _look_after(self) -> None:
        if not self._breaker.closed:
            await self._probe()
            await self._tell_what_was_admitted()
            self._breaker.close()
            log.warning("the limits' store is back")
            self._outbox.wake()
        await self._tell_what_was_admitted()
        await self._renew()

    async def _probe(self) -> None:
        """Raises :class:`StoreError` if the store does not do what decisions need, in time."""
        try:
            async with asyncio.timeout(max(_PROBE_SECONDS, self._timeout)):
                await self._store.probe()
        except TimeoutError:
            raise StoreError("timeout") from None

    async def _tell_what_was_admitted(self) -> None:
        """Charge the store with what it does not know of, before it decides again."""
        for bill, charges in self._journal.bills():
            await self._store.reserve(bill, charges, force=True)
            self._journal.paid(bill)
        offers = self._journal.offers()
        for start in range(0, len(offers), _TAKEN_AT_ONCE):
            some = offers[start : start + _TAKEN_AT_ONCE]
            calls = [self._store.reserve(name, charges, force=True) for name, charges in some]
            for (name, _), result in zip(some, await asyncio.gather(*calls, return_exceptions=True), strict=True):
                if isinstance(result, BaseException):
                    raise result
                if (taken := self._journal.taken(name)) is not None:
                    self._keep_leases(name, taken)

    async def _renew(self) -> None:
        if self._clock() < self._next_renewal:
            return
        self._next_renewal = self._clock() + self._renew_every
        names = list(self._leases)
        for start in range(0, len(names), _LEASES_PER_CALL):
            # Those that ended in the meantime are not put back.
            still = [name for name in names[start : start + _LEASES_PER_CALL] if name in self._leases]
            if leases := [(key, name) for name in still for key in self._leases[name]]:
                await self._store.renew(leases)
