"""One suite for both stores, with a clock that the tests move; and both side by side on the same histories."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.limits.client import connector
from gateway.limits.link import RedisLink
from gateway.limits.memory import MemoryStore
from gateway.limits.plan import Charge, Kind, LimitPlan
from gateway.limits.quota import UNLIMITED
from gateway.limits.redis import SCRIPTS, RedisStore
from gateway.limits.store import NEVER, Decision
from tests.support.redis_server import RedisServer

LEASE_MS = 30_000
START_MS = 1_700_000_000_123
CLOCK_KEY = "{test}:clock"
TIME = "local time = redis.call('TIME')"
TEST_TIME = (
    f"local ms = tonumber(redis.call('GET', '{CLOCK_KEY}')) local time = {{math.floor(ms / 1000), ms % 1000 * 1000}}"
)

Ask = Callable[..., Any]


def test_the_clock_can_be_replaced_in_every_script() -> None:
    assert all(text.count(TIME) == 1 for text in SCRIPTS.values())


class Store:
    """Either store behind one awaitable face, and its clock."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    async def sleep(self, ms: int) -> None:
        self.now_ms += ms

    async def reserve(self, request_id: str, charges: Sequence[Charge], *, force: bool = False) -> Decision:
        raise NotImplementedError

    async def settle(self, request_id: str, charges: Sequence[Charge], tokens: int) -> bool:
        raise NotImplementedError

    async def renew(self, request_id: str, charge: Charge) -> None:
        raise NotImplementedError


class InMemory(Store):
    def __init__(self) -> None:
        super().__init__()
        self._store = MemoryStore(LEASE_MS, lambda: self.now_ms / 1000)
        self._store._now_ms = lambda: self.now_ms  # type: ignore[method-assign]

    async def reserve(self, request_id: str, charges: Sequence[Charge], *, force: bool = False) -> Decision:
        return self._store.reserve(request_id, charges, force=force)

    async def settle(self, request_id: str, charges: Sequence[Charge], tokens: int) -> bool:
        return self._store.settle(request_id, charges, tokens)

    async def renew(self, request_id: str, charge: Charge) -> None:
        self._store.renew(request_id, [charge])


class InRedis(Store):
    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        scripts = {name: text.replace(TIME, TEST_TIME) for name, text in SCRIPTS.items()}
        self._server = server
        self._link = RedisLink(connector(server.url), scripts, 5.0)
        self._store = RedisStore(self._link, PLAN, LEASE_MS)
        self._set_clock()

    def _set_clock(self) -> None:
        self._server.command("SET", CLOCK_KEY, str(self.now_ms))

    async def sleep(self, ms: int) -> None:
        await super().sleep(ms)
        self._set_clock()

    async def reserve(self, request_id: str, charges: Sequence[Charge], *, force: bool = False) -> Decision:
        return await self._store.reserve(request_id, charges, force=force)

    async def settle(self, request_id: str, charges: Sequence[Charge], tokens: int) -> bool:
        return await self._store.settle(request_id, charges, tokens)

    async def renew(self, request_id: str, charge: Charge) -> None:
        await self._store.renew([(charge.key, request_id)])

    async def close(self) -> None:
        await self._store.close()


PLAN = LimitPlan("test", UNLIMITED, {}, None)


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, redis: RedisServer) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield InMemory()
        return
    made = InRedis(redis)
    yield made
    await made.close()


def charge(kind: Kind, capacity: int, amount: int = 1, per_second: float = 0.0) -> Charge:
    return Charge(f"{{test}}:{kind.value}:subject", kind, capacity, amount, per_second)


async def test_requests_up_to_the_limit_and_again_when_the_minute_is_over(store: Store) -> None:
    limit = [charge(Kind.REQUESTS, 3)]
    for number in range(3):
        decision = await store.reserve(f"r{number}", limit)
        assert decision.granted
        assert decision.levels[0].used == number + 1
        await store.sleep(100)
    refused = await store.reserve("r3", limit)
    assert not refused.granted
    (level,) = refused.levels
    assert level.used == 3
    assert 60_000 - 1300 <= level.wait_ms <= 61_000
    await store.sleep(level.wait_ms - 1)
    assert not (await store.reserve("r4", limit)).granted
    await store.sleep(1)
    assert (await store.reserve("r5", limit)).granted


async def test_a_refusal_changes_nothing_of_any_limit(store: Store) -> None:
    room, full = charge(Kind.TOKENS, 1000, 10), charge(Kind.REQUESTS, 0)
    lease = charge(Kind.CONCURRENT, 5)
    bucket = charge(Kind.BUCKET, 5, 1, 1.0)
    assert not (await store.reserve("a", [room, lease, bucket, full])).granted
    seen = await store.reserve("b", [charge(Kind.TOKENS, 1000, 0), charge(Kind.CONCURRENT, 5, 0)])
    assert seen.levels[0].used == 0
    decision = await store.reserve("c", [room, lease, bucket])
    assert decision.levels[0].used == 10
    assert decision.levels[2].used == 1


