"""Laws that hold for every split and every mutation of the bytes, with the transport in memory and time at will."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.http.protocol import HttpConnection
from gateway.http.shared import FrontState
from tests.gateway.http.support import GET, QUICK, Seen, chunked, echo, post

VALID: Final = [
    GET,
    post(b'{"model":"m","messages":[]}', extra=b"Authorization: Bearer sk-a-b\r\nConnection: keep-alive\r\n"),
    chunked(b"3\r\nabc\r\n1b;x=y\r\n" + b"0123456789" * 2 + b"0123456\r\n0\r\nX-T: z\r\n\r\n"),
    GET + post(b"abc") + b"HEAD /x?y=%20 HTTP/1.1\r\nhost: [::1]:80\r\nExpect: 100-continue\r\n\r\n" + GET,
    b"\r\nGET / HTTP/1.0\r\n\r\n",
]
INVALID: Final = [
    b"GET /x HTTP/1.1\r\nHost: a b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    chunked(b"3\r\nabc\r\n-1\r\n\r\n"),
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
    GET + b"\x16\x03\x01" + GET,
]


@dataclass
class MemoryTransport(asyncio.Transport):
    """Takes everything written; loses the connection when it is closed, as a socket does."""

    protocol: HttpConnection
    written: bytearray = field(default_factory=bytearray)
    ended: bool = False
    closing: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def write(self, data: Any) -> None:
        assert not self.ended, "a write after write_eof"
        if not self.closing:
            self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as made:
        yield made


@dataclass
class Outcome:
    written: bytes
    bodies: list[bytes]
    targets: list[bytes]
    rejected: list[str]


async def converse(pieces: list[bytes]) -> Outcome:
    """Feed the pieces as they would arrive, then let time pass until the connection is over."""
    seen, rejected = Seen(), list[str]()
    state = FrontState(echo(seen), QUICK, rejected.append)
    state.date_line = b""
    connection = HttpConnection(state)
    transport = MemoryTransport(connection)
    connection.connection_made(transport)
    for piece in pieces:
        if transport.closing:
            break
        connection.data_received(piece)
        await settle()
    await outlive(connection, transport, state)
    assert not state.cycles
    targets = [scope["raw_path"] for scope in seen.scopes]
    return Outcome(without_ids(bytes(transport.written)), seen.bodies, targets, rejected)


async def settle() -> None:
    """Let a running application get as far as it can."""
    for _ in range(6):
        await asyncio.sleep(0)


async def outlive(connection: HttpConnection, transport: MemoryTransport, state: FrontState) -> None:
    """Reach every deadline in turn. A connection without one would stay for ever."""
    for _ in range(40):
        await settle()
        if not state.connections:
            return
        now = min(connection.deadline, connection.stall_at)
        assert math.isfinite(now), f"nothing ends this connection: {connection._phase!r}, {bytes(transport.written)!r}"
        connection.expire(now)
    raise AssertionError("the connection outlives its deadlines")


def without_ids(raw: bytes) -> bytes:
    """Generated request ids differ from run to run."""
    lines = raw.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith(b"x-request-id: "))


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


relaxed = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


@relaxed
@given(data=st.sampled_from(VALID + INVALID), cuts=st.lists(st.integers(0, 10_000), max_size=30))
def test_the_split_of_the_bytes_changes_nothing(runner: asyncio.Runner, data: bytes, cuts: list[int]) -> None:
    assert runner.run(converse(split(data, cuts))) == runner.run(converse([data]))


@pytest.mark.parametrize("data", VALID + INVALID)
def test_one_byte_at_a_time_changes_nothing(runner: asyncio.Runner, data: bytes) -> None:
    assert runner.run(converse([data[i : i + 1] for i in range(len(data))])) == runner.run(converse([data]))


def test_valid_conversations_are_served(runner: asyncio.Runner) -> None:
    for data in VALID:
        outcome = runner.run(converse([data]))
        assert outcome.rejected == []
        assert outcome.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert runner.run(converse([VALID[3]])).targets == [b"/echo", b"/echo", b"/x", b"/echo"]


INTERESTING: Final = [b"\r", b"\n", b"\r\n", b"\0", b" ", b":", b"\t", b"0", b"-", b"chunked", b"Content-Length: 3\r\n",
                      b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"\xff", b";", b"GET ", b"HTTP/1.1",
                      b"\r\n\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n"]  # fmt: skip


@dataclass(frozen=True)
class Mutation:
    position: int
    removed: int
    inserted: bytes

    def __call__(self, data: bytes) -> bytes:
        at = self.position % (len(data) + 1)
        return data[:at] + self.inserted + data[at + self.removed :]


mutations: st.SearchStrategy[Callable[[bytes], bytes]] = st.builds(
    Mutation, st.integers(0, 400), st.integers(0, 12), st.sampled_from(INTERESTING) | st.binary(max_size=6)
)


@settings(relaxed, max_examples=600)
@given(
    data=st.sampled_from(VALID),
    changes=st.lists(mutations, min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 10_000), max_size=4),
)
def test_mutated_requests_are_answered_or_closed(
    runner: asyncio.Runner, data: bytes, changes: list[Callable[[bytes], bytes]], cuts: list[int]
) -> None:
    for change in changes:
        data = change(data)
    if not data:
        return
    outcome = runner.run(converse(split(data, cuts)))
    check_stream_of_answers(outcome.written)


def check_stream_of_answers(written: bytes) -> None:
    """What was written is a sequence of whole responses."""
    while written:
        head, separator, written = written.partition(b"\r\n\r\n")
        assert separator
        assert head.startswith(b"HTTP/1.1 ")
        assert int(head[9:12]) in (100, 200, 400, 408, 413, 414, 417, 431)
        if written.startswith(b"HTTP/1.1 ") or not written:
            # 100 (Continue), or the answer to a HEAD, which promises a body and has none.
            continue
        length = next(int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
        assert len(written) >= length
        written = written[length:]


@relaxed
@given(body=st.binary(max_size=3000), sizes=st.lists(st.integers(1, 500), min_size=1, max_size=20))
def test_a_chunked_body_arrives_as_it_was_sent(runner: asyncio.Runner, body: bytes, sizes: list[int]) -> None:
    encoded, position, turn = b"", 0, 0
    while position < len(body):
        piece = body[position : position + sizes[turn % len(sizes)]]
        encoded += b"%x\r\n%b\r\n" % (len(piece), piece)
        position, turn = position + len(piece), turn + 1
    outcome = runner.run(converse(split(chunked(encoded + b"0\r\n\r\n"), sizes)))
    assert outcome.bodies == [body]
