"""L7, L8: ten thousand connections that do nothing, and thousands that come and go."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from time import perf_counter
from typing import Final

from loadtest.answers import read_stream
from loadtest.client import Recording, Target
from loadtest.figures import percentile
from loadtest.goals.books import GONE, saw
from loadtest.goals.goal import Figure, Goal, Run, at_most, told
from loadtest.goals.load import ask_times, run
from loadtest.goals.servers import Server, stub
from loadtest.goals.stubbed import books
from loadtest.goals.watch import held
from loadtest.workload import chat

IDLE: Final = 10_000
SINGLES: Final = 400
TOKENS: Final = 4
CHURN_PER_SECOND: Final = 1000
STEP_SECONDS: Final = 0.005
SETTLE_SECONDS: Final = 10.0
#: RST instead of FIN, so that no port waits.
_RESET: Final = struct.pack("ii", 1, 0)


def idle(limits: Run) -> Sequence[Figure]:
    """L7: one stream after the other, alone and beside idle connections. The stub answers at once: all is overhead."""
    with stub(limits.directory, {"http": {"idle_timeout": 600}}) as server:
        _singles(server, SINGLES)
        alone, before = _singles(server, SINGLES), held(server.front)
        opened = run(_open(server.target, IDLE))
        try:
            connected = held(server.front)
            beside = _singles(server, SINGLES)
        finally:
            for each in opened:
                each.close()
    return [
        told("idle connections", len(opened)),
        told("files open, more than before", connected.fds - before.fds),
        at_most("resident memory, more than before", connected.rss_mib - before.rss_mib, 300, "MiB"),
        told("TTFT p50 alone", percentile(alone, 0.5) * 1e3, "ms"),
        told("TTFT p99 alone", percentile(alone, 0.99) * 1e3, "ms"),
        at_most("TTFT p99 beside them, of that", percentile(beside, 0.99) / percentile(alone, 0.99), 2.0),
        *books(server),
    ]


def _singles(server: Server, times: int) -> list[float]:
    recordings: list[Recording] = []
    request = chat(server.target, tokens=TOKENS, stream=True)
    run(ask_times(server.target, request, 1, times, recordings.append))
    server.saws += map(saw, recordings)
    return [read_stream(each, tokens=TOKENS).ttft for each in recordings]


async def _open(target: Target, count: int) -> list[socket.socket]:
    """So many connected sockets on which nothing is sent."""
    loop = asyncio.get_running_loop()
    opened: list[socket.socket] = []
    for _ in range(count):
        one = socket.socket()
        one.setblocking(False)
        await loop.sock_connect(one, (target.host, target.port))
        opened.append(one)
    return opened


def churn(limits: Run) -> Sequence[Figure]:
    """L8: connections that are reset at once, in the middle of a head, and in the middle of an answer, in turn."""
    with stub(limits.directory, step=STEP_SECONDS) as server:
        _singles(server, 50)
        before = held(server.front)
        request = chat(server.target, tokens=200, stream=True)
        parts = (b"", request[:40], request[:-10], request)
        began = perf_counter()
        count = run(_churn(server.target, parts, began + limits.seconds))
        seconds = perf_counter() - began
        server.saws += [GONE] * (count // len(parts) + 1)
        time.sleep(SETTLE_SECONDS)
        after = held(server.front)
        left = server.metric("sluice_requests_in_flight") + server.metric("sluice_connections")
        _singles(server, 50)
    return [
        told("connections that came and went", count),
        told("per second", count / seconds),
        at_most("files open ten seconds later, more than before", after.fds - before.fds, 4),
        at_most("threads, more than before", after.threads - before.threads, 16),
        # The scrape has a connection of its own.
        at_most("requests and connections left", left, 1),
        told("resident memory, more than before", after.rss_mib - before.rss_mib, "MiB"),
        *books(server),
    ]


async def _churn(target: Target, parts: Sequence[bytes], until: float) -> int:
    began, number = perf_counter(), 0
    going: set[asyncio.Task[None]] = set()
    while (now := perf_counter()) < until:
        due = began + number / CHURN_PER_SECOND
        if due > now:
            await asyncio.sleep(due - now)
            continue
        task = asyncio.ensure_future(_come_and_go(target, parts[number % len(parts)]))
        going.add(task)
        task.add_done_callback(going.discard)
        number += 1
    await asyncio.gather(*going)
    return number


async def _come_and_go(target: Target, what: bytes) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as one:
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        with suppress(OSError):
            await loop.sock_connect(one, (target.host, target.port))
            if what:
                await loop.sock_sendall(one, what)
                await asyncio.sleep(0.02)


GOALS: Final = (
    Goal("L7", "ten thousand idle connections", idle),
    Goal("L8", "connections that come and go, a thousand a second", churn),
)