async def test_what_was_not_used_comes_back_once(store: Store) -> None:
    limits = [charge(Kind.TOKENS, 100, 80), charge(Kind.DAY, 1000, 80)]
    assert (await store.reserve("a", limits)).granted
    assert not (await store.reserve("b", limits)).granted
    assert await store.settle("a", limits, 30)
    assert not await store.settle("a", limits, 0)
    assert not await store.settle("never", limits, 0)
    decision = await store.reserve("c", [charge(Kind.TOKENS, 100, 70), charge(Kind.DAY, 1000, 70)])
    assert [level.used for level in decision.levels] == [100, 100]


async def test_a_settlement_never_gives_back_what_has_left_the_window(store: Store) -> None:
    limits = [charge(Kind.TOKENS, 100, 80)]
    await store.reserve("a", limits)
    await store.sleep(61_000)
    await store.reserve("b", limits)
    await store.settle("a", limits, 0)
    decision = await store.reserve("c", [charge(Kind.TOKENS, 100, 20)])
    assert decision.levels[0].used == 100
    assert not (await store.reserve("d", [charge(Kind.TOKENS, 100, 1)])).granted


async def test_asking_again_for_the_same_request_is_charged_once(store: Store) -> None:
    limits = [charge(Kind.REQUESTS, 10), charge(Kind.TOKENS, 100, 60), charge(Kind.CONCURRENT, 1)]
    first = await store.reserve("a", limits)
    again = await store.reserve("a", limits)
    assert first.granted
    assert again.granted
    assert [level.used for level in again.levels] == [1, 60, 1]
    assert await store.settle("a", limits, 0)


async def test_leases_end_with_their_requests_or_by_themselves(store: Store) -> None:
    lease = charge(Kind.CONCURRENT, 2)
    assert (await store.reserve("a", [lease])).granted
    assert (await store.reserve("b", [lease])).granted
    refused = await store.reserve("c", [lease])
    assert not refused.granted
    assert 0 < refused.levels[0].wait_ms <= LEASE_MS
    await store.settle("a", [lease], 0)
    assert (await store.reserve("d", [lease])).granted
    await store.sleep(LEASE_MS - 1)
    await store.renew("d", lease)
    await store.sleep(1)
    assert (await store.reserve("e", [lease])).granted
    assert not (await store.reserve("f", [lease])).granted


async def test_a_lease_that_was_lost_is_put_back_by_its_renewal_and_ends_with_its_request(store: Store) -> None:
    lease = charge(Kind.CONCURRENT, 1)
    await store.renew("a", lease)
    assert not (await store.reserve("b", [lease])).granted
    # There is nothing to give back, but for the lease.
    assert not await store.settle("a", [lease], 0)
    assert (await store.reserve("c", [lease])).granted


async def test_a_bucket_of_two_that_never_refills(store: Store) -> None:
    bucket = [charge(Kind.BUCKET, 2, 1, 0.0)]
    assert (await store.reserve("a", bucket)).granted
    assert (await store.reserve("b", bucket)).granted
    refused = await store.reserve("c", bucket)
    assert not refused.granted
    assert refused.levels[0].wait_ms == NEVER
    await store.sleep(1_000_000)
    assert not (await store.reserve("d", bucket)).granted


async def test_a_bucket_refills(store: Store) -> None:
    bucket = [charge(Kind.BUCKET, 2, 1, 4.0)]
    for name in "ab":
        assert (await store.reserve(name, bucket)).granted
    refused = await store.reserve("c", bucket)
    assert refused.levels[0].wait_ms == 250
    await store.sleep(250)
    assert (await store.reserve("d", bucket)).granted
    assert not (await store.reserve("e", bucket)).granted


async def test_a_bucket_whose_clock_was_set_back_goes_on_refilling(store: Store) -> None:
    bucket = [charge(Kind.BUCKET, 1, 1, 1.0)]
    assert (await store.reserve("a", bucket)).granted
    await store.sleep(-3_600_000)
    assert not (await store.reserve("b", bucket)).granted
    await store.sleep(1000)
    assert (await store.reserve("c", bucket)).granted


async def test_more_than_the_limit_can_never_be_had(store: Store) -> None:
    for kind in (Kind.REQUESTS, Kind.CONCURRENT, Kind.BUCKET):
        refused = await store.reserve("a", [charge(kind, 0, 1, 1.0)])
        assert refused.levels[0].wait_ms == NEVER, kind


