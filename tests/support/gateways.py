"""Whole gateways for tests: real sockets, real front, over the stub engine or over vLLM."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from engine.types import Engine
from gateway.access.secret import DeploymentSecret
from gateway.app import create_app
from gateway.lifecycle import Gateway
from gateway.observability.logs import AccessEntry, AccessLog
from gateway.observability.metrics import Metrics
from gateway.settings import Settings, load
from gateway.store.opened import Store
from gateway.usage.ledger import MemoryLedger

KEY = "sk-test-0123456789abcdef"
SECRET = DeploymentSecret("the secret of the tests, 32 characters")

T = TypeVar("T")


class RecordedAccessLog(AccessLog):
    """Keeps the lines instead of writing them."""

    def __init__(self) -> None:
        self.entries: list[AccessEntry] = []

    def record(self, entry: AccessEntry) -> None:
        self.entries.append(entry)


@dataclass(frozen=True, slots=True)
class Live:
    """A gateway that listens on loopback, and everything a test may look into."""

    gateway: Gateway
    engine: Any
    settings: Settings
    ledger: MemoryLedger
    access_log: RecordedAccessLog
    metrics: Metrics
    port: int
    key: str = KEY
    store: Store | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def metric(self, name: str, /, **labels: str) -> float:
        """The value of one of our samples; 0 if it was never touched."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


async def start(engine: Engine, /, state_dir: Path, **flags: Any) -> Live:
    """Start a gateway on a free port of this event loop; ready when this returns."""
    live = await listen(engine, state_dir, **flags)
    await live.gateway.start_engine()
    return live


async def listen(
    engine: Engine, /, state_dir: Path, *, with_store: bool = False, config: Path | None = None, **flags: Any
) -> Live:
    """As :func:`start`, but the engine is still to be started."""
    given = {"port": 0, "api_key": KEY, "state_dir": state_dir, **flags}
    settings = load(config, given)
    store = Store.open(settings, SECRET) if with_store else None
    ledger, access_log, metrics = MemoryLedger(), RecordedAccessLog(), Metrics()
    gateway = create_app(
        settings,
        engine,
        secret=SECRET,
        ledger=ledger,
        access_log=access_log,
        metrics=metrics,
        store=store,
        read=lambda: load(config, given),
        files=[config] if config else [],
    )
    port = await gateway.listen()
    return Live(gateway, engine, settings, ledger, access_log, metrics, port, store=store)


@asynccontextmanager
async def running(engine: Engine, /, state_dir: Path, **flags: Any) -> AsyncIterator[Live]:
    """A gateway for the length of a block, on this event loop."""
    live = await start(engine, state_dir, **flags)
    try:
        yield live
    finally:
        await live.gateway.stop()
        if live.store is not None:
            live.store.close(5.0)


class Borrowed:
    """The session's engine for one more gateway, which does not own it."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class LoopThread:
    """An event loop of its own thread, as the real process has it, so that slow tests do not hold it up."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="gateway-under-test", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 120.0) -> T:
        """Run ``work`` there and wait for it here."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10.0)


@dataclass(frozen=True, slots=True)
class Threaded:
    """A live gateway on a loop thread."""

    live: Live
    thread: LoopThread

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 120.0) -> T:
        return self.thread.run(work, timeout)


@contextmanager
def threaded(build: Callable[[], Engine], state_dir: Path, **flags: Any) -> Iterator[Threaded]:
    """A gateway on a thread of its own for the length of a block; ``build`` is called on that thread's loop."""
    thread = LoopThread()

    async def begin() -> Live:
        return await start(build(), state_dir, **flags)

    try:
        live = thread.run(begin(), timeout=600)
        try:
            yield Threaded(live, thread)
        finally:
            thread.run(live.gateway.stop())
    finally:
        thread.close()


async def eventually(check: Callable[[], bool] | Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    """Wait until ``check`` holds; AssertionError if it does not within ``seconds``."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        result = check()
        if await result if isinstance(result, Awaitable) else result:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError("it did not come to pass")
        await asyncio.sleep(0.01)
