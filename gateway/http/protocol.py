"""One connection: which phase it is in, what its next bytes mean, and when its time is up."""

from __future__ import annotations

import asyncio
import enum
import math
from typing import Final, cast

from gateway.errors import ApiError, request_timeout
from gateway.http import rejections
from gateway.http.body import RequestBody
from gateway.http.cycle import RequestCycle
from gateway.http.head import HeadReader, RequestHead, parse_head
from gateway.http.headers import request_id
from gateway.http.response import error_response
from gateway.http.shared import FrontState

_NEVER: Final = math.inf
# How often a body's rate is looked at, in seconds.
_RATE_CHECK: Final = 1.0


class Phase(enum.IntEnum):
    """IDLE: between requests. HEAD: part of a head is here. FLUSHING: the next request waits for the send buffer.

    DISCARDING: the answer is given, the small rest of its request's body is dropped. LINGERING: nothing more will be
    written, input is dropped until the peer has read the answer. CLOSING: only the send buffer is left.
    """

    IDLE = 0
    HEAD = 1
    SERVING = 2
    DISCARDING = 3
    FLUSHING = 4
    LINGERING = 5
    CLOSING = 6
    CLOSED = 7


class HttpConnection(asyncio.Protocol):
    """An accepted TCP connection. ``deadline`` and ``stall_at`` are loop times the server's sweeper compares."""

    __slots__ = ("_ahead", "_body", "_body_since", "_cycle", "_lingered", "_paused_since", "_peer_closes", "_phase",
                 "_reader", "_reading", "_shared", "_stall_size", "_transport", "_write_paused", "client", "deadline",
                 "server", "stall_at")  # fmt: skip

    _transport: asyncio.Transport

    def __init__(self, shared: FrontState) -> None:
        self._shared = shared
        self._phase = Phase.IDLE
        self._reader: HeadReader | None = None
        self._cycle: RequestCycle | None = None
        self._body: RequestBody | None = None
        self._ahead = b""
        self._reading = True
        self._write_paused = False
        self._peer_closes = False
        self._stall_size = 0
        self._lingered = 0
        self._body_since = 0.0
        self._paused_since = 0.0
        self.client: tuple[str, int] | None = None
        self.server: tuple[str, int] | None = None
        self.deadline = _NEVER
        self.stall_at = _NEVER

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note who it is; over the connection limit, answer 503 and close."""
        shared = self._shared
        self._transport = cast(asyncio.Transport, transport)
        mark = shared.bounds.send_buffer_bytes // 4
        self._transport.set_write_buffer_limits(high=mark, low=mark // 4)
        self.client = _address(transport.get_extra_info("peername"))
        self.server = _address(transport.get_extra_info("sockname"))
        self.deadline = shared.loop.time() + shared.bounds.idle_timeout
        shared.connections.add(self)
        if len(shared.connections) > shared.max_connections:
            self._refuse_connection()

    def data_received(self, data: bytes) -> None:
        """Hand the bytes to whatever the phase expects."""
        phase = self._phase
        if phase is Phase.SERVING:
            self._take_while_serving(data)
        elif phase <= Phase.HEAD:
            self._take_head(data)
        elif phase is Phase.DISCARDING:
            self._discard(data)
        elif phase is Phase.FLUSHING:
            self._ahead += data
        elif phase is Phase.LINGERING:
            self._drop(data)

    def eof_received(self) -> None:
        """A half-closed peer counts as gone: real clients close their writing side only when they leave."""
        if self._cycle is not None:
            self._cycle.disconnect()
        self._enter_closing()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Forget the peer and tell the running request."""
        self._phase = Phase.CLOSED
        self._shared.connections.discard(self)
        self.deadline = self.stall_at = _NEVER
        cycle, self._cycle = self._cycle, None
        if cycle is not None:
            cycle.disconnect()
        self._body = self._reader = None
        self._ahead = b""

    def pause_writing(self) -> None:
        """The send buffer is above its mark: the stall clock runs."""
        self._write_paused = True
        self._stall_size = self._transport.get_write_buffer_size()
        self.stall_at = self._shared.loop.time() + self._shared.bounds.write_stall_timeout
        if self._cycle is not None:
            self._cycle.paused = True

    def resume_writing(self) -> None:
        """The send buffer has drained."""
        self._write_paused = False
        self.stall_at = _NEVER
        if self._cycle is not None:
            self._cycle.resume()
        elif self._phase is Phase.FLUSHING:
            self._await_next()

    # What the request's cycle calls

    def body_wanted(self) -> None:
        """The application has taken the body so far and waits for more."""
        if not self._reading and not self._ahead:
            self._resume_reading()

    def response_complete(self, cycle: RequestCycle) -> None:
        """The response of the running request was handed to the transport as a whole."""
        if self._cycle is not cycle or self._phase is Phase.CLOSED:
            return
        self._cycle = None
        body = self._body
        if cycle.close_after or self._shared.draining or self._transport.is_closing():
            self._close_after_answer()
        elif body is not None and not body.complete:
            self._begin_discarding(body)
        else:
            self._await_next()

    # What the server calls

    @property
    def flushed(self) -> bool:
        """Nothing is waiting to be sent."""
        return self._phase is Phase.CLOSED or not self._transport.get_write_buffer_size()

    def drain(self) -> None:
        """Close now if there is no request; a running one will end with ``Connection: close``."""
        if self._phase in (Phase.IDLE, Phase.FLUSHING):
            self._enter_closing()

    def abort(self) -> None:
        """Drop the connection."""
        if self._phase is not Phase.CLOSED:
            self._transport.abort()

    def expire(self, now: float) -> None:
        """A deadline has passed."""
        if self.stall_at <= now:
            self._check_stall(now)
        elif self._phase is Phase.IDLE:
            self._enter_closing()
        elif self._phase is Phase.HEAD:
            self._reject(rejections.head_timeout())
        elif self._phase is Phase.LINGERING:
            self._enter_closing()
        elif self._phase is Phase.CLOSING:
            self._transport.abort()
        elif self._body is not None:
            self._check_body_pace(self._body, now)

    # Heads

    def _take_head(self, data: bytes) -> None:
        if self._reader is None:
            self._reader = HeadReader(self._shared.bounds)
        try:
            found = self._reader.feed(data)
            if found is not None:
                head, rest = found
                self._begin(parse_head(head, self._shared.bounds), rest)
            elif self._phase is Phase.IDLE:
                self._phase = Phase.HEAD
                self.deadline = self._shared.loop.time() + self._shared.bounds.header_timeout
        except ApiError as error:
            self._reject(error)

    def _begin(self, head: RequestHead, rest: bytes) -> None:
        self._phase = Phase.SERVING
        self._reader = None
        self._peer_closes = not head.keep_alive
        self._body = body = RequestBody(head, self._shared.bounds)
        self._cycle = cycle = RequestCycle(self._shared, self, self._transport, head, body)
        if body.complete:
            self.deadline = _NEVER
        else:
            self._body_since = self._shared.loop.time()
            self.deadline = self._body_since + min(_RATE_CHECK, self._shared.bounds.body_timeout)
        cycle.begin()
        if rest:
            self._take_while_serving(rest)

    def _reject(self, error: ApiError) -> None:
        self._shared.rejects.note(error.code or "error")
        self._transport.write(error_response(error, request_id(()), self._shared.date_line))
        self._linger()

    def _refuse_connection(self) -> None:
        # Far beyond the limit even an answer is too much: it would hold a descriptor while the peer reads it.
        if len(self._shared.connections) > self._shared.max_connections * 1.1 + 16:
            self._shared.rejects.note("too_many_connections")
            self._transport.abort()
        else:
            self._reject(rejections.too_many_connections())

    # Bodies

    def _take_while_serving(self, data: bytes) -> None:
        body = self._body
        if body is None or body.complete:
            self._read_ahead(data)
            return
        rest = self._feed(body, data)
        if self._cycle is None:
            return
        if body.complete:
            self.deadline = _NEVER
        if rest:
            self._read_ahead(rest)
        elif not body.complete and body.unread > self._shared.bounds.max_read_ahead:
            # Never at the body's end: nobody would ask for more, and who does not read sees no peer leave.
            self._pause_reading()

    def _feed(self, body: RequestBody, data: bytes) -> bytes:
        cycle = self._cycle
        if cycle is None:
            return b""
        try:
            rest = body.feed(data)
        except ApiError as error:
            cycle.reject(error)
            return b""
        cycle.body_arrived()
        return rest

    def _read_ahead(self, data: bytes) -> None:
        """Bytes of later requests. After a chunked body they are never run: RFC 9112 section 11.2."""
        if self._cycle is not None and self._body is not None and self._body.chunked:
            self._cycle.close_after = True
            return
        self._ahead += data
        if len(self._ahead) > self._shared.bounds.max_read_ahead:
            self._pause_reading()

    def _begin_discarding(self, body: RequestBody) -> None:
        self._phase = Phase.DISCARDING
        body.drop()
        self._resume_reading()

    def _discard(self, data: bytes) -> None:
        body = self._body
        if body is None:
            return
        rest = body.feed(data)
        body.drop()
        if body.complete:
            self._ahead = rest
            self._await_next()

    def _check_body_pace(self, body: RequestBody, now: float) -> None:
        if self._is_body_late(body, now):
            self._cut_body()
        else:
            self.deadline = now + min(_RATE_CHECK, self._shared.bounds.body_timeout / 4)

    def _is_body_late(self, body: RequestBody, now: float) -> bool:
        bounds = self._shared.bounds
        if not self._reading or (self._cycle is not None and self._cycle.withholds_continue):
            # The application, not the peer, is what the body waits for: its time starts again.
            self._body_since = now - min(bounds.body_grace, now - self._body_since)
            return False
        elapsed = now - self._body_since
        if body.patient and elapsed >= bounds.body_timeout:
            # Judged span by span: what came fast at first does not pay for a trickle later.
            late = body.received - body.marked < bounds.min_rate * elapsed
            self._body_since, body.marked = now, body.received
            return late
        return elapsed >= bounds.body_timeout or (
            elapsed > bounds.body_grace and not body.marked and body.received < bounds.min_rate * elapsed
        )

    def _cut_body(self) -> None:
        if self._cycle is not None:
            self._cycle.reject(request_timeout())
        else:
            self._transport.abort()

    # Between requests

    def _await_next(self) -> None:
        self._body = None
        if self._write_paused:
            # A peer that sends requests without reading answers gets no further ones run.
            self._phase = Phase.FLUSHING
            self.deadline = _NEVER
            self._pause_reading()
            return
        self._phase = Phase.IDLE
        self.deadline = self._shared.loop.time() + self._shared.bounds.idle_timeout
        self._resume_reading()
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            self._take_head(ahead)

    def _pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    # The end

    def _close_after_answer(self) -> None:
        body_whole = self._body is None or self._body.complete
        if self._peer_closes and body_whole and not self._ahead:
            self._enter_closing()
        else:
            self._linger()

    def _linger(self) -> None:
        """Say that nothing more comes, then read and drop, or the peer's kernel throws our answer away on RST."""
        self._phase = Phase.LINGERING
        self._body = self._reader = None
        self._ahead = b""
        self._lingered = 0
        self.deadline = self._shared.loop.time() + self._shared.bounds.linger_timeout
        if not self._transport.is_closing():
            self._transport.write_eof()
            self._resume_reading()

    def _drop(self, data: bytes) -> None:
        self._lingered += len(data)
        if self._lingered > self._shared.bounds.linger_bytes:
            self._enter_closing()

    def _enter_closing(self) -> None:
        if self._phase < Phase.CLOSING:
            self._phase = Phase.CLOSING
            self.deadline = self._shared.loop.time() + self._shared.bounds.write_stall_timeout
            self._transport.close()

    def _check_stall(self, now: float) -> None:
        bounds = self._shared.bounds
        size = self._transport.get_write_buffer_size()
        if self._stall_size - size >= bounds.min_rate * bounds.write_stall_timeout:
            self._stall_size = size
            self.stall_at = now + bounds.write_stall_timeout
            return
        self._shared.rejects.note("slow_reader")
        self._transport.abort()


def _address(name: object) -> tuple[str, int] | None:
    if isinstance(name, tuple) and len(name) >= 2:
        return str(name[0]), int(name[1])
    return None
