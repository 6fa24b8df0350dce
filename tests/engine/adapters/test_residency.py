"""Which adapters are in the engine: a law over random histories, and the cases that matter one by one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

import pytest

from engine.adapters.residency import Hold, Lora, Residency, ResidencyLimits
from engine.types import AdapterNotFound, AdapterUnavailable, EngineUnavailable


class Worker:
    """vLLM's worker as its manager sees it: loads at once, or when the test says so."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.inside: set[int] = set()
        self.loads: list[int] = []
        self.bad: set[int] = set()
        self.gate: Callable[[Lora], asyncio.Event | None] = lambda _lora: None
        self.dead = False

    async def add_lora(self, lora: Lora) -> None:
        self.loads.append(lora.id)
        gate = self.gate(lora)
        await (gate.wait() if gate else asyncio.sleep(0))
        if self.dead:
            raise EngineUnavailable("dead")
        if lora.id in self.bad:
            raise ValueError("it does not load")
        self.inside.add(lora.id)
        assert len(self.inside) <= self.capacity, "the worker would have to choose one to drop"

    async def remove_lora(self, lora: Lora) -> None:
        await asyncio.sleep(0)
        self.inside.discard(lora.id)


class Told:
    """What the observer was told."""

    def __init__(self) -> None:
        self.evicted = 0
        self.outcomes: list[bool] = []
        self.waits: list[float] = []

    def adapter_loaded(self, seconds: float, *, good: bool) -> None:
        self.outcomes.append(good)

    def adapter_evicted(self) -> None:
        self.evicted += 1

    def adapter_waited(self, seconds: float) -> None:
        self.waits.append(seconds)


def lora(number: int, size: int = 1) -> Lora:
    return Lora(number, f"a{number}@x", f"/nowhere/{number}", size)


def made(count: int = 2, **limits: float) -> tuple[Residency, Worker, Told]:
    worker, told = Worker(count), Told()
    return Residency(worker, ResidencyLimits(count, **limits), told), worker, told  # type: ignore[arg-type]


async def test_many_requests_for_a_cold_adapter_are_one_load() -> None:
    residency, worker, told = made()
    holds = await asyncio.gather(*[residency.hold(lora(1)) for _ in range(20)])
    assert worker.loads == [1]
    assert residency.state(lora(1)) == (True, False, 20)
    for hold in holds:
        hold.release()
        hold.release()
    assert residency.state(lora(1)) == (True, False, 0)
    assert (len(told.waits), told.outcomes) == (20, [True])


async def test_the_least_recently_used_idle_one_makes_room_and_nobody_elses() -> None:
    residency, worker, told = made(2)
    for number in (1, 2, 1):
        (await residency.hold(lora(number))).release()
    held = await residency.hold(lora(3))
    assert worker.inside == {1, 3}
    assert told.evicted == 1
    held.release()


async def test_what_is_held_is_never_evicted_and_who_waits_gets_the_first_that_is_free() -> None:
    residency, worker, _ = made(1)
    first = await residency.hold(lora(1))
    second = asyncio.create_task(residency.hold(lora(2)))
    await asyncio.sleep(0.02)
    assert worker.inside == {1}
    # It is closed: who asks for it now waits behind the one who asked before.
    third = asyncio.create_task(residency.hold(lora(1)))
    await asyncio.sleep(0.02)
    assert not third.done()
    first.release()
    hold = await second
    assert worker.inside == {2}
    assert not third.done()
    hold.release()
    (await third).release()
    assert worker.loads == [1, 2, 1]


async def test_one_that_was_closed_for_somebody_who_left_is_open_again() -> None:
    residency, worker, _ = made(1, wait=0.05)
    first = await residency.hold(lora(1))
    with pytest.raises(AdapterUnavailable):
        await residency.hold(lora(2))
    (await residency.hold(lora(1))).release()
    first.release()
    assert worker.loads == [1]


async def test_a_load_that_hangs_holds_up_its_own_waiters_only() -> None:
    residency, worker, _ = made(3, wait=0.1)
    never = asyncio.Event()
    worker.gate = lambda each: never if each.id == 1 else None
    stuck = [asyncio.create_task(residency.hold(lora(1))) for _ in range(3)]
    await asyncio.sleep(0)
    (await residency.hold(lora(2))).release()
    (await residency.hold(lora(3))).release()
    for task in stuck:
        with pytest.raises(AdapterUnavailable) as caught:
            await task
        assert not caught.value.broken
    residency.reset(EngineUnavailable("over"))


