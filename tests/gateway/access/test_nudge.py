from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.access import nudge
from gateway.access.nudge import Nudges
from tests.support.stores import until

pytestmark = pytest.mark.slow


class RedisProcess:
    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        binary = shutil.which("redis-server")
        assert binary, "redis-server is not installed: run scripts/test-services.sh"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None


@pytest.fixture
def redis_process(tmp_path: Path) -> Iterator[RedisProcess]:
    process = RedisProcess(tmp_path)
    process.start()
    yield process
    process.stop()


class Nudged:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@asynccontextmanager
async def listening(port: int, namespace: str = "test") -> AsyncIterator[tuple[Nudges, Nudged]]:
    nudged = Nudged()
    nudges = Nudges(lambda: Redis(host="127.0.0.1", port=port, socket_connect_timeout=1.0), namespace, "keys", nudged)
    nudges.start()
    try:
        yield nudges, nudged
    finally:
        await nudges.stop()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nudge, "FIRST_BACKOFF", 0.02)
    monkeypatch.setattr(nudge, "MAX_BACKOFF", 0.1)
    monkeypatch.setattr(nudge, "PUBLISH_SECONDS", 0.5)
    monkeypatch.setattr(nudge, "_PING_SECONDS", 0.3)


async def test_a_change_reaches_every_other_replica(redis_process: RedisProcess) -> None:
    async with listening(redis_process.port) as (one, heard_by_one), listening(redis_process.port) as (other, heard):
        await until(lambda: one.listening and other.listening)
        # Whatever happened before they listened is looked for once.
        assert (heard_by_one.count, heard.count) == (1, 1)
        assert await one.publish()
        await until(lambda: (heard_by_one.count, heard.count) == (2, 2))


async def test_namespaces_do_not_hear_each_other(redis_process: RedisProcess) -> None:
    async with listening(redis_process.port, "a") as (a, heard_a), listening(redis_process.port, "b") as (b, heard_b):
        await until(lambda: a.listening and b.listening)
        await a.publish()
        await until(lambda: heard_a.count == 2)
        assert heard_b.count == 1


async def test_redis_killed_and_started_again(redis_process: RedisProcess, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="sluice.keys")
    async with listening(redis_process.port) as (nudges, nudged):
        await until(lambda: nudges.listening)
        redis_process.stop()
        await until(lambda: not nudges.listening)
        assert not await nudges.publish()
        redis_process.start()
        await until(lambda: nudges.listening)
        # What was missed meanwhile is looked for.
        assert nudged.count == 2
        assert await nudges.publish()
        await until(lambda: nudged.count == 3)
    states = [record.getMessage().partition(":")[0] for record in caplog.records if record.levelname != "DEBUG"]
    arrive, silent = "nudges of other replicas arrive", "nudges of other replicas do not arrive"
    assert states == [arrive, silent, arrive]


async def test_redis_frozen(redis_process: RedisProcess) -> None:
    async with listening(redis_process.port) as (nudges, nudged):
        await until(lambda: nudges.listening)
        os.kill(redis_process.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(30):
                assert not await nudges.publish()
            await until(lambda: not nudges.listening)
        finally:
            os.kill(redis_process.pid, signal.SIGCONT)
        await until(lambda: nudges.listening)
        before = nudged.count
        assert await nudges.publish()
        await until(lambda: nudged.count > before)


async def test_an_idle_channel_stays_open(redis_process: RedisProcess) -> None:
    async with listening(redis_process.port) as (nudges, nudged):
        await until(lambda: nudges.listening)
        await asyncio.sleep(4 * nudge._PING_SECONDS)
        assert nudges.listening
        assert nudged.count == 1


async def test_without_redis_it_starts_and_stops() -> None:
    async with listening(1) as (nudges, nudged):
        assert not await nudges.publish()
        assert nudged.count == 0


async def test_it_stops_though_a_cancellation_was_taken_for_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    async def deaf(_self: Nudges) -> None:
        nonlocal taken
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            taken += 1
            if taken > 1:
                raise

    monkeypatch.setattr(Nudges, "_hear", deaf)
    async with listening(1):
        await asyncio.sleep(0.01)
    assert taken == 2
