"""Several processes on one Redis: exactly one limit, whatever happens to one of them or to Redis."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.access.principal import ALL_SCOPES, Principal
from gateway.errors import ApiError
from gateway.limits.build import build_limits
from gateway.limits.quota import Quota
from gateway.limits.reserve import Demand, Lease, LimitClass
from gateway.observability.metrics import Metrics
from gateway.settings import load
from tests.support.limit_checker import Attempt, check, over_limit
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path).start()
    try:
        yield server
    finally:
        server.kill()


def demand(name: str, quota: Quota, tokens: int = 1) -> Demand:
    who = Principal("shared", ALL_SCOPES, quota=quota)
    return Demand(name, who, "203.0.113.1", LimitClass.GENERATION, "m", tokens, "messages")


async def attempts_of(url: str, name: str, quota: Quota, count: int, at_once: int, **limits: Any) -> list[Attempt]:
    """``count`` attempts of one process, ``at_once`` at a time; nothing is settled."""
    limiter = build_limits(load(flags={"redis_url": url, "limits": {"redis_timeout": 30.0, **limits}}), Metrics())
    await limiter.start()
    numbers = iter(range(count))
    history: list[Attempt] = []

    async def work() -> None:
        for number in numbers:
            begun = time.time()
            try:
                await limiter.reserve(demand(f"{name}-{number}", quota))
                granted = True
            except ApiError as error:
                assert error.status == 429, error  # noqa: PT017
                granted = False
            history.append(Attempt(begun, time.time(), 1, granted))

    await asyncio.gather(*(work() for _ in range(at_once)))
    await limiter.stop()
    return history


def run_process(url: str, name: str, quota: Quota, count: int) -> subprocess.Popen[str]:
    code = f"""
import asyncio, json
from tests.faults.test_shared_limits import attempts_of, Quota
history = asyncio.run(attempts_of({url!r}, {name!r}, Quota(**{quota.as_dict()!r}), {count}, 64))
print(json.dumps([(each.begun, each.ended, each.granted) for each in history]))
"""
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.timeout(400)
def test_a_hundred_thousand_attempts_of_four_processes_never_one_too_many_and_none_lost(redis: RedisServer) -> None:
    quota, limit, each = Quota(tokens_per_day=40_000), 40_000, 25_000
    processes = [run_process(redis.url, f"p{number}", quota, each) for number in range(4)]
    histories = [json.loads(process.communicate(timeout=380)[0]) for process in processes]
    granted = [sum(1 for *_, ok in history if ok) for history in histories]
    assert [len(history) for history in histories] == [each] * 4
    assert sum(granted) == limit
    assert all(granted), "a replica got nothing"


async def test_a_history_over_windows_holds_both_laws(redis: RedisServer) -> None:
    """Two replicas for more than one window's length, of a window that is short enough to wait for: 60 s."""
    quota = Quota(requests_per_minute=300)
    began = time.time()
    history: list[Attempt] = []
    for turn in range(8):
        found = await asyncio.gather(*(attempts_of(redis.url, f"{turn}-{name}", quota, 60, 8) for name in ("a", "b")))
        history += [attempt for part in found for attempt in part]
        await asyncio.sleep(max(0.0, began + (turn + 1) * 9 - time.time()))
    assert check(history, limit=300, window=60.0) == []
    assert any(attempt.granted is False for attempt in history)
    assert any(attempt.granted and attempt.begun > began + 61 for attempt in history)


HOLDER = """
import asyncio, sys
from tests.faults.test_shared_limits import *
async def hold():
    limits = {"redis_timeout": 30.0, "lease_seconds": float(sys.argv[2])}
    limiter = build_limits(load(flags={"redis_url": sys.argv[1], "limits": limits}), Metrics())
    await limiter.start()
    for number in range(50):
        await limiter.reserve(demand(f"held-{number}", Quota(concurrent=50)))
    print("held", flush=True)
    await asyncio.sleep(600)
asyncio.run(hold())
"""


def start_holder(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", HOLDER, url, "2"], cwd=ROOT, stdout=subprocess.PIPE, text=True)


async def test_leases_of_a_killed_process_come_back_and_those_of_a_living_one_stay(redis: RedisServer) -> None:
    holder = start_holder(redis.url)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        flags: dict[str, Any] = {"redis_url": redis.url, "limits": {"redis_timeout": 30.0, "lease_seconds": 2.0}}
        limiter = build_limits(load(flags=flags), Metrics())
        await limiter.start()

        async def one_more(name: str) -> Lease | None:
            try:
                return await limiter.reserve(demand(name, Quota(concurrent=50)))
            except ApiError as error:
                assert error.code == "concurrency_limit_exceeded"  # noqa: PT017
                return None

        # Twice the length of a lease: they are renewed for as long as their process lives.
        for turn in range(8):
            assert await one_more(f"early-{turn}") is None
            await asyncio.sleep(0.5)
        os.kill(holder.pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while (lease := await one_more(f"late-{time.monotonic()}")) is None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        lease.settle(0)
        await limiter.stop()
    finally:
        holder.kill()
        holder.wait()


async def test_histories_while_redis_is_killed_and_frozen_stay_within_the_declared_slack(redis: RedisServer) -> None:
    """Two replicas, a share of half each; what their shares exceed their own use by at each cut is the slack."""
    quota, replicas = Quota(requests_per_minute=400), 2
    flags: dict[str, Any] = {"redis_url": redis.url, "limits": {"replicas": replicas}}
    limiters = [build_limits(load(flags=flags), Metrics()) for _ in range(replicas)]
    for limiter in limiters:
        await limiter.start()
    history: list[Attempt] = []
    running = True

    async def work(index: int, worker: int) -> None:
        number = 0
        while running:
            begun = time.time()
            number += 1
            granted: bool | None = None
            try:
                (await limiters[index].reserve(demand(f"w{index}-{worker}-{number}", quota))).settle(1)
                granted = True
            except ApiError as error:
                assert error.status == 429  # noqa: PT017
                granted = False
            history.append(Attempt(begun, time.time(), 1, granted))
            await asyncio.sleep(0.02)

    tasks = [asyncio.ensure_future(work(index, worker)) for index in range(replicas) for worker in range(3)]
    await asyncio.sleep(0.4)
    redis.freeze()
    await asyncio.sleep(3)
    redis.thaw()
    await asyncio.sleep(3)
    redis.kill()
    await asyncio.sleep(3)
    redis.start()
    await asyncio.sleep(4)
    running = False
    await asyncio.gather(*tasks)
    for limiter in limiters:
        assert limiter.degraded() == ()
        await limiter.stop()
    # The slack: at the first cut what the shares exceed their own use by; a restarted Redis knows of nothing before.
    assert list(over_limit(history, limit=400, window=60.0, slack=2 * 400)) == []
    assert sum(1 for attempt in history if attempt.granted) >= 400
