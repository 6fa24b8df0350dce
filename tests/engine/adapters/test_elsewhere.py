"""One account of adapters for several processes, on an engine that hears each of them with a delay of its own."""

from __future__ import annotations

import asyncio
import pickle
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engine.adapters.desk import AdapterDesk
from engine.adapters.elsewhere import AdaptersElsewhere
from engine.adapters.residency import Hold, Lora, Residency, ResidencyLimits, Unobserved
from engine.attachment import Question
from engine.types import (
    AdapterInUse,
    AdapterNotFound,
    AdapterRefused,
    AdapterUnavailable,
    EngineError,
    EngineUnavailable,
    PromptTooLong,
)

PLACES = 2
LORAS = {f"a{number}": Lora(number + 1, f"a{number}@x", f"/{number}", 1) for number in range(5)}


class Engine:
    """What vLLM's core sees: what each client says arrives in its order, and between clients in any."""

    def __init__(self, seed: int = 0, delay: float = 0.002) -> None:
        self.loaded: set[int] = set()
        self.running: Counter[int] = Counter()
        self.wrong: list[str] = []
        self._random = random.Random(seed)
        self._delay = delay
        self._lines: dict[object, asyncio.Lock] = {}

    async def hear(self, client: object, act: Callable[[], None]) -> None:
        async with self._lines.setdefault(client, asyncio.Lock()):
            await asyncio.sleep(self._random.random() * self._delay)
            act()

    async def add_lora(self, lora: Lora) -> None:
        await self.hear("parent", lambda: self._add(lora.id))

    async def remove_lora(self, lora: Lora) -> None:
        await self.hear("parent", lambda: self._remove(lora.id))

    def _add(self, lora_id: int) -> None:
        self.loaded.add(lora_id)
        if len(self.loaded) > PLACES:
            self.wrong.append(f"{len(self.loaded)} in {PLACES} places")

    def _remove(self, lora_id: int) -> None:
        self.loaded.discard(lora_id)
        if self.running[lora_id]:
            self.wrong.append(f"{lora_id} left under a running request")

    def begin(self, lora_id: int) -> None:
        self.running[lora_id] += 1
        if lora_id not in self.loaded:
            self.wrong.append(f"a request for {lora_id}, which is not there")

    def end(self, lora_id: int) -> None:
        self.running[lora_id] -= 1


class Account:
    """The part of the manager that holds."""

    def __init__(self, engine: Engine) -> None:
        self.residency = Residency(engine, ResidencyLimits(PLACES, wait=60.0), Unobserved())

    async def hold(self, name: str) -> Hold:
        if name not in LORAS:
            raise AdapterNotFound(name)
        return await self.residency.hold(LORAS[name])


class Line:
    """From one worker to the desk; what is said arrives a moment later, as between processes."""

    def __init__(self, desk: AdapterDesk) -> None:
        self._desk = desk
        self._numbers = iter(range(10**9))
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    def number(self) -> int:
        return next(self._numbers)

    async def ask(self, number: int, question: Question) -> Any:
        loop = asyncio.get_running_loop()
        future = self._waiting[number] = loop.create_future()
        loop.call_soon(self._desk.ask, self, number, question, lambda *said: self._reply(number, *said))
        return await future

    def _reply(self, number: int, answer: Any, error: EngineError | None) -> None:
        asyncio.get_running_loop().call_soon(_settle, self._waiting.pop(number), answer, error)

    def withdraw(self, numbers: Sequence[int]) -> None:
        asyncio.get_running_loop().call_soon(self._desk.withdraw, self, tuple(numbers))


