"""The parent of several workers: holds the engine, starts what died anew, adds up what they count, stops all in order.

Recovery is simple on purpose. A worker that dies is started again and takes a new place at the engine; its clients lose
their connections, nobody else notices. An engine that dies is started again with back-off; meanwhile all workers answer
503. Either that fails too often stays down: without an engine the workers say so, without workers the process ends.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from subprocess import Popen, TimeoutExpired
from typing import TYPE_CHECKING, Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from engine.attachment import Attachment
from engine.types import EngineError, EngineUnavailable
from gateway.reload.reloader import Cause
from gateway.workers.messages import (
    Answered,
    Asked,
    Counts,
    CountsWanted,
    Done,
    EngineLost,
    NoEngine,
    Order,
    Place,
    PlaceWanted,
    Ready,
    ReloadWanted,
    Stop,
    SumWanted,
    Told,
    Withdrawn,
)
from gateway.workers.total import Total

if TYPE_CHECKING:
    from engine.adapters.desk import AdapterDesk
    from engine.adapters.facts import Facts

log = logging.getLogger("sluice.workers")

LOOK_SECONDS: Final = 0.25
#: Seconds that a scrape waits for slow workers; the last word of each is there.
COUNT_SECONDS: Final = 3.0
#: Seconds that a worker waits for the others to do what it asks of them.
ORDER_SECONDS: Final = 10.0
#: Seconds in which the engine has heard the last words of a worker that died.
LAST_WORDS_SECONDS: Final = 1.0
#: Seconds that a worker gets to end after its drain.
END_SECONDS: Final = 25.0


class HeldEngine(Protocol):
    """See :class:`engine.shared.SharedEngine`."""

    @property
    def dead(self) -> bool:
        """Whether it is gone."""

    def place(self) -> Attachment | None:
        """The next place; None if there is none left."""

    async def forget_client(self, client: int) -> None:
        """End what that client left running. Raises :class:`engine.types.EngineUnavailable`; does not end by itself
        when the engine dies.
        """

    def adapter_facts(self) -> Facts | None:
        """What it can do with adapters; None if it takes none."""

    def close(self) -> None:
        """Leave nothing behind. Blocks."""

    def kill(self) -> None:
        """End its processes at once."""


class Engines(Protocol):
    """See :class:`engine.shared.SharedEngines`."""

    def launch(self) -> HeldEngine:
        """Start one. Blocks. Raises :class:`engine.types.EngineUnavailable`."""

    def interrupt(self) -> None:
        """Make a launch that is under way fail."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. After ``give_up_after`` failures within ``window`` it is enough."""

    first_delay: float = 0.5
    max_delay: float = 30.0
    give_up_after: int = 5
    window: float = 600.0


