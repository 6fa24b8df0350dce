"""HTTP/1.1 and SSE as bytes on one socket, read and left exactly as a test wants it."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import re
import socket
import struct
from collections.abc import AsyncIterator, Mapping


class Leave(enum.Enum):
    """How a client goes away. FIN: stops sending and waits for the server to close; CLOSE: close(2); RST: reset."""

    FIN = "fin"
    CLOSE = "close"
    RST = "rst"


class ProtocolError(Exception):
    """The server broke HTTP framing."""


class Connection:
    """One connection; requests on it go one after another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int, *, receive_buffer: int | None = None) -> Connection:
        """``receive_buffer`` (bytes) bounds what kernel and client take before they stop reading."""
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
            return cls(*await asyncio.open_connection(sock=sock, limit=receive_buffer or 2**20))
        except BaseException:
            sock.close()
            raise

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer."""
        line = await self._line()
        match = re.fullmatch(rb"HTTP/1\.[01] (\d{3}) ?.*", line)
        if match is None:
            raise ProtocolError(f"not a status line: {line[:80]!r}")
        headers: dict[str, str] = {}
        while line := await self._line():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return int(match[1]), headers

    async def pieces(self, headers: Mapping[str, str], *, size: int = 65536, delay: float = 0) -> AsyncIterator[bytes]:
        """The body as it comes, ``size`` bytes at most at a time with ``delay`` seconds before each read.

        Ends with the body; raises IncompleteReadError if the connection ends before it.
        """
        if headers.get("transfer-encoding") == "chunked":
            while length := int(await self._line(), 16):
                async for piece in self._exactly(length, size, delay):
                    yield piece
                await self._line()
            await self._line()
        elif "content-length" in headers:
            async for piece in self._exactly(int(headers["content-length"]), size, delay):
                yield piece
        else:
            while piece := await self._some(size, delay):
                yield piece

    def leave(self, how: Leave) -> None:
        """Go away at once."""
        if how is Leave.RST:
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        elif how is Leave.FIN:
            self._writer.write_eof()
        else:
            self._writer.close()

    async def close(self) -> None:
        """Idempotent."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def until_closed(self) -> bytes:
        """Read and return everything until the server closes."""
        return await self._reader.read(-1)

    async def _line(self) -> bytes:
        return (await self._reader.readuntil(b"\r\n"))[:-2]

    async def _exactly(self, length: int, size: int, delay: float) -> AsyncIterator[bytes]:
        while length > 0:
            piece = await self._some(min(length, size), delay)
            if not piece:
                raise asyncio.IncompleteReadError(b"", length)
            length -= len(piece)
            yield piece

    async def _some(self, size: int, delay: float) -> bytes:
        if delay:
            await asyncio.sleep(delay)
        return await self._reader.read(size)


async def exchange(host: str, port: int, data: bytes, *, timeout: float = 5.0, half_close: bool = False) -> bytes:  # noqa: ASYNC109
    """Send raw bytes; everything the server sends until it closes, or until ``timeout`` seconds passed."""
    reader, writer = await asyncio.open_connection(host, port)
    received = bytearray()
    try:
        async with asyncio.timeout(timeout):
            writer.write(data)
            await writer.drain()
            if half_close:
                writer.write_eof()
            while piece := await reader.read(65536):
                received += piece
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return bytes(received)


class EventParser:
    """Cuts a stream into events (https://html.spec.whatwg.org/multipage/server-sent-events.html), LF and CRLF."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []
        self.comments: list[str] = []

    def feed(self, piece: bytes) -> list[str]:
        """The data of the events that ``piece`` completes."""
        events: list[str] = []
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for raw in lines:
            line = raw.removesuffix(b"\r").decode()
            if not line and self._data:
                events.append("\n".join(self._data))
                self._data = []
            elif line.startswith("data:"):
                self._data.append(line[5:].removeprefix(" "))
            elif line.startswith(":"):
                self.comments.append(line[1:].strip())
        return events
