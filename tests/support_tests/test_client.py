"""The client against a server that is written byte by byte."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.client import Client
from tests.support.recorder import Recorder
from tests.support.wire import EventParser, Leave, exchange

Handler = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

DONE = b"data: [DONE]\n\n"
USAGE = b'data: {"choices":[],"usage":{"completion_tokens":2}}\n\n'
ERROR = b'{"error":{"message":"m","type":"server_error","param":null,"code":"engine_unavailable"}}'


def chunk(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = [line.lower() for line in head.split(b"\r\n")]
        length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), 0)
        try:
            await handler(head + await reader.readexactly(length), reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def streaming(*parts: bytes, end: bool = True) -> Handler:
    async def handler(_request: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX-Request-Id: made-up\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in parts:
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            await writer.drain()
        if end:
            writer.write(b"0\r\n\r\n")

    return handler


def answering(status: bytes, body: bytes) -> Handler:
    async def handler(_request: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))

    return handler


@pytest.mark.parametrize(
    ("parts", "end", "ending", "tokens", "code"),
    [
        ((chunk("a"), b": ping\n\n", chunk("b"), USAGE, DONE), True, "done", 2, None),
        ((chunk("a") + DONE,), True, "done", None, None),
        ((chunk("a"), b"data: " + ERROR + b"\n\n"), True, "error_event", None, "engine_unavailable"),
        ((chunk("a"), b"data: " + ERROR + b"\n\n"), False, "error_event", None, "engine_unavailable"),
        ((chunk("a"),), True, "truncated", None, None),
        ((chunk("a"),), False, "truncated", None, None),
        ((chunk("a"), DONE), False, "truncated", None, None),
        ((DONE, chunk("a")), True, "malformed", None, None),
        ((b"data: " + ERROR + b"\n\n", DONE), True, "malformed", None, None),
    ],
)
async def test_a_stream_is_recorded_as_it_ended(
    parts: tuple[bytes, ...], end: bool, ending: str, tokens: int | None, code: str | None
) -> None:
    recorder = Recorder()
    async with served(streaming(*parts, end=end)) as port:
        stream = await Client("127.0.0.1", port, "k", recorder=recorder).stream("/s", {})
    (row,) = recorder.rows
    assert (row.request_id, row.status) == ("made-up", 200)
    assert (row.ending, row.completion_tokens, row.code) == (ending, tokens, code)
    assert stream.comments == (["ping"] if b": ping\n\n" in parts else [])


async def test_canaries_are_seen_also_where_chunks_split_them() -> None:
    recorder = Recorder()
    async with served(streaming(chunk("canary-00"), chunk("00000a"), DONE)) as port:
        await Client("127.0.0.1", port, "k", recorder=recorder).stream("/s", {}, canary="canary-0000000a")
    assert recorder.rows[0].canaries_seen == {"canary-0000000a"}


@pytest.mark.parametrize(
    ("status", "body", "ending", "code"),
    [
        (b"200 OK", b'{"usage":{"completion_tokens":4},"x":"canary-abcdefgh"}', "body", None),
        (b"503 Service Unavailable", ERROR, "error_response", "engine_unavailable"),
    ],
)
async def test_a_response_is_recorded(status: bytes, body: bytes, ending: str, code: str | None) -> None:
    recorder = Recorder()
    async with served(answering(status, body)) as port:
        client = Client("127.0.0.1", port, "k", recorder=recorder)
        response = await client.post("/p", {}, headers={"X-Request-Id": "mine"})
        stream = await client.stream("/p", {})
    assert response is not None
    assert response.body == stream.body == body
    row = recorder.rows[0]
    assert (row.request_id, row.ending, row.code) == ("mine", ending, code)
    assert row.completion_tokens == (4 if ending == "body" else None)
    assert recorder.rows[1].ending == ("truncated" if ending == "body" else "error_response")


async def test_the_key_and_a_fresh_id_go_with_every_request() -> None:
    seen: list[bytes] = []

    async def handler(request: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(request)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with served(handler) as port:
        client = Client("127.0.0.1", port, "sk-1")
        await client.post("/p", {"a": 1})
        await client.get("/g", {"authorization": "Basic x"})
    assert b"authorization: Bearer sk-1\r\n" in seen[0]
    assert seen[0].endswith(b'\r\n\r\n{"a": 1}')
    assert b"authorization: Basic x\r\n" in seen[1]
    assert b"Bearer" not in seen[1]
    ids = {line for request in seen for line in request.split(b"\r\n") if line.startswith(b"x-request-id")}
    assert len(ids) == 2


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("how", list(Leave))
async def test_leaving_is_what_it_says(how: Leave, after: int) -> None:
    noticed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def handler(_request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if after:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + chunk("a"))
        try:
            noticed.set_result("eof" if await reader.read() == b"" else "data")
        except ConnectionResetError:
            noticed.set_result("reset")

    recorder = Recorder()
    async with served(handler) as port:
        client = Client("127.0.0.1", port, "k", recorder=recorder)
        await client.stream("/s", {}, leave_after_events=after, leave=how)
        assert await asyncio.wait_for(noticed, 10) == ("reset" if how is Leave.RST else "eof")
    assert recorder.rows[0].ending == "left"


async def test_leaving_before_any_answer_is_recorded_with_the_sent_id() -> None:
    async def handler(_request: bytes, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    recorder = Recorder()
    async with served(handler) as port:
        client = Client("127.0.0.1", port, "k", recorder=recorder)
        assert await client.post("/p", {}, headers={"X-Request-Id": "mine"}, leave_after=0.01) is None
    assert (recorder.rows[0].request_id, recorder.rows[0].ending) == ("mine", "left")


async def test_a_slow_reader_holds_the_server_up() -> None:
    sent = 0
    total = 4_000_000

    async def handler(_request: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.transport.set_write_buffer_limits(high=1)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while sent < total:
            writer.write(b"x" * 10_000)
            await writer.drain()
            sent += 10_000

    async with served(handler) as port:
        client = Client("127.0.0.1", port, "k", timeout=0.5)
        with pytest.raises(TimeoutError):
            await client.stream("/s", {}, read_size=100, read_delay=0.05, receive_buffer=4096)
        assert 0 < sent < total


async def test_raw_exchange_returns_what_came_until_the_end() -> None:
    async with served(answering(b"400 Bad Request", b"no")) as port:
        answer = await exchange("127.0.0.1", port, b"GET / HTTP/1.1\r\n\r\n")
    assert answer == b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\nno"


@settings(deadline=None)
@given(
    events=st.lists(st.text(alphabet="ab é\u2028:", max_size=6), max_size=5),
    cuts=st.lists(st.integers(0, 200), max_size=10),
    crlf=st.booleans(),
)
def test_events_do_not_depend_on_how_the_bytes_were_cut(events: list[str], cuts: list[int], crlf: bool) -> None:
    end = "\r\n" if crlf else "\n"
    data = "".join(f"data: {event}{end}: note{end}{end}" for event in events).encode()
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    parser = EventParser()
    got = [event for start, stop in itertools.pairwise(edges) for event in parser.feed(data[start:stop])]
    assert got == events
    assert parser.comments == ["note"] * len(events)