def _settle(future: asyncio.Future[Any], answer: Any, error: EngineError | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(answer)


class Worker:
    def __init__(self, engine: Engine, desk: AdapterDesk) -> None:
        self.engine = engine
        self.line = Line(desk)
        self.adapters = AdaptersElsewhere(self.line, self._settle)
        self.deaf = False

    async def _settle(self) -> None:
        while self.deaf:  # noqa: ASYNC110 - an engine that hangs tells nobody
            await asyncio.sleep(0.001)
        await self.engine.hear(self, lambda: None)

    @asynccontextmanager
    async def request(self, name: str) -> AsyncIterator[None]:
        """Its end, or its abort, is only said when it is over, as vLLM's client does."""
        hold = await self.adapters.hold(name)
        say = self.engine.hear
        tasks = [asyncio.create_task(say(self, lambda: self.engine.begin(hold.lora.id)))]
        try:
            yield
        finally:
            tasks.append(asyncio.create_task(say(self, lambda: self.engine.end(hold.lora.id))))
            await asyncio.sleep(0)
            hold.release()


async def settled(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not check():  # noqa: ASYNC110 - everything here is loose tasks
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("seed", range(5))
async def test_workers_never_take_an_adapter_from_under_each_other(seed: int) -> None:
    engine = Engine(seed)
    desk = AdapterDesk(Account(engine))  # type: ignore[arg-type]
    workers = [Worker(engine, desk) for _ in range(3)]
    chance = random.Random(seed)

    async def one(worker: Worker, name: str, seconds: float, gives_up: float) -> None:
        try:
            async with asyncio.timeout(gives_up), worker.request(name):
                await asyncio.sleep(seconds)
        except TimeoutError:
            pass

    plans = [
        one(chance.choice(workers), chance.choice(list(LORAS)), chance.random() * 0.004, chance.choice((0.003, 60.0)))
        for _ in range(150)
    ]
    await asyncio.gather(*plans)
    await settled(lambda: not any(desk.held_by(worker.line) for worker in workers))
    assert engine.wrong == []
    assert not any(engine.running.values())


async def test_a_hold_is_kept_until_the_engine_has_heard_of_the_end() -> None:
    engine = Engine()
    desk = AdapterDesk(Account(engine))  # type: ignore[arg-type]
    worker = Worker(engine, desk)
    hold = await worker.adapters.hold("a0")
    worker.deaf = True
    hold.release()
    for _ in range(20):
        await asyncio.sleep(0.001)
        assert desk.held_by(worker.line) == 1
    worker.deaf = False
    await settled(lambda: not desk.held_by(worker.line))


async def test_the_dead_keep_what_they_hold_until_they_are_forgotten() -> None:
    engine = Engine()
    account = Account(engine)
    desk = AdapterDesk(account)  # type: ignore[arg-type]
    dead, other = Worker(engine, desk), Worker(engine, desk)
    held = [await dead.adapters.hold(name) for name in ("a0", "a1")]
    waiting = asyncio.create_task(dead.adapters.hold("a2"))
    wanting = asyncio.create_task(other.adapters.hold("a3"))
    await settled(lambda: account.residency.state(LORAS["a3"])[1])
    desk.hush(dead.line)
    await asyncio.sleep(0.01)
    assert not wanting.done()
    desk.leave(dead.line)
    assert (await wanting).lora is LORAS["a3"]
    assert desk.held_by(dead.line) == 0
    assert account.residency.state(LORAS["a2"]) == (False, False, 0)
    waiting.cancel()
    assert len(held) == 2


async def test_holds_of_a_lost_engine_keep_nothing_and_are_given_back() -> None:
    engine = Engine()
    account = Account(engine)
    desk = AdapterDesk(account)  # type: ignore[arg-type]
    worker = Worker(engine, desk)
    running, over = [await worker.adapters.hold(name) for name in ("a0", "a1")]
    worker.deaf = True
    over.release()
    error = EngineUnavailable("gone")
    account.residency.reset(error)
    worker.adapters.lost(error)
    assert not running.valid
    await settled(lambda: desk.held_by(worker.line) == 1)
    running.release()
    await settled(lambda: desk.held_by(worker.line) == 0)
    worker.deaf = False
    assert (await worker.adapters.hold("a0")).valid


async def test_what_is_not_there_is_an_error_here_too() -> None:
    engine = Engine()
    worker = Worker(engine, AdapterDesk(Account(engine)))  # type: ignore[arg-type]
    with pytest.raises(AdapterNotFound):
        await worker.adapters.hold("nobody")


@pytest.mark.parametrize(
    "error",
    [
        AdapterUnavailable("later", retry_after=3.0, broken=True),
        AdapterRefused("no", code="too_many"),
        AdapterInUse(4),
        EngineUnavailable("gone", retry_after=9.0),
        PromptTooLong(prompt_tokens=9, limit=8),
    ],
)
def test_errors_reach_other_processes_as_they_are(error: EngineError) -> None:
    other = pickle.loads(pickle.dumps(error))
    assert type(other) is type(error)
    assert (str(other), vars(other)) == (str(error), vars(error))
