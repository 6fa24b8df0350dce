"""The parent with an engine that is a few lines and workers that are real processes without a gateway."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from engine.attachment import Attachment
from engine.types import EngineUnavailable
from gateway.workers.supervisor import Failures, Patience, Supervisor, Worker

ROOT = Path(__file__).parents[3]
QUICK = Patience(first_delay=0.01, max_delay=0.05)


class Engine:
    def __init__(self, places: int) -> None:
        self.dead = False
        self.closed = False
        self.forgotten: list[int] = []
        self._places = iter(range(places))

    def place(self) -> Attachment | None:
        client = next(self._places, None)
        return None if client is None else Attachment({}, "", "", None, (), client, 2)

    async def forget_client(self, client: int) -> None:
        self.forgotten.append(client)

    def adapter_facts(self) -> None:
        """It takes none."""

    def close(self) -> None:
        self.closed = True

    def kill(self) -> None:
        self.dead = True


class Engines:
    def __init__(self, places: int = 10, fails: Callable[[int], bool] = lambda _number: False) -> None:
        self.made: list[Engine] = []
        self.tried = 0
        self._places = places
        self._fails = fails

    def launch(self) -> Engine:
        self.tried += 1
        if self._fails(self.tried):
            raise EngineUnavailable("no weights")
        self.made.append(Engine(self._places))
        return self.made[-1]

    def interrupt(self) -> None:
        """Nothing is ever under way for long."""


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not check():  # noqa: ASYNC110 - other processes tell nobody
            await asyncio.sleep(0.02)


class House:
    """A running parent."""

    def __init__(self, directory: Path, engines: Engines) -> None:
        self.directory = directory
        self.engines = engines
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.serving = asyncio.Event()
        self.drain, self.hurry = asyncio.Event(), asyncio.Event()
        self.late: list[bool] = []
        self.killed = 0
        self.parent = Supervisor(2, engines, self._start, self.serving.set, drain_timeout=30, patience=QUICK)
        self.end = asyncio.create_task(self.parent.run(self.drain, self.hurry))

    def _start(self, index: int, late: bool) -> Worker:
        self.late.append(late)
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "tests.support.fake_worker", str(theirs.fileno()), str(index)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self.processes[index] = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], cwd=self.directory, env=environment
            )
        return Worker(index, self.processes[index], Connection(ours.detach()))

    def notes(self, index: int) -> str:
        file = self.directory / f"worker-{index}.txt"
        return file.read_text() if file.exists() else ""

    async def noted(self, index: int, text: str) -> None:
        await until(lambda: text in self.notes(index))

    async def is_serving(self) -> None:
        async with asyncio.timeout(120):
            await self.serving.wait()

    async def stop(self) -> bool:
        self.drain.set()
        async with asyncio.timeout(120):
            return await self.end


async def test_a_dead_worker_is_replaced_and_what_it_ran_is_forgotten(tmp_path: Path) -> None:
    house = House(tmp_path, Engines())
    await house.is_serving()
    dead = house.processes[1]
    client = int(house.notes(1).split()[-1])
    os.kill(dead.pid, signal.SIGKILL)
    await house.noted(1, "place 1 2")
    # Its last words may be heard after the first time.
    await until(lambda: house.engines.made[0].forgotten == [client, client])
    assert house.late == [False, False, True]
    assert await house.stop()
    assert len(house.engines.made) == 1
    assert house.engines.made[0].closed
    assert all(process.poll() == 0 for process in house.processes.values())


async def test_a_dead_engine_is_replaced_for_all(tmp_path: Path) -> None:
    house = House(tmp_path, Engines())
    await house.is_serving()
    house.engines.made[0].dead = True
    for index in (0, 1):
        await house.noted(index, "lost 1")
        await house.noted(index, "place 2")
    assert house.engines.made[0].closed
    assert await house.stop()


async def test_without_a_place_the_engine_is_started_anew(tmp_path: Path) -> None:
    house = House(tmp_path, Engines(places=2))
    await house.is_serving()
    os.kill(house.processes[0].pid, signal.SIGKILL)
    await house.noted(0, "place 2")
    await house.noted(1, "place 2")
    assert await house.stop()


async def test_an_engine_that_never_starts_ends_it(tmp_path: Path) -> None:
    house = House(tmp_path, Engines(fails=lambda _number: True))
    async with asyncio.timeout(120):
        assert not await house.end
    assert house.engines.tried == 1


async def test_an_engine_that_fails_too_often_stays_down(tmp_path: Path) -> None:
    house = House(tmp_path, Engines(fails=lambda number: number > 1))
    await house.is_serving()
    house.engines.made[0].dead = True
    await house.noted(0, "none the engine failed too often")
    assert house.engines.tried == 5
    assert not house.end.done()
    assert await house.stop()


async def test_workers_that_die_too_often_end_it(tmp_path: Path) -> None:
    house = House(tmp_path, Engines(places=100))
    await house.is_serving()
    for _ in range(5):
        house.killed = house.processes[0].pid
        os.kill(house.killed, signal.SIGKILL)
        await until(lambda: house.end.done() or house.processes[0].pid != house.killed)
    async with asyncio.timeout(120):
        assert not await house.end


def test_patience_ends_and_returns() -> None:
    now = 0.0
    failures = Failures(Patience(first_delay=1, max_delay=3, give_up_after=4, window=100), lambda: now)
    assert [failures.another() for _ in range(4)] == [1, 2, 3, None]
    now = 200.0
    assert failures.another() == pytest.approx(1)