async def test_a_forced_charge_may_exceed_the_limit(store: Store) -> None:
    limit = [charge(Kind.TOKENS, 0, 500)]
    assert (await store.reserve("debt", limit, force=True)).granted
    assert not (await store.reserve("a", [charge(Kind.TOKENS, 501, 2)])).granted
    assert (await store.reserve("b", [charge(Kind.TOKENS, 501, 1)])).granted


async def test_a_clock_that_steps_back_never_lets_more_in(store: Store) -> None:
    limit = [charge(Kind.REQUESTS, 5)]
    for number in range(5):
        await store.reserve(f"a{number}", limit)
    await store.sleep(-1000)
    assert not (await store.reserve("b", limit)).granted
    await store.sleep(-3_600_000)
    assert not (await store.reserve("c", limit)).granted
    await store.sleep(61_000)
    assert (await store.reserve("d", limit)).granted


async def test_a_day_is_a_window_too(store: Store) -> None:
    limit = [charge(Kind.DAY, 100, 100)]
    assert (await store.reserve("a", limit)).granted
    await store.sleep(23 * 3_600_000)
    refused = await store.reserve("b", limit)
    assert not refused.granted
    await store.sleep(refused.levels[0].wait_ms)
    assert (await store.reserve("c", limit)).granted


# -- both side by side ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    what: str
    request: int
    amount: int
    ms: int


KINDS = (Kind.REQUESTS, Kind.TOKENS, Kind.DAY, Kind.CONCURRENT, Kind.BUCKET)
STEPS = st.builds(
    Step,
    what=st.sampled_from(["reserve", "reserve", "reserve", "settle", "sleep", "renew", "force"]),
    request=st.integers(0, 12),
    amount=st.integers(0, 40),
    ms=st.sampled_from([1, 250, 999, 1000, 5000, 29_999, 59_000, 61_000, 600_000, -500, -5000, 90_000_000]),
)


def charges_of(amount: int) -> list[Charge]:
    capacities = {Kind.REQUESTS: 4, Kind.TOKENS: 100, Kind.DAY: 300, Kind.CONCURRENT: 3, Kind.BUCKET: 3}
    amounts = {Kind.TOKENS: amount, Kind.DAY: amount}
    return [charge(kind, capacities[kind], amounts.get(kind, 1), 0.5) for kind in KINDS]


async def run(steps: Sequence[Step], stores: Sequence[Store]) -> None:
    asked: dict[str, list[Charge]] = {}
    for step in steps:
        name = f"r{step.request}"
        answers: list[Any] = []
        for each in stores:
            if step.what in ("reserve", "force"):
                wanted = asked.get(name) or charges_of(step.amount)
                answers.append(await each.reserve(name, wanted, force=step.what == "force"))
            elif step.what == "settle" and name in asked:
                answers.append(await each.settle(name, asked[name], min(step.amount, asked[name][1].amount)))
            elif step.what == "renew":
                await each.renew(name, charge(Kind.CONCURRENT, 3))
            elif step.what == "sleep":
                await each.sleep(step.ms)
        if step.what in ("reserve", "force"):
            asked.setdefault(name, charges_of(step.amount))
        if step.what == "settle":
            asked.pop(name, None)
        assert all(answer == answers[0] for answer in answers), (step, answers)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=40))
def test_memory_and_redis_agree_on_every_history(redis: RedisServer, steps: list[Step]) -> None:
    async def both() -> None:
        redis.command("FLUSHALL")
        shared = InRedis(redis)
        try:
            await run(steps, [InMemory(), shared])
        finally:
            await shared.close()

    asyncio.run(both())


# -- the laws, on random traffic -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(
    arrivals=st.lists(st.tuples(st.integers(0, 8000), st.integers(1, 50)), min_size=1, max_size=80),
    limit=st.integers(1, 120),
)
def test_no_window_is_over_and_nobody_is_refused_while_there_is_room(
    arrivals: list[tuple[int, int]], limit: int
) -> None:
    memory = InMemory()
    granted: list[tuple[int, int]] = []

    async def play() -> None:
        for number, (pause, amount) in enumerate(arrivals):
            await memory.sleep(pause)
            decision = await memory.reserve(f"r{number}", [charge(Kind.TOKENS, limit, amount)])
            now = memory.now_ms
            if decision.granted:
                granted.append((now, amount))
                # Exactly the last 60 seconds, whatever the slots are.
                assert sum(cost for at, cost in granted if at > now - 60_000) <= limit
            elif amount <= limit:
                # One slot of slack, as declared.
                assert sum(cost for at, cost in granted if at > now - 62_000) + amount > limit
                wait = decision.levels[0].wait_ms
                left = sum(cost for at, cost in granted if at > now + wait - 60_000)
                assert left + amount <= limit

    asyncio.run(play())
