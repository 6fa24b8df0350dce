"""Keep-alive HTTP/1.1 clients that do next to nothing while the clock runs.

The generator shares the cores with what it measures. During a run it therefore only stamps and stores what arrives;
:mod:`loadtest.answers` reads and checks the recordings afterwards. One request is in flight per connection.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter, process_time
from typing import Any, cast

import uvloop

_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_CHUNKED = -1


@dataclass(slots=True)
class Recording:
    """One exchange. Times are ``perf_counter`` seconds; ``marks`` are (arrival, length of ``raw`` after it)."""

    sent: float
    raw: bytearray = field(default_factory=bytearray)
    marks: list[tuple[float, int]] = field(default_factory=list)

    @property
    def finished(self) -> float:
        return self.marks[-1][0]


@dataclass(frozen=True, slots=True)
class Window:
    """What was exchanged within ``seconds``; ``cpu_seconds`` is what the generator itself spent meanwhile."""

    seconds: float
    cpu_seconds: float
    recordings: list[Recording]


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send requests, and as whom."""

    port: int
    api_key: str
    model: str = ""
    host: str = "127.0.0.1"

    def post(self, path: str, body: Mapping[str, Any]) -> bytes:
        """The bytes of a JSON POST."""
        payload = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nAuthorization: Bearer {self.api_key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        return head.encode("ascii") + payload

    def get(self, path: str) -> bytes:
        """The bytes of a GET."""
        return (
            f"GET {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nAuthorization: Bearer {self.api_key}\r\n\r\n"
        ).encode("ascii")


class Connection(asyncio.Protocol):
    """One keep-alive connection; one request in flight."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._recording: Recording
        self._answered: asyncio.Future[Recording] | None = None
        self._length: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, not the class.
        self._transport = cast(asyncio.Transport, transport)

    def exchange(self, request: bytes) -> asyncio.Future[Recording]:
        """Send ``request``; resolves when the whole answer has arrived, or with ``ConnectionError``."""
        if self._transport.is_closing():
            raise ConnectionError("the server closed a connection that was to be kept")
        self._length = None
        self._answered = asyncio.get_running_loop().create_future()
        self._recording = Recording(perf_counter())
        self._transport.write(request)
        return self._answered

    def data_received(self, data: bytes) -> None:
        recording = self._recording
        recording.raw += data
        recording.marks.append((perf_counter(), len(recording.raw)))
        if self._complete(recording.raw) and self._answered is not None and not self._answered.done():
            self._answered.set_result(recording)

    def _complete(self, raw: bytearray) -> bool:
        if self._length is None:
            self._length = _announced_length(raw)
        if self._length == _CHUNKED:
            # SSE and JSON as servers write them hold no CR, so these bytes can only be the end of the body.
            return raw.endswith(_LAST_CHUNK)
        return self._length is not None and len(raw) >= self._length

    def connection_lost(self, _error: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            seen = bytes(self._recording.raw[-200:])
            self._answered.set_exception(ConnectionError(f"closed in the middle of an answer: ...{seen!r}"))

    @property
    def is_open(self) -> bool:
        """Whether another request may be sent."""
        return not self._transport.is_closing()

    def close(self) -> None:
        self._transport.close()


def _announced_length(raw: bytearray) -> int | None:
    """Length of the whole answer in bytes; ``_CHUNKED`` when only its end tells, None while the head is incomplete."""
    end = raw.find(_HEAD_END)
    if end < 0:
        return None
    head = raw[:end].lower()
    if b"\r\ntransfer-encoding: chunked" in head:
        return _CHUNKED
    for line in head.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return end + len(_HEAD_END) + int(line[15:])
    return sys.maxsize  # ends with its connection, which is an error for a client that keeps it


@contextmanager
def without_collector() -> Iterator[None]:
    """The garbage collector does not run while the clock does."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def open_connections(target: Target, count: int) -> list[Connection]:
    """``count`` keep-alive connections."""
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(Connection, target.host, target.port))[1] for _ in range(count)]


async def _repeat(connection: Connection, request: bytes, times: int) -> list[Recording]:
    return [await connection.exchange(request) for _ in range(times)]


async def _run(target: Target, request: bytes, connections: int, each: int, limit: float) -> Window:
    opened = await open_connections(target, connections)
    try:
        async with asyncio.timeout(limit):
            started, cpu = perf_counter(), process_time()
            answered = await asyncio.gather(*(_repeat(connection, request, each) for connection in opened))
            seconds, cpu_seconds = perf_counter() - started, process_time() - cpu
    finally:
        for connection in opened:
            connection.close()
    return Window(seconds, cpu_seconds, [recording for recordings in answered for recording in recordings])


def run_load(target: Target, request: bytes, *, connections: int, each: int, timeout: float = 120.0) -> Window:
    """Send ``request`` ``each`` times, one after the other, on every one of ``connections``.

    Connections are opened before the clock starts. Raises ``ConnectionError`` when the server hangs up and
    ``TimeoutError`` after ``timeout`` seconds.
    """
    with without_collector():
        window: Window = uvloop.run(_run(target, request, connections, each, timeout))
    return window