class Failures:
    """Counts failures, and says how long to wait before it is tried again."""

    def __init__(self, patience: Patience, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._clock = clock
        self._times: deque[float] = deque()

    def another(self) -> float | None:
        """Seconds to wait after one more failure; None: give up."""
        now = self._clock()
        self._times.append(now)
        while self._times[0] < now - self._patience.window:
            self._times.popleft()
        if len(self._times) >= self._patience.give_up_after:
            return None
        return float(min(self._patience.max_delay, self._patience.first_delay * 2 ** (len(self._times) - 1)))


@dataclass(slots=True, eq=False)
class Worker:
    """One process. ``place`` is the last one that it was given; ``wants`` one: it waits for an engine."""

    index: int
    process: Popen[bytes]
    connection: Connection
    place: Place | None = None
    wants: bool = False
    ready: bool = False

    def send(self, message: object) -> None:
        """Say it, if anybody is there to hear it: its end is noticed when it is read."""
        with suppress(OSError):
            self.connection.send(message)

    def answer(self, number: int, answer: object, error: EngineError | None = None) -> None:
        """What it asked under that number."""
        self.send(Answered(number, answer, error))


@dataclass(slots=True)
class _Round:
    """A question to several workers; ``finish`` is told what they said, when all have or it has been long enough."""

    missing: set[Worker]
    finish: Callable[[Mapping[Worker, object]], None]
    said: dict[Worker, object] = field(default_factory=dict)


class Supervisor:
    """``start`` makes the worker of an index; ``late``: others serve already. ``serving`` is called once all do.

    ``adapters`` keeps the account of those in the engine, if it takes any; what is counted goes to ``registry``.
    """

    def __init__(
        self,
        workers: int,
        engines: Engines,
        start: Callable[[int, bool], Worker],
        serving: Callable[[], None],
        *,
        drain_timeout: float,
        patience: Patience | None = None,
        adapters: AdapterDesk | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._count = workers
        self._engines = engines
        self._start = start
        self._serving: Callable[[], None] | None = serving
        self._drain_timeout = drain_timeout
        self._engine_failures = Failures(patience or Patience())
        self._worker_failures = Failures(patience or Patience())
        # Lives as long as we do: the engine's processes ask the kernel to die with this very thread.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sluice-engine")
        self._workers: set[Worker] = set()
        self._adapters = adapters
        self._reload: Callable[[Cause], Awaitable[object]] | None = None
        self._reloading: set[asyncio.Task[None]] = set()
        self._respawns: set[asyncio.Task[None]] = set()
        self._forgetting: set[asyncio.Task[None]] = set()
        self._engine: HeldEngine | None = None
        self._generation = 0
        self._broken = 0
        self._refused: str | None = None
        self._stopping = False
        self._failed = asyncio.Event()
        self._gone = asyncio.Event()
        self._total = Total()
        self._rounds: dict[int, _Round] = {}
        self._numbers = itertools.count()
        registry = registry or CollectorRegistry()
        self._registry = registry
        self._alive = Gauge("sluice_workers", "Front-end workers that serve.", registry=registry)
        self._restarts = Counter("sluice_worker_restarts", "Front-end workers that died.", registry=registry)

    async def run(self, drain: asyncio.Event, hurry: asyncio.Event) -> bool:
        """Serve until ``drain``, end at once on ``hurry``; whether it went well."""
        for index in range(self._count):
            self._begin(index, late=False)
        holding = asyncio.create_task(self._hold(), name="engine")
        draining = asyncio.create_task(drain.wait())
        failing = asyncio.create_task(self._failed.wait())
        await asyncio.wait({draining, failing}, return_when=asyncio.FIRST_COMPLETED)
        failing.cancel()
        draining.cancel()
        self._stopping = True
        for respawn in self._respawns:
            respawn.cancel()
        await self._end_workers(hurry)
        await self._end_engine(holding)
        return not self._failed.is_set()

    # -- the engine -------------------------------------------------------------------------------------------------

    async def _hold(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._engine = await loop.run_in_executor(self._thread, self._engines.launch)
            except EngineUnavailable as error:
                log.exception("the engine did not start")
                if not self._generation:
                    log.critical("cannot serve: %s. `sluice doctor` may know why.", error)
                    self._failed.set()
                    return
            else:
                self._generation += 1
                log.info("the engine runs", extra={"fields": {"generation": self._generation}})
                if self._adapters is not None and (facts := self._engine.adapter_facts()) is not None:
                    self._adapters.account.started(facts)
                self._give_places()
                await self._watch(self._engine)
                await self._bury()
            delay = self._engine_failures.another()
            if delay is None:
                log.critical("the engine failed too often and stays down: restart when the cause is mended")
                self._refuse("the engine failed too often")
                return
            await asyncio.sleep(delay)

    async def _watch(self, engine: HeldEngine) -> None:
        while not engine.dead and self._broken < self._generation:  # noqa: ASYNC110 - processes tell nobody
            await asyncio.sleep(LOOK_SECONDS)

    async def _bury(self) -> None:
        log.error("the engine died: starting it anew")
        self._tell(EngineLost(self._generation))
        if self._adapters is not None:
            self._adapters.account.lost(EngineUnavailable("the engine died"))
        for forgetting in self._forgetting:
            forgetting.cancel()
        engine, self._engine = self._engine, None
        assert engine is not None
        engine.kill()
        await asyncio.get_running_loop().run_in_executor(self._thread, engine.close)

    def _give_places(self) -> None:
        for worker in self._workers:
            if worker.wants and self._engine is not None and self._broken < self._generation:
                self._give_place(worker, self._engine)

    def _give_place(self, worker: Worker, engine: HeldEngine) -> None:
        attachment = engine.place()
        if attachment is None:
            log.error("so many workers died that the engine has no place left for another")
            self._broken = self._generation
            return
        worker.wants = False
        worker.place = Place(self._generation, attachment)
        worker.send(worker.place)

    def _refuse(self, reason: str) -> None:
        self._refused = reason
        for worker in self._workers:
            if worker.wants:
                worker.wants = False
                worker.send(NoEngine(reason))

    async def _end_engine(self, holding: asyncio.Task[None]) -> None:
        while not holding.done():
            holding.cancel()
            self._engines.interrupt()
            await asyncio.wait({holding}, timeout=LOOK_SECONDS)
        loop = asyncio.get_running_loop()
        # A launch that was cancelled runs on in its thread, without its children not for long.
        idle = loop.run_in_executor(self._thread, lambda: None)
        while not idle.done():
            self._engines.interrupt()
            await asyncio.wait({idle}, timeout=LOOK_SECONDS)
        if self._engine is not None:
            await loop.run_in_executor(self._thread, self._engine.close)
        self._thread.shutdown(wait=False)

    # -- the workers ------------------------------------------------------------------------------------------------

    def _begin(self, index: int, *, late: bool) -> None:
        worker = self._start(index, late)
        self._workers.add(worker)
        asyncio.get_running_loop().add_reader(worker.connection.fileno(), self._hear, worker)

    def _hear(self, worker: Worker) -> None:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._died(worker)
            return
        match message:
            case PlaceWanted(broken):
                self._want_place(worker, broken)
            case Ready():
                worker.ready = True
                self._count_ready()
            case Asked(number, question) if self._adapters is not None:
                self._adapters.ask(worker, number, question, partial(worker.answer, number))
            case Withdrawn(numbers) if self._adapters is not None:
                self._adapters.withdraw(worker, numbers)
            case Order(number, act):
                self._order(worker, number, act)
            case Done(order, answer):
                self._heard(order, worker, answer)
            case ReloadWanted(number, cause):
                reloading = asyncio.create_task(self._reload_all(worker, number, cause), name="reload")
                self._reloading.add(reloading)
                reloading.add_done_callback(self._reloading.discard)
            case SumWanted(number):
                self._scrape(worker, number)
            case Counts(scrape, counted):
                self._total.told(worker.index, counted)
                self._heard(scrape, worker)

    def _want_place(self, worker: Worker, broken: int | None) -> None:
        if self._refused is not None:
            worker.send(NoEngine(self._refused))
            return
        worker.wants = True
        if broken is not None:
            # It saw what we may not have seen yet; one that cannot go on with its engine is as good as a dead engine.
            self._broken = max(self._broken, broken)
        self._give_places()

    def _count_ready(self) -> None:
        ready = len(self.serving())
        self._alive.set(ready)
        if ready == self._count and self._serving is not None:
            self._serving()
            self._serving = None

    def _died(self, worker: Worker) -> None:
        asyncio.get_running_loop().remove_reader(worker.connection.fileno())
        worker.connection.close()
        self._workers.discard(worker)
        status = _reaped(worker.process)
        self._total.died(worker.index)
        self._count_ready()
        for number in list(self._rounds):
            self._heard(number, worker)
        forgetting = asyncio.create_task(self._forget(worker), name=f"forget {worker.index}")
        self._forgetting.add(forgetting)
        forgetting.add_done_callback(self._forgetting.discard)
        if self._stopping:
            self._settle_end(status)
            return
        self._restarts.inc()
        log.error("a worker died", extra={"fields": {"worker": worker.index, "status": status}})
        respawn = asyncio.create_task(self._again(worker.index), name=f"worker {worker.index}")
        self._respawns.add(respawn)
        respawn.add_done_callback(self._respawns.discard)

    async def _forget(self, worker: Worker) -> None:
        """End in the engine what it left running; then, and not before, it holds no adapter any more."""
        place, engine, adapters = worker.place, self._engine, self._adapters
        if adapters is not None:
            adapters.hush(worker)
        try:
            if engine is not None and place is not None and place.generation == self._generation:
                await engine.forget_client(place.attachment.client)
                await asyncio.sleep(LAST_WORDS_SECONDS)
                await engine.forget_client(place.attachment.client)
        except EngineUnavailable:
            pass  # it has nothing running
        finally:
            if adapters is not None:
                adapters.leave(worker)

    async def _again(self, index: int) -> None:
        delay = self._worker_failures.another()
        if delay is None:
            log.critical("workers died too often")
            self._failed.set()
            return
        await asyncio.sleep(delay)
        self._begin(index, late=self._serving is None)

    async def _end_workers(self, hurry: asyncio.Event) -> None:
        self._tell(Stop(now=False))
        self._refuse("the process is stopping")
        if not self._workers:
            return
        gone = asyncio.create_task(self._gone.wait())
        hurrying = asyncio.create_task(hurry.wait())
        wait = partial(asyncio.wait, return_when=asyncio.FIRST_COMPLETED)
        await wait({gone, hurrying}, timeout=self._drain_timeout + END_SECONDS)
        if not gone.done():
            self._tell(Stop(now=True))
            if self._engine is not None:
                self._engine.kill()
            await wait({gone}, timeout=END_SECONDS)
        hurrying.cancel()
        gone.cancel()
        for worker in self._workers:
            log.error("a worker did not end in time: killing it", extra={"fields": {"worker": worker.index}})
            worker.process.kill()
            _reaped(worker.process)

    def _settle_end(self, status: int | None) -> None:
        if status:
            log.error("a worker did not end well", extra={"fields": {"status": status}})
        if not self._workers:
            self._gone.set()

    def _tell(self, message: object) -> None:
        for worker in self._workers:
            worker.send(message)

    # -- settings: see gateway.workers.renewal.Crew -----------------------------------------------------------------

    def obey(self, reload: Callable[[Cause], Awaitable[object]]) -> None:
        """What is done, and answered, when a worker wants the settings read anew."""
        self._reload = reload

    def serving(self) -> Collection[Worker]:
        """See :class:`gateway.workers.renewal.Crew`."""
        return {worker for worker in self._workers if worker.ready}

    def everybody(self) -> Collection[Worker]:
        """See :class:`gateway.workers.renewal.Crew`."""
        return set(self._workers)

    async def ask(self, workers: Collection[Worker], act: object) -> Mapping[Worker, object]:
        """See :class:`gateway.workers.renewal.Crew`."""
        answered: asyncio.Future[Mapping[Worker, object]] = asyncio.get_running_loop().create_future()

        def finish(said: Mapping[Worker, object]) -> None:
            if not answered.done():
                answered.set_result(said)

        self._ask_all(workers, partial(Told, act=act), ORDER_SECONDS, finish)
        return await answered

    def tell(self, workers: Collection[Worker], act: object) -> None:
        """See :class:`gateway.workers.renewal.Crew`."""
        for worker in workers:
            worker.send(Told(next(self._numbers), act))

    async def _reload_all(self, asker: Worker, number: int, cause: Cause) -> None:
        answer = None
        try:
            if self._reload is not None:
                answer = await self._reload(cause)
        except Exception:
            log.exception("the settings could not be read anew")
        asker.answer(number, answer)

    # -- what all are asked -----------------------------------------------------------------------------------------

    def _scrape(self, asker: Worker, number: int) -> None:
        def finish(_said: Mapping[Worker, object]) -> None:
            asker.answer(number, self._total.text(self._registry.collect()))

        self._ask_all(set(self._workers), CountsWanted, COUNT_SECONDS, finish)

    def _order(self, asker: Worker, number: int, act: object) -> None:
        others = {worker for worker in self.serving() if worker is not asker}

        def finish(said: Mapping[Worker, object]) -> None:
            asker.answer(number, list(said.values()))

        self._ask_all(others, partial(Told, act=act), ORDER_SECONDS, finish)

    def _ask_all(
        self,
        workers: Collection[Worker],
        message: Callable[[int], object],
        seconds: float,
        finish: Callable[[Mapping[Worker, object]], None],
    ) -> None:
        number = next(self._numbers)
        self._rounds[number] = _Round(set(workers), finish)
        for worker in workers:
            worker.send(message(number))
        if not workers:
            self._close(number)
            return
        asyncio.get_running_loop().call_later(seconds, self._close, number)

    def _heard(self, number: int, worker: Worker, *said: object) -> None:
        """``said``: nothing, if there is nothing to say or it died."""
        asked = self._rounds.get(number)
        if asked is None or worker not in asked.missing:
            return
        asked.missing.discard(worker)
        for answer in said:
            asked.said[worker] = answer
        if not asked.missing:
            self._close(number)

    def _close(self, number: int) -> None:
        if (asked := self._rounds.pop(number, None)) is not None:
            asked.finish(asked.said)


def _reaped(process: Popen[bytes]) -> int | None:
    """The exit status; its end of the line is closed, so it is ending."""
    try:
        return process.wait(5.0)
    except TimeoutExpired:
        process.kill()
        return process.wait(5.0)
