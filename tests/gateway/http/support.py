"""A server in this process, a client that sends exactly the bytes it is given, and small applications."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from gateway.http.bounds import HttpBounds
from gateway.http.server import HttpServer
from gateway.http.shared import AsgiApp

# Only to tell a hang from an answer; nothing is timed by it.
HANG = 20.0

# Small times, so that what waits for a timeout does not wait long.
QUICK = HttpBounds(
    header_timeout=0.3,
    idle_timeout=0.5,
    body_timeout=1.5,
    body_grace=0.3,
    write_stall_timeout=0.4,
    linger_timeout=0.3,
    sweep_interval=0.05,
)

GET = b"GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n"


def post(body: bytes, *, path: bytes = b"/echo", extra: bytes = b"") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + length + extra + b"\r\n" + body


def chunked(body: bytes, *, path: bytes = b"/echo") -> bytes:
    """A POST whose chunked body is given raw, chunk lines and all."""
    return b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + body


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, (name, values)
        return values[0] if values else None

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


class RawClient:
    """One TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def send_in_pieces(self, data: bytes, size: int, *, pause: float = 0.0) -> None:
        for start in range(0, len(data), size):
            self.send(data[start : start + size])
            await asyncio.sleep(pause)

    async def rest(self) -> bytes:
        """Everything until the server closes. A reset fails the test."""
        return await asyncio.wait_for(self.reader.read(), HANG)

    async def answer(self, *, head_only: bool = False) -> Answer:
        """The next response, parsed by its own framing."""
        return await asyncio.wait_for(self._answer(head_only), HANG)

    async def closed(self) -> bool:
        """Whether the server ends the connection without another byte, by FIN or RST."""
        try:
            return await self.rest() == b""
        except ConnectionError:
            return True

    def reset(self) -> None:
        """Leave with an RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def leave(self) -> None:
        """Leave with a FIN."""
        self.writer.close()

    async def _answer(self, head_only: bool) -> Answer:
        raw = await self.reader.readuntil(b"\r\n\r\n")
        line, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1"
        pairs = [(key, value.strip()) for key, _, value in (text.partition(":") for text in lines)]
        answer = Answer(int(status), pairs, b"")
        if not head_only and answer.status not in (100, 204, 304):
            answer.body = await self._body(answer)
        return answer

    async def _body(self, answer: Answer) -> bytes:
        if answer.header("transfer-encoding") == "chunked":
            assert answer.header("content-length") is None
            return await self._chunks()
        length = answer.header("content-length")
        return await self.reader.readexactly(int(length)) if length is not None else await self.reader.read()

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        assert await self.reader.readexactly(2) == b"\r\n"
        return body


@dataclass
class Seen:
    """What an application saw."""

    scopes: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    disconnects: int = 0


def echo(seen: Seen) -> AsgiApp:
    """Answers with what it read; notes requests whose body never came as disconnects."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.scopes.append(scope)
        body = await read_body(receive)
        if body is None:
            seen.disconnects += 1
            return
        seen.bodies.append(body)
        answer = b"%b %b %d" % (scope["method"].encode(), scope["raw_path"], len(body))
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return app


async def read_body(receive: Any) -> bytes | None:
    """The whole body, or None if the peer went first."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)


@dataclass
class Front:
    """A running server, its rejections by code, and connections to it that end with the test."""

    server: HttpServer
    port: int
    rejected: Counter[str]
    faults: list[dict[str, Any]]

    async def connect(self, *, receive_buffer: int | None = None) -> RawClient:
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        limit = 65_536 if receive_buffer is None else receive_buffer
        return RawClient(*await asyncio.open_connection(sock=sock, limit=limit))

    async def exchange(self, data: bytes) -> bytes:
        """Send on a new connection and read until the server closes it."""
        client = await self.connect()
        client.send(data)
        return await client.rest()

    async def ask(self, data: bytes) -> Answer:
        """Send on a new connection and read one response."""
        client = await self.connect()
        client.send(data)
        answer = await client.answer()
        client.leave()
        return answer


@asynccontextmanager
async def serving(app: AsgiApp, bounds: HttpBounds = QUICK) -> AsyncIterator[Front]:
    """Serve on a free loopback port. An exception in a callback of the front fails the test."""
    rejected: Counter[str] = Counter()
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    server = HttpServer(app, bounds, on_reject=lambda code: rejected.update([code]))
    front = Front(server, await server.start("127.0.0.1", 0), rejected, faults)
    try:
        yield front
    finally:
        await server.stop()
        await until(lambda: server.connections == 0 and server.running == 0)
    assert not faults


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that must become true."""

    async def poll() -> None:
        while not condition():  # noqa: ASYNC110 - the condition is any of many, none of which can tell
            await asyncio.sleep(0.01)

    await asyncio.wait_for(poll(), HANG)
