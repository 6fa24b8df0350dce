"""A server of images that means no good: what it does is chosen by the path. Real sockets, on any loopback address."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.pictures import picture

Writer = asyncio.StreamWriter
BOMB = gzip.compress(bytes(10_000_000))


@dataclass
class ImageServer:
    """``requests``: request lines and headers as they came. ``open``: connections that are open now."""

    port: int = 0
    requests: list[str] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    image: bytes = field(default_factory=picture)

    def paths(self) -> list[str]:
        return [request.split(" ")[1] for request in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        self.open += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.requests.append(head)
            await self._answer(head.split(" ")[1], writer, reader)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _answer(self, target: str, writer: Writer, reader: asyncio.StreamReader) -> None:
        url = urlsplit(target)
        manner = url.path.strip("/").split("/")[0].partition(".")[0]
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        answer: Callable[[Writer, dict[str, str]], Awaitable[None]] | None = getattr(self, f"_{manner}", None)
        if answer is None:
            await self._ok(writer, query)
        else:
            watch = asyncio.ensure_future(reader.read())
            work = asyncio.ensure_future(answer(writer, query))
            await asyncio.wait({watch, work}, return_when=asyncio.FIRST_COMPLETED)
            for task in (watch, work):
                task.cancel()
                with suppress(asyncio.CancelledError, ConnectionError):
                    await task

    async def _ok(self, writer: Writer, query: dict[str, str]) -> None:
        kind = query.get("type", "image/png")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(self.image)}\r\n\r\n"
        writer.write(head.encode() + self.image)

    async def _untyped(self, writer: Writer, query: dict[str, str]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + self.image)

    async def _silent(self, writer: Writer, query: dict[str, str]) -> None:
        await asyncio.sleep(60)

    async def _drip(self, writer: Writer, query: dict[str, str]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def _dripping_head(self, writer: Writer, query: dict[str, str]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-More: x\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)

    async def _endless(self, writer: Writer, query: dict[str, str]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async def _chunks(self, writer: Writer, query: dict[str, str]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()

    async def _boasting(self, writer: Writer, query: dict[str, str]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 99999999999\r\n\r\nx")
        await asyncio.sleep(60)

    async def _short(self, writer: Writer, query: dict[str, str]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 5000\r\n\r\n" + self.image)

    async def _modest(self, writer: Writer, query: dict[str, str]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 20\r\n\r\n" + self.image)

    async def _gzip(self, writer: Writer, query: dict[str, str]) -> None:
        body = BOMB
        head = "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Encoding: gzip\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async def _status(self, writer: Writer, query: dict[str, str]) -> None:
        writer.write(f"HTTP/1.1 {query['code']} So\r\nContent-Length: {len(self.image)}\r\n\r\n".encode() + self.image)

    async def _to(self, writer: Writer, query: dict[str, str]) -> None:
        code, to = query.get("code", "302"), unquote(query["url"])
        writer.write(f"HTTP/1.1 {code} Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode())

    async def _hops(self, writer: Writer, query: dict[str, str]) -> None:
        left = int(query["n"])
        to = f"/hops?n={left - 1}" if left > 1 else "/ok.png"
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode())

    async def _nonsense(self, writer: Writer, query: dict[str, str]) -> None:
        writer.write(b"\0\xff no HTTP at all\r\n\r\n")

    async def _large_head(self, writer: Writer, query: dict[str, str]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200_000 + b"\r\n" + self.image)


@asynccontextmanager
async def image_server(
    host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ImageServer]:
    """A server for the length of a block."""
    state = ImageServer()
    server = await asyncio.start_server(state.serve, host, port, ssl=tls, limit=2**20)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()


@asynccontextmanager
async def image_servers(*hosts: str) -> AsyncIterator[list[ImageServer]]:
    """One server on each of ``hosts``, all on the same port."""
    while True:
        async with AsyncExitStack() as stack:
            servers: list[ImageServer] = []
            try:
                for host in hosts:
                    port = servers[0].port if servers else 0
                    servers.append(await stack.enter_async_context(image_server(host, port)))
            except OSError:
                continue  # somebody else has this port on another address
            yield servers
            return
