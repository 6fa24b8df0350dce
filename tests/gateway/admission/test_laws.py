"""What holds at the gate after every step of any history of arrivals, departures and endings."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.admission import Gate, GateLimits, Slot, Ticket

TENANTS = ("a", "b", "c")

arrivals = st.tuples(st.just("arrive"), st.sampled_from(TENANTS), st.integers(1, 6), st.sampled_from([0.5, 1.0, 4.0]))
endings = st.tuples(st.just("end"), st.integers(0, 99), st.integers(0, 500))
departures = st.tuples(st.just("depart"), st.integers(0, 99))
#: The large one in front gives up, and there is room for the small one behind it.
LARGE_ONE_LEAVES = [("arrive", "a", 3, 1.0), ("arrive", "a", 4, 1.0), ("arrive", "a", 1, 1.0), ("depart", 0)]
histories = st.lists(st.one_of(arrivals, arrivals, endings, departures), max_size=60)


class Nobody:
    def waited(self, seconds: float) -> None:
        pass

    def shed(self, reason: str) -> None:
        raise AssertionError(reason)


@dataclass
class World:
    """The gate and everybody at it. Time stands still: nobody is sent away."""

    bound: int
    fair: bool
    gate: Gate = field(init=False)
    waiting: list[tuple[Ticket, asyncio.Task[Slot]]] = field(default_factory=list)
    running: list[tuple[Ticket, Slot]] = field(default_factory=list)
    admitted: list[Ticket] = field(default_factory=list)
    arrived: int = 0

    def __post_init__(self) -> None:
        limits = GateLimits(max_running=self.bound, max_queue=1000, max_wait=1e6, max_memory=1.0, fair_share=self.fair)
        self.gate = Gate(limits, memory_fraction=lambda: 0.0, slots=lambda: 0, observer=Nobody(), clock=lambda: 0.0)

    async def arrive(self, tenant: str, sequences: int, weight: float) -> None:
        self.arrived += 1
        wanted = Ticket(str(self.arrived), tenant, weight, sequences, 100 * sequences, deadline=1e6)
        self.waiting.append((wanted, asyncio.ensure_future(self.gate.enter(wanted))))
        await self.settle()

    async def end(self, which: int, tokens: int) -> None:
        if self.running:
            _, slot = self.running.pop(which % len(self.running))
            slot.leave(tokens)
            await self.settle()

    async def depart(self, which: int) -> None:
        if self.waiting:
            _, task = self.waiting.pop(which % len(self.waiting))
            task.cancel()
            await self.settle()

    async def settle(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)
        let_in = [(wanted, task.result()) for wanted, task in self.waiting if task.done()]
        self.waiting = [(wanted, task) for wanted, task in self.waiting if not task.done()]
        self.running += let_in
        self.admitted += [wanted for wanted, _ in let_in]

    def check(self) -> None:
        assert (self.gate.in_flight, self.gate.queued) == (len(self.running), len(self.waiting))
        sequences = sum(wanted.sequences for wanted, _ in self.running)
        assert sequences <= self.bound or len(self.running) == 1
        if self.waiting:
            assert self.running, "somebody waits for nobody"
        largest = max((wanted.sequences for wanted, _ in self.waiting), default=0)
        kept = 1 if self.fair and self.bound >= 4 else 0
        if self.waiting:
            assert sequences + largest > self.bound - kept, "whoever were next, there is room for it"
        for tenant in TENANTS:
            order = [int(wanted.request_id) for wanted in self.admitted if wanted.tenant == tenant]
            assert order == sorted(order), "within a tenant, first come, first served"


async def live(bound: int, fair: bool, history: list[tuple[object, ...]]) -> None:
    world = World(bound, fair)
    for what, *details in history:
        await getattr(world, str(what))(*details)
        world.check()
    patience = len(world.waiting) + len(world.running)
    while world.running:
        assert patience, "somebody starves"
        patience -= 1
        await world.end(0, 100)
        world.check()
    assert not world.waiting
    assert (world.gate.in_flight, world.gate.queued) == (0, 0)


@settings(max_examples=300)
@example(bound=4, fair=False, history=LARGE_ONE_LEAVES)
@given(bound=st.integers(1, 8), fair=st.booleans(), history=histories)
def test_the_gate_in_any_history(bound: int, fair: bool, history: list[tuple[object, ...]]) -> None:
    asyncio.run(live(bound, fair, history))
