"""Kinds of load on one server: callers that ask again and again, and callers that do not wait for an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any, Final, TypeVar

import uvloop

from loadtest.client import Connection, Recording, Target, open_connections, without_collector

Take = Callable[[Recording], None]
Result = TypeVar("Result")
#: What a request may take before the run is given up.
PATIENCE_SECONDS: Final = 120.0


def run(load: Coroutine[Any, Any, Result]) -> Result:
    """Put a load on, with the generator's garbage collector off."""
    with without_collector():
        result: Result = uvloop.run(load)
        return result


async def ask_again(target: Target, request: bytes, connections: int, until: float, take: Take) -> None:
    """``connections`` callers send ``request`` one after the other, once at least, until ``perf_counter`` says so."""
    opened = await open_connections(target, connections)
    try:
        await asyncio.gather(*(_asking(connection, request, until, take) for connection in opened))
    finally:
        _close(opened)


async def _asking(connection: Connection, request: bytes, until: float, take: Take) -> None:
    while True:
        async with asyncio.timeout(PATIENCE_SECONDS):
            take(await connection.exchange(request))
        if perf_counter() >= until:
            return


async def ask_times(target: Target, request: bytes, connections: int, total: int, take: Take) -> None:
    """``total`` requests over ``connections`` callers."""
    opened = await open_connections(target, connections)
    left = iter(range(total))
    try:
        await asyncio.gather(*(_taking_turns(connection, request, left, take) for connection in opened))
    finally:
        _close(opened)


async def _taking_turns(connection: Connection, request: bytes, left: Any, take: Take) -> None:
    for _ in left:
        async with asyncio.timeout(PATIENCE_SECONDS):
            take(await connection.exchange(request))


class OpenLoop:
    """Requests at a rate, whether or not those before them are answered; an idle connection is used again."""

    def __init__(self, target: Target, take: Take) -> None:
        self._target = target
        self._take = take
        self._idle: list[Connection] = []
        self._asking: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self.behind = 0.0

    async def send(self, requests: Callable[[int], bytes], per_second: float, until: float) -> None:
        """Send ``requests(number)`` until then, and wait for all the answers. ``behind``: how late it ever was.

        Raises the first failure of a request.
        """
        began, number = perf_counter(), 0
        while (now := perf_counter()) < until:
            due = began + number / per_second
            if due > now:
                await asyncio.sleep(due - now)
                continue
            self.behind = max(self.behind, now - due)
            self._start(requests(number))
            number += 1
            await asyncio.sleep(0)  # who is behind must let what was started run all the same
        await asyncio.gather(*self._asking, return_exceptions=True)
        _close(self._idle)
        for error in self._errors:
            raise error

    def _start(self, request: bytes) -> None:
        task = asyncio.ensure_future(self._ask(request))
        self._asking.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._errors.append(error)

    async def _ask(self, request: bytes) -> None:
        connection = self._idle.pop() if self._idle else (await open_connections(self._target, 1))[0]
        async with asyncio.timeout(PATIENCE_SECONDS):
            recording = await connection.exchange(request)
        self._take(recording)
        if connection.is_open:
            self._idle.append(connection)


async def every(seconds: float, until: float, look: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """``look`` again and again until then."""
    while perf_counter() < until:
        await look()
        await asyncio.sleep(seconds)


async def ask_once(target: Target, request: bytes) -> Recording:
    """One request on a connection of its own."""
    (connection,) = await open_connections(target, 1)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await connection.exchange(request)
    finally:
        connection.close()


def _close(connections: list[Connection]) -> None:
    for connection in connections:
        connection.close()
