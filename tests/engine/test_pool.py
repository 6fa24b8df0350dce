"""The pool over runtimes that only pretend: who is loaded, who waits, who leaves. The real ones: tests/pool."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from engine.config import EngineConfig
from engine.pool import ModelPool, PoolPolicy
from engine.resident import ModelSpec
from engine.types import (
    EngineState,
    EngineUnavailable,
    ModelInfo,
    ModelKind,
    ModelState,
    ModelUnavailable,
    Phase,
    RequestRejected,
)

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


class Pretended:
    """A runtime whose start waits for ``gate`` and fails with ``fault``."""

    def __init__(self, house: House, config: EngineConfig) -> None:
        self.house = house
        self.name = config.served_name
        self.kind: ModelKind = config.kind
        self.phase = Phase.STARTING
        self.busy = False
        self.stopped = False
        self.can_sleep = self.name in house.sleepers

    async def start(self) -> None:
        self.house.started.append(self.name)
        await self.house.gates.get(self.name, _OPEN)()
        if (fault := self.house.faults.get(self.name)) is not None:
            raise fault
        self.phase = Phase.READY

    async def stop(self) -> None:
        await asyncio.sleep(0)
        self.phase = Phase.STOPPED
        self.stopped = True

    async def sleep(self) -> int:
        self.house.slept.append(self.name)
        await asyncio.sleep(0)
        if (fault := self.house.faults.get(self.name)) is not None:
            raise fault
        return self.house.freed

    async def wake(self) -> None:
        self.house.woken.append(self.name)
        await self.house.gates.get(self.name, _OPEN)()
        if (fault := self.house.faults.get(self.name)) is not None:
            raise fault

    async def drain(self) -> None:
        self.phase = Phase.DRAINING

    def kill(self) -> None: ...

    def flush_metrics(self) -> None: ...

    def slots(self) -> int:
        return 8

    def memory_bytes(self) -> int:
        return 7

    def state(self) -> EngineState:
        return EngineState(self.phase, 0, 0, 0, 0.0, 0)

    def info(self) -> ModelInfo:
        return ModelInfo(self.name, 0, 128, kind=self.kind, phase=self.phase)


async def _OPEN() -> None:  # noqa: N802
    await asyncio.sleep(0)


class House:
    """Makes pools, and knows every runtime they made."""

    def __init__(self) -> None:
        self.made: list[Pretended] = []
        self.started: list[str] = []
        self.gates: dict[str, Callable[[], Any]] = {}
        self.faults: dict[str, Exception] = {}
        self.pools: list[ModelPool] = []
        self.sleepers: str = ""
        self.slept: list[str] = []
        self.woken: list[str] = []
        self.freed = 3

    async def pool(self, *specs: ModelSpec, budget: int = 10, **policy: Any) -> ModelPool:
        pool = ModelPool(specs, PoolPolicy(budget, **policy), cast(Any, self.make))
        self.pools.append(pool)
        await pool.start()
        return pool

    def make(self, config: EngineConfig) -> Pretended:
        self.made.append(Pretended(self, config))
        return self.made[-1]

    @property
    def alive(self) -> list[str]:
        return [each.name for each in self.made if not each.stopped]


def model(name: str, memory: int = 4, **more: Any) -> ModelSpec:
    return ModelSpec(EngineConfig("/nowhere", name), memory=memory, **more)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    yield house
    for pool in house.pools:
        await pool.stop()
        assert pool.pool().used_bytes == 0 or pool.state().phase is Phase.STOPPED
    assert house.alive == []


def states(pool: ModelPool) -> dict[str, str]:
    return {info.id: info.state.value for info in pool.models()}


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)  # sizes are measured in a thread


async def test_a_model_is_loaded_by_the_first_who_wants_it_and_once_for_all(house: House) -> None:
    pool = await house.pool(model("a"))
    holds = await asyncio.gather(*(pool.hold("a") for _ in range(20)))
    assert house.started == ["a"]
    assert pool.models()[0].users == 20
    for hold in holds:
        hold.release()
    assert pool.models()[0].users == 0
    assert pool.pool().loads == {("a", "loaded"): 1}


async def test_the_idle_one_that_was_not_used_for_longest_leaves(house: House) -> None:
    pool = await house.pool(model("a"), model("b"), model("c"), model("d"))
    for name in ("a", "b", "a"):
        (await pool.hold(name)).release()
    (await pool.hold("c")).release()
    assert states(pool) == {"a": "ready", "b": "cold", "c": "ready", "d": "cold"}
    assert pool.pool().evictions == {"b": 1}
    assert pool.pool().used_bytes == 8
    assert house.alive == ["a", "c"]


async def test_who_is_in_use_stays_and_the_others_wait_until_it_is_not(house: House) -> None:
    pool = await house.pool(model("a", 8), model("b", 8))
    hold = await pool.hold("a")
    waiting = asyncio.ensure_future(pool.hold("b"))
    await settled()
    assert states(pool) == {"a": "ready", "b": "loading"}
    hold.release()
    (await waiting).release()
    assert states(pool) == {"a": "cold", "b": "ready"}


async def test_no_memory_is_free_for_as_long_as_anybody_waits(house: House) -> None:
    pool = await house.pool(model("a", 8), model("b", 8), cold_wait=0.05)
    hold = await pool.hold("a")
    with pytest.raises(ModelUnavailable) as refused:
        await pool.hold("b")
    assert refused.value.state in (ModelState.COLD, ModelState.LOADING)
    await asyncio.sleep(0.1)
    assert states(pool) == {"a": "ready", "b": "cold"}
    assert pool.models()[1].users == 0
    hold.release()


async def test_a_pinned_model_never_leaves_and_what_cannot_fit_beside_it_says_so(house: House) -> None:
    pool = await house.pool(model("a", 6, pin=True, preload=True), model("b", 6), model("c", 4))
    with pytest.raises(ModelUnavailable, match="pinned") as refused:
        await pool.hold("b")
    assert refused.value.state is ModelState.FAILED
    (await pool.hold("c")).release()
    assert states(pool) == {"a": "ready", "b": "failed", "c": "ready"}
    assert "budget" in (pool.models()[1].detail or "")


async def test_refused_while_it_is_loaded_if_that_is_the_policy(house: House) -> None:
    pool = await house.pool(model("a"), cold="refuse")
    with pytest.raises(ModelUnavailable) as refused:
        await pool.hold("a")
    assert refused.value.state is ModelState.LOADING
    assert refused.value.retry_after >= 1
    await settled()
    (await pool.hold("a")).release()


async def test_a_failed_load_is_not_tried_again_at_once_unless_an_administrator_asks(house: House) -> None:
    house.faults["a"] = EngineUnavailable("half-way")
    pool = await house.pool(model("a"), model("b"))
    other = await pool.hold("b")
    for _ in range(3):
        with pytest.raises(ModelUnavailable) as refused:
            await pool.hold("a")
        assert refused.value.state is ModelState.FAILED
        assert refused.value.retry_after > 30
    assert house.started == ["b", "a"]
    assert states(pool) == {"a": "failed", "b": "ready"}
    assert pool.models()[0].detail == "half-way"
    del house.faults["a"]
    await pool.load("a")
    assert states(pool) == {"a": "ready", "b": "ready"}
    other.release()


async def test_an_unexpected_fault_is_a_failed_load_too(house: House) -> None:
    house.faults["a"] = KeyError("x")
    pool = await house.pool(model("a"))
    with pytest.raises(ModelUnavailable):
        await pool.hold("a")
    assert states(pool) == {"a": "failed"}
    assert pool.pool().used_bytes == 0


async def test_deleted_while_it_is_loaded(house: House) -> None:
    never = asyncio.Event()
    house.gates["a"] = never.wait
    pool = await house.pool(model("a"), model("b"))
    waiting = [asyncio.ensure_future(pool.hold("a")) for _ in range(3)]
    await settled()
    await pool.unload("a")
    for each in waiting:
        with pytest.raises(ModelUnavailable) as refused:
            await each
        assert refused.value.state is ModelState.UNLOADED
    assert states(pool) == {"a": "unloaded", "b": "cold"}
    assert pool.pool().used_bytes == 0
    assert house.alive == []
    (await pool.hold("b")).release()


async def test_unloading_waits_for_who_uses_it_and_refuses_who_comes(house: House) -> None:
    pool = await house.pool(model("a"), model("b"))
    hold = await pool.hold("a")
    unloading = asyncio.ensure_future(pool.unload("a"))
    await settled()
    assert states(pool)["a"] == "unloading"
    with pytest.raises(ModelUnavailable) as refused:
        await pool.hold("a")
    assert refused.value.state is ModelState.UNLOADING
    (await pool.hold("b")).release()  # nobody else is stalled
    assert not unloading.done()
    hold.release()
    await unloading
    assert states(pool)["a"] == "unloaded"
    with pytest.raises(ModelUnavailable):
        await pool.hold("a")
    await pool.unload("a")  # again: nothing happens
    await pool.load("a")
    (await pool.hold("a")).release()


async def test_who_does_not_end_in_time_is_ended(house: House) -> None:
    pool = await house.pool(model("a"), unload_timeout=0.05)
    hold = await pool.hold("a")
    await pool.unload("a")
    assert states(pool) == {"a": "unloaded"}
    assert house.alive == []
    hold.release()


async def test_loaded_again_while_it_is_unloaded(house: House) -> None:
    pool = await house.pool(model("a"))
    hold = await pool.hold("a")
    unloading = asyncio.ensure_future(pool.unload("a"))
    await settled()
    loading = asyncio.ensure_future(pool.load("a"))
    await settled()
    hold.release()
    await asyncio.gather(unloading, loading)
    assert states(pool) == {"a": "ready"}
    assert house.started == ["a", "a"]


async def test_who_leaves_while_waiting_leaves_nothing(house: House) -> None:
    never = asyncio.Event()
    house.gates["a"] = never.wait
    pool = await house.pool(model("a"))
    waiting = asyncio.ensure_future(pool.hold("a"))
    await settled()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert pool.models()[0].users == 0
    never.set()  # the load goes on: the next request finds it
    await settled()
    assert states(pool) == {"a": "ready"}


async def test_a_request_for_a_model_on_its_way_out_waits_and_brings_it_back(house: House) -> None:
    pool = await house.pool(model("a", 8), model("b", 8))
    (await pool.hold("a")).release()
    b, a = await asyncio.gather(pool.hold("b"), _soon_released(pool, "b", "a"))
    del b
    assert states(pool) == {"a": "ready", "b": "cold"}
    a.release()


async def _soon_released(pool: ModelPool, first: str, then: str) -> Any:
    await settled()
    pool._models[first].release()
    return await pool.hold(then)


async def test_the_first_must_start_and_others_may_fail(house: House) -> None:
    house.faults["a"] = EngineUnavailable("broken")
    pool = ModelPool(
        [model("b", preload=True), model("a", preload=True), model("c", 4, preload=True)],
        PoolPolicy(10),
        cast(Any, house.make),
    )
    house.pools.append(pool)
    await pool.start()
    assert states(pool) == {"b": "ready", "a": "failed", "c": "ready"}
    assert pool.state().phase is Phase.READY
    broken = ModelPool([model("a", preload=True)], PoolPolicy(10), cast(Any, house.make))
    house.pools.append(broken)
    with pytest.raises(EngineUnavailable):
        await broken.start()


async def test_at_start_nobody_leaves_for_another(house: House) -> None:
    pool = await house.pool(model("a", 8, preload=True), model("b", 8, preload=True))
    assert states(pool) == {"a": "ready", "b": "failed"}
    assert "together" in (pool.models()[1].detail or "")


async def test_it_is_ready_while_one_that_counts_can_serve(house: House) -> None:
    pool = await house.pool(model("a", 3, preload=True), model("b", 3, preload=True), model("c", 3))
    house.made[0].phase = Phase.RESTARTING
    assert pool.state().phase is Phase.READY
    house.made[1].phase = Phase.FAILED
    assert pool.state().phase is Phase.RESTARTING  # a cold model nobody preloads does not count
    assert states(pool)["b"] == "failed"
    await pool.load("b")
    assert pool.state().phase is Phase.READY
    await pool.unload("a")
    await pool.unload("b")
    assert pool.state().phase is Phase.READY  # the cold one is all there is
    await pool.unload("c")
    assert pool.state().phase is Phase.STOPPED


async def test_unknown_models(house: House) -> None:
    pool = await house.pool(model("a"))
    for call in (pool.hold, pool.load, pool.unload):
        with pytest.raises(RequestRejected):
            await call("b")
    assert pool.model("b") is None
    assert pool.slots("b") == 0


@pytest.mark.parametrize("sleepers", ["", "ace"])
@pytest.mark.parametrize("seed", range(4))
async def test_whatever_comes_the_budget_holds_and_nobody_is_left_waiting(
    house: House, seed: int, sleepers: str
) -> None:
    dice = random.Random(seed)
    names = "abcde"
    house.sleepers, house.freed = sleepers, 2
    pool = await house.pool(*(model(name, dice.randint(2, 6)) for name in names), cold_wait=5.0, failed_pause=0.0)
    watcher = asyncio.create_task(_budget_holds(pool))

    async def visitor() -> None:
        for _ in range(10):
            await _one_visit(pool, house, dice, dice.choice(names))

    await asyncio.wait_for(asyncio.gather(*(visitor() for _ in range(8))), 30)
    watcher.cancel()
    house.faults.clear()
    for name in names:
        await pool.load(name)
        (await pool.hold(name)).release()
    assert [info.users for info in pool.models()] == [0] * len(names)


async def _one_visit(pool: ModelPool, house: House, dice: random.Random, name: str) -> None:
    act = dice.random()
    if act < 0.05:
        house.faults[name] = EngineUnavailable("by chance")
    elif act < 0.1:
        house.faults.pop(name, None)
    elif act < 0.15:
        await pool.unload(name)
    try:
        if act < 0.25:
            await pool.load(name)
        hold = await asyncio.wait_for(pool.hold(name), dice.choice([0.002, 10]))
    except (EngineUnavailable, TimeoutError):
        return
    assert pool.runtime(name) is not None
    await asyncio.sleep(dice.random() / 500)
    assert pool.runtime(name) is not None  # nobody took it away meanwhile
    hold.release()


async def _budget_holds(pool: ModelPool) -> None:
    while True:
        state = pool.pool()
        assert state.used_bytes <= state.budget_bytes
        await asyncio.sleep(0.001)


async def test_who_comes_while_a_failed_engine_is_taken_out_does_not_hold_that_up(house: House) -> None:
    pool = await house.pool(model("a"))
    hold = await pool.hold("a")
    house.made[0].phase = Phase.FAILED
    loading = asyncio.ensure_future(pool.load("a"))
    await settled()
    assert states(pool) == {"a": "unloading"}
    coming = asyncio.ensure_future(pool.hold("a"))
    await settled()
    hold.release()
    await asyncio.wait_for(loading, 5)  # not for as long as unload_timeout
    (await asyncio.wait_for(coming, 5)).release()
    assert states(pool) == {"a": "ready"}


@pytest.mark.parametrize("turns", range(12))
async def test_nobody_waits_for_somebody_who_waits_for_the_eviction(house: House, turns: int) -> None:
    pool = await house.pool(model("a", 8), model("b", 8))
    (await pool.hold("a")).release()
    b = asyncio.ensure_future(pool.hold("b"))
    for _ in range(turns):
        await asyncio.sleep(0)
    a = asyncio.ensure_future(pool.hold("a"))
    for each in (b, a):
        each.add_done_callback(lambda done: done.result().release())
    await asyncio.wait_for(asyncio.gather(a, b), 5)


# -- sleep ------------------------------------------------------------------------------------------------------------


async def test_one_that_can_sleep_is_put_to_sleep_and_woken_when_it_is_wanted(house: House) -> None:
    house.sleepers = "a"
    pool = await house.pool(model("a", 8), model("b", 8))
    (await pool.hold("a")).release()
    house.freed = 7
    (await pool.hold("b")).release()
    assert states(pool) == {"a": "sleeping", "b": "ready"}
    assert pool.pool().used_bytes == 9  # what it keeps counts
    assert (house.slept, house.alive) == (["a"], ["a", "b"])
    assert pool.state().phase is Phase.READY
    hold = await pool.hold("a")
    assert states(pool) == {"a": "ready", "b": "cold"}
    assert (house.woken, house.started) == (["a"], ["a", "b"])
    assert pool.pool().used_bytes == 8
    assert pool.pool().loads[("a", "woken")] == 1
    assert pool.pool().evictions == {"a": 1, "b": 1}
    hold.release()


async def test_sleepers_leave_altogether_when_that_is_what_is_needed(house: House) -> None:
    house.sleepers = "a"
    pool = await house.pool(model("a", 8), model("b", 8))
    (await pool.hold("a")).release()
    house.freed = 3
    (await pool.hold("b")).release()
    assert states(pool) == {"a": "cold", "b": "ready"}
    assert (pool.pool().used_bytes, house.alive) == (8, ["b"])


async def test_who_is_in_use_or_pinned_does_not_sleep(house: House) -> None:
    house.sleepers = "ab"
    pool = await house.pool(model("a", 3, pin=True, preload=True), model("b", 3), model("c", 6), cold_wait=0.05)
    hold = await pool.hold("b")
    with pytest.raises(ModelUnavailable):
        await pool.hold("c")
    assert house.slept == []
    hold.release()


async def test_a_sleeper_that_finds_no_room_sleeps_on(house: House) -> None:
    house.sleepers = "a"
    house.freed = 6
    pool = await house.pool(model("a", 8), model("b", 8), cold_wait=0.05)
    (await pool.hold("a")).release()
    hold = await pool.hold("b")
    with pytest.raises(ModelUnavailable):
        await pool.hold("a")
    await asyncio.sleep(0.1)
    assert states(pool) == {"a": "sleeping", "b": "ready"}
    hold.release()
    (await pool.hold("a")).release()
    assert house.started == ["a", "b"]


async def test_one_that_died_in_its_sleep_is_loaded_anew(house: House) -> None:
    house.sleepers = "a"
    house.freed = 8
    pool = await house.pool(model("a", 8), model("b", 2))
    (await pool.hold("a")).release()
    await pool._evict_one()
    assert states(pool)["a"] == "sleeping"
    house.made[0].phase = Phase.FAILED
    (await pool.hold("a")).release()
    assert (house.started, house.woken, house.alive) == (["a", "a"], [], ["a"])
    assert pool.pool().used_bytes == 8


async def test_one_that_does_not_wake_has_failed_and_keeps_nothing(house: House) -> None:
    house.sleepers = "a"
    pool = await house.pool(model("a", 8))
    (await pool.hold("a")).release()
    await pool._evict_one()
    house.faults["a"] = RuntimeError("no")
    with pytest.raises(ModelUnavailable) as refused:
        await pool.hold("a")
    assert refused.value.state is ModelState.FAILED
    assert (states(pool), pool.pool().used_bytes, house.alive) == ({"a": "failed"}, 0, [])


async def test_one_that_does_not_go_to_sleep_is_unloaded(house: House) -> None:
    house.sleepers = "a"
    pool = await house.pool(model("a", 8), model("b", 8))
    (await pool.hold("a")).release()
    house.faults["a"] = RuntimeError("no")
    (await pool.hold("b")).release()
    assert (states(pool), house.alive) == ({"a": "cold", "b": "ready"}, ["b"])


async def test_an_administrator_unloads_a_sleeper_and_loads_one(house: House) -> None:
    house.sleepers = "a"
    pool = await house.pool(model("a", 8))
    (await pool.hold("a")).release()
    await pool._evict_one()
    await pool.load("a")
    assert (states(pool), house.woken) == ({"a": "ready"}, ["a"])
    await pool._evict_one()
    await pool.unload("a")
    assert (states(pool), pool.pool().used_bytes, house.alive) == ({"a": "unloaded"}, 0, [])
    with pytest.raises(ModelUnavailable):
        await pool.hold("a")


async def test_unloaded_while_it_is_woken(house: House) -> None:
    house.sleepers = "a"
    pool = await house.pool(model("a", 8))
    (await pool.hold("a")).release()
    await pool._evict_one()
    house.gates["a"] = asyncio.Event().wait
    waiting = asyncio.ensure_future(pool.hold("a"))
    await settled()
    assert states(pool) == {"a": "loading"}
    await pool.unload("a")
    with pytest.raises(ModelUnavailable):
        await waiting
    assert (states(pool), pool.pool().used_bytes, house.alive) == ({"a": "unloaded"}, 0, [])