async def test_what_does_not_load_is_left_alone_for_a_while() -> None:
    residency, worker, told = made(2, broken=0.1)
    worker.bad = {1}
    for _ in range(50):
        with pytest.raises(AdapterUnavailable) as caught:
            await residency.hold(lora(1))
        assert caught.value.broken
        assert caught.value.retry_after >= 1
    assert worker.loads == [1]
    assert residency.broken(lora(1)) is not None
    await asyncio.sleep(0.12)
    worker.bad = set()
    (await residency.hold(lora(1))).release()
    assert told.outcomes == [False, True]


async def test_pinned_ones_stay_and_some_room_is_left_for_the_others() -> None:
    residency, worker, _ = made(2)
    (await residency.hold(lora(1))).release()
    residency.pin(lora(1), True)
    with pytest.raises(ValueError, match="at most 1"):
        residency.pin(lora(2), True)
    for number in (2, 3, 4):
        (await residency.hold(lora(number))).release()
    assert worker.inside == {1, 4}
    residency.pin(lora(1), False)
    residency.pin(lora(4), True)


async def test_bytes_are_a_bound_too() -> None:
    residency, worker, _ = made(10, size=100)
    for number in (1, 2):
        (await residency.hold(lora(number, 50))).release()
    (await residency.hold(lora(3, 60))).release()
    assert worker.inside == {3}


async def test_forgetting_waits_for_those_who_run_and_sends_away_those_who_wait() -> None:
    residency, worker, _ = made(1)
    hold = await residency.hold(lora(1))
    waiting = asyncio.create_task(residency.hold(lora(2)))
    await asyncio.sleep(0.01)
    gone = residency.forget(lora(2))
    with pytest.raises(AdapterNotFound):
        await waiting
    await gone
    gone = residency.forget(lora(1))
    assert residency.forget(lora(1)) is gone
    with pytest.raises(AdapterNotFound):
        await residency.hold(lora(1))
    await asyncio.sleep(0.01)
    assert not gone.done()
    hold.release()
    await gone
    assert worker.inside == set()
    await residency.forget(lora(9))


async def test_a_lost_engine_is_empty_and_told_to_those_who_wait() -> None:
    residency, worker, _ = made(1)
    hold = await residency.hold(lora(1))
    waiting = asyncio.create_task(residency.hold(lora(2)))
    await asyncio.sleep(0.01)
    residency.reset(EngineUnavailable("the engine died"))
    worker.inside.clear()
    with pytest.raises(EngineUnavailable):
        await waiting
    assert not hold.valid
    hold.release()
    again = await residency.hold(lora(2))
    assert again.valid
    again.release()
    assert worker.inside == {2}


async def test_an_engine_that_dies_while_loading_does_not_make_the_adapter_bad() -> None:
    residency, worker, told = made()
    worker.dead = True
    with pytest.raises(EngineUnavailable):
        await residency.hold(lora(1))
    worker.dead = False
    (await residency.hold(lora(1))).release()
    assert told.outcomes == [True]


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_the_worker_never_chooses_and_every_hold_is_of_what_is_inside(seed: int) -> None:
    chance = random.Random(seed)
    capacity = chance.choice([1, 2, 4])
    residency, worker, _ = made(capacity, wait=5.0, broken=0.01)
    worker.bad = {3}

    async def ask(number: int) -> None:
        await asyncio.sleep(chance.random() * 0.05)
        try:
            async with asyncio.timeout(chance.choice([0.001, 0.01, 5.0])):
                hold: Hold = await residency.hold(lora(number))
        except (TimeoutError, AdapterUnavailable):
            return
        try:
            assert hold.lora.id in worker.inside
            await asyncio.sleep(chance.random() * 0.01)
            assert hold.lora.id in worker.inside
        finally:
            hold.release()

    tasks = [asyncio.create_task(ask(chance.randrange(12))) for _ in range(300)]
    for task in chance.sample(tasks, 40):
        asyncio.get_running_loop().call_later(chance.random() * 0.05, task.cancel)
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
    await asyncio.sleep(0.02)
    assert all(residency.state(lora(number))[1:] == (False, 0) for number in range(12)), "nothing is left behind"
    for number in range(12):
        await residency.forget(lora(number))
    assert worker.inside == set()
