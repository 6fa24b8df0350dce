"""The response of one request: framing, back pressure and its end. The per-token path is :meth:`write`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from gateway.http.headers import status_line
from gateway.http.response import HeaderBlock, header_block
from gateway.http.shared import LOGGER, FrontState

_BODILESS = frozenset((204, 304))


class ResponseWriter:
    """Implements the writing half of :class:`gateway.http.connection.ResponseStream`.

    The head is held back until the first bytes of the body, so that both leave in one write, and until then it can
    still be replaced by an error.
    """

    __slots__ = ("_block", "_chunked", "_head_only", "_http10", "_mute", "_on_disconnect", "_opened", "_sent",
                 "_shared", "_status", "_streaming", "_transport", "_write", "close_after", "disconnected", "done",
                 "on_resume", "paused")  # fmt: skip

    def __init__(self, shared: FrontState, transport: asyncio.Transport, *, head_only: bool, http10: bool) -> None:
        self._shared = shared
        self._transport = transport
        self._write = transport.write
        self._head_only = head_only
        self._http10 = http10
        self._status = 0
        self._block: HeaderBlock | None = None
        self._opened = False
        self._chunked = False
        self._streaming = False
        self._mute = False
        self._sent = 0
        self.done = False
        self.disconnected = False
        self.paused = False
        self.close_after = False
        self.on_resume: Callable[[], None] | None = None
        self._on_disconnect: Callable[[], None] | None = None

    @property
    def on_disconnect(self) -> Callable[[], None] | None:
        """Called once when the peer goes; see :class:`~gateway.http.connection.ResponseStream`."""
        return self._on_disconnect

    @on_disconnect.setter
    def on_disconnect(self, callback: Callable[[], None] | None) -> None:
        self._on_disconnect = callback
        if self.disconnected:
            self._fire_disconnect()

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Hold status and headers back until the first bytes. Raises ValueError, RuntimeError."""
        if self._block is not None:
            raise RuntimeError("the response has already started")
        self._block = header_block(headers)
        self._status = status

    def flush(self) -> None:
        """Send a held head."""
        if self._block is not None and not self._opened and not self.done:
            self._write(self._open(self._block, None))

    def write(self, data: bytes) -> None:
        """Send one piece as one chunk."""
        if self._streaming and not self.paused and data:
            self._write(b"%x\r\n%b\r\n" % (len(data), data))
        elif data:
            self._write_slowly(data)

    def finish(self, data: bytes = b"") -> None:
        """Send the last piece and the end in one write."""
        if self.done or self._block is None:
            return
        if self._streaming:
            self._write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n")
        else:
            self._write(self._last_bytes(self._block, data))
        self._end(self._block)

    def abort(self) -> None:
        """Drop the connection if the response is not whole."""
        if not self.done:
            self._transport.abort()
            self.disconnect()

    def disconnect(self) -> None:
        """The peer is gone: every later call is without effect."""
        if self.done:
            return
        self.done = self.disconnected = True
        self._streaming = False
        self._wake()
        self._fire_disconnect()

    def resume(self) -> None:
        """The transport has drained."""
        self.paused = False
        self._wake()
        if self.on_resume is not None and not self.done:
            self.on_resume()

    def _write_slowly(self, data: bytes) -> None:
        if self.done or self._block is None:
            return
        if self.paused and self._transport.get_write_buffer_size() > self._shared.bounds.send_buffer_bytes // 2:
            # The writer did not hold back: memory is bounded by the front, whoever forgot to look at ``paused``.
            self._shared.rejects.note("slow_reader")
            self.abort()
            return
        head = b"" if self._opened else self._open(self._block, None)
        self._write(head + self._frame(data))

    def _last_bytes(self, block: HeaderBlock, data: bytes) -> bytes:
        if self._opened:
            return self._frame(data)
        head = self._open(block, len(data))
        return head + self._frame(data)

    def _frame(self, data: bytes) -> bytes:
        if self._mute:
            return b""
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(data), data)
        promised = self._block.content_length if self._block else None
        if promised is not None:
            # Bytes beyond the promise would be read as the next response.
            data = data[: promised - self._sent]
        self._sent += len(data)
        return data

    def _open(self, block: HeaderBlock, known: int | None) -> bytes:
        """Settle the framing and render the head. ``known`` is the length of the body if it is all there."""
        self._opened = True
        self._mute = self._head_only or self._status in _BODILESS
        framing = self._framing(block, known)
        self.close_after = self.close_after or block.close or not self._keeps_alive()
        last = b"connection: close\r\n\r\n" if self.close_after else b"\r\n"
        return b"".join((status_line(self._status), self._shared.date_line, block.lines, framing, last))

    def _framing(self, block: HeaderBlock, known: int | None) -> bytes:
        if self._status in _BODILESS:
            return b""
        if block.content_length is None:
            block.content_length = known
        if block.content_length is not None:
            return b"content-length: %d\r\n" % block.content_length
        if self._http10:
            self.close_after = True
            return b""
        self._chunked = True
        self._streaming = not self._mute
        return b"transfer-encoding: chunked\r\n"

    def _end(self, block: HeaderBlock) -> None:
        self.done = True
        self._streaming = False
        promised = block.content_length
        if promised is not None and not self._mute and promised != self._sent:
            LOGGER.error("the application promised %d bytes and sent %d", promised, self._sent)
            self._transport.abort()
        self._wake()
        self._completed()

    def _fire_disconnect(self) -> None:
        callback, self._on_disconnect = self._on_disconnect, None
        if callback is not None:
            callback()

    def _keeps_alive(self) -> bool:
        """Whether the connection can carry another request after this response."""
        raise AssertionError("given by the request's cycle")

    def _completed(self) -> None:
        """The response has been handed to the transport as a whole."""
        raise AssertionError("given by the request's cycle")

    def _wake(self) -> None:
        """Whoever waits in receive() or send() has something to see."""
        raise AssertionError("given by the request's cycle")
