"""Framing of responses, keep-alive, pipelining, 100 (Continue), and what an application may do wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.errors import missing_api_key
from gateway.http.connection import response_stream
from gateway.http.headers import request_id
from gateway.http.response import header_block
from tests.gateway.http.support import GET, QUICK, Seen, chunked, echo, post, read_body, serving, until


async def test_the_scope_is_what_was_sent() -> None:
    seen = Seen()
    async with serving(echo(seen)) as front:
        await front.ask(
            b"GET //a/./%2e%2F%C3%A9;x?q=%20&r=a?b HTTP/1.1\r\nHost: LocalHost:1\r\nX-Mixed: Value \r\n\r\n"
        )
    scope = seen.scopes[0]
    assert (scope["type"], scope["http_version"], scope["method"], scope["scheme"]) == ("http", "1.1", "GET", "http")
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.3"}
    assert scope["raw_path"] == b"//a/./%2e%2F%C3%A9;x"
    assert scope["path"] == "//a/././é;x"
    assert scope["query_string"] == b"q=%20&r=a?b"
    assert scope["headers"][0] == (b"host", b"LocalHost:1")
    assert [name for name, _ in scope["headers"]] == [b"host", b"x-mixed"]
    assert scope["client"][0] == scope["server"][0] == "127.0.0.1"
    assert scope["server"][1] == front.port


async def test_keep_alive_serves_many_requests_on_one_connection() -> None:
    async with serving(echo(Seen())) as front:
        client = await front.connect()
        for size in (0, 1, 5000, 200_000):
            client.send(post(b"x" * size))
            answer = await client.answer()
            assert answer.body == b"POST /echo %d" % size
            assert answer.header("connection") is None
        assert front.server.connections == 1


async def test_connection_close_is_honoured() -> None:
    async with serving(echo(Seen())) as front:
        raw = await front.exchange(GET[:-2] + b"Connection: foo, Close\r\n\r\n")
        assert b"\r\nconnection: close\r\n" in raw
        assert raw.endswith(b"GET /echo 0")


async def test_pipelined_requests_are_served_in_order() -> None:
    running = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal running
        running += 1
        assert running == 1
        body = await read_body(receive)
        await asyncio.sleep(0.005)
        running -= 1
        stream = response_stream(scope)
        stream.start(200, [])
        stream.write(scope["raw_path"])
        stream.finish(body or b"")

    async with serving(app) as front:
        client = await front.connect()
        client.send(b"".join(post(b"body%d" % i, path=b"/%d" % i) if i % 2 else
                             GET.replace(b"echo", b"%d" % i) for i in range(40)))  # fmt: skip
        for i in range(40):
            assert (await client.answer()).body == (b"/%dbody%d" % (i, i) if i % 2 else b"/%d" % i)


async def test_a_malformed_pipelined_request_is_refused_after_the_answers_before_it() -> None:
    async with serving(echo(Seen())) as front:
        client = await front.connect()
        client.send(GET + GET + b"GET @evil HTTP/1.1\r\n\r\n" + GET)
        assert [(await client.answer()).status for _ in range(3)] == [200, 200, 400]
        assert await client.rest() == b""


@pytest.mark.parametrize("together", [True, False])
async def test_h01_nothing_after_a_chunked_body_is_run_while_it_is_served(together: bool) -> None:
    seen = Seen()
    release = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await release.wait()
        await echo(seen)(scope, receive, send)

    async with serving(app) as front:
        client = await front.connect()
        client.send(chunked(b"3\r\nabc\r\n0\r\n\r\n") + (GET if together else b""))
        await until(lambda: front.server.running == 1)
        if not together:
            client.send(GET)
            await asyncio.sleep(0.02)
        release.set()
        assert (await client.answer()).body == b"POST /echo 3"
        assert await client.rest() == b""
    assert len(seen.scopes) == 1


async def test_a_chunked_request_may_be_followed_by_another_after_its_answer() -> None:
    async with serving(echo(Seen())) as front:
        client = await front.connect()
        for _ in range(3):
            client.send(chunked(b"3\r\nabc\r\n0\r\n\r\n"))
            assert (await client.answer()).body == b"POST /echo 3"


async def test_pipelining_without_end_is_not_read_ahead_without_end() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await until(lambda: response_stream(scope).disconnected)

    async with serving(app) as front:
        client = await front.connect()
        client.send(GET * 1_000_000)
        await asyncio.sleep(0.3)
        connection = next(iter(front.server._state.connections))
        assert len(connection._ahead) < 2 * 262_144
        client.reset()
        front.server.abort_all()
        await until(lambda: front.server.running == 0)


async def test_head_answers_have_the_length_and_no_body() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        stream = response_stream(scope)
        stream.start(200, [(b"content-length", b"11")] if scope["path"] == "/length" else [])
        if scope["path"] == "/pieces":
            stream.write(b"hello ")
        stream.finish(b"hello world")

    async with serving(app) as front:
        client = await front.connect()
        for path, name, value in (
            ("/length", "content-length", "11"),
            ("/whole", "content-length", "11"),
            ("/pieces", "transfer-encoding", "chunked"),
        ):
            client.send(f"HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            answer = await client.answer(head_only=True)
            assert answer.header(name) == value
        client.send(b"GET /length HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.answer()).body == b"hello world"


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_that_have_no_body(status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(app) as front:
        client = await front.connect()
        for _ in range(2):
            client.send(GET)
            answer = await client.answer()
            assert answer.status == status
            assert {name for name, _ in answer.headers} == {"date"}


async def test_asgi_streaming_is_chunked_and_the_head_can_be_flushed() -> None:
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b")]})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await go.wait()
        for piece in (b"one", b"two", b""):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"three"})

    async with serving(app) as front:
        client = await front.connect()
        client.send(GET)
        head = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 5)
        assert b"\r\nx-a: b\r\n" in head
        go.set()
        expected = b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n"
        assert await asyncio.wait_for(client.reader.readexactly(len(expected)), 5) == expected


async def test_http10_gets_an_unframed_stream_that_ends_with_the_connection() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        stream = response_stream(scope)
        stream.start(200, [])
        stream.write(b"one ")
        stream.finish(b"two")

    async with serving(app) as front:
        raw = await front.exchange(b"GET / HTTP/1.0\r\n\r\n")
        assert b"transfer-encoding" not in raw
        assert raw.endswith(b"\r\n\r\none two")


async def test_expect_100_is_answered_when_the_application_asks_for_the_body() -> None:
    asked = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asked.wait()
        await echo(Seen())(scope, receive, send)

    async with serving(app) as front:
        client = await front.connect()
        head, _, body = post(b"hello", extra=b"Expect: 100-Continue\r\n").partition(b"\r\n\r\n")
        client.send(head + b"\r\n\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.readexactly(1), 0.1)
        asked.set()
        assert (await client.answer()).status == 100
        client.send(body)
        assert (await client.answer()).body == b"POST /echo 5"


async def test_expect_100_is_not_answered_when_the_body_is_already_there() -> None:
    async with serving(echo(Seen())) as front:
        answer = await front.ask(post(b"hello", extra=b"Expect: 100-continue\r\n"))
        assert (answer.status, answer.body) == (200, b"POST /echo 5")


async def test_expect_100_is_not_sent_when_the_request_is_refused_without_its_body() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        error = missing_api_key()
        response_stream(scope).start(error.status, error.headers())
        response_stream(scope).finish(error.payload())

    async with serving(app) as front:
        raw = await front.exchange(post(b"", extra=b"Expect: 100-continue\r\n").replace(b": 0", b": 5"))
        assert raw.startswith(b"HTTP/1.1 401 ")
        assert b"\r\nconnection: close\r\n" in raw


async def test_other_expectations_are_417() -> None:
    async with serving(echo(Seen())) as front:
        answer = await front.ask(GET[:-2] + b"Expect: 200-ok\r\n\r\n")
        assert (answer.status, answer.error["code"]) == (417, "expectation_failed")


async def unauthorised(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"no"})


async def test_an_early_answer_drops_a_small_rest_of_the_body_and_keeps_the_connection() -> None:
    async with serving(unauthorised) as front:
        client = await front.connect()
        for _ in range(2):
            head, _, body = post(b"x" * 1000).partition(b"\r\n\r\n")
            client.send(head + b"\r\n\r\n" + body[:10])
            answer = await client.answer()
            assert (answer.status, answer.header("connection")) == (401, None)
            client.send(body[10:])


@pytest.mark.parametrize("request_bytes", [
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4c4b40\r\n",
])  # fmt: skip
async def test_an_early_answer_to_a_big_body_can_be_read_although_the_peer_still_sends(request_bytes: bytes) -> None:
    async with serving(unauthorised) as front:
        client = await front.connect()
        client.send(request_bytes)
        for _ in range(6):
            client.send(b"x" * 10_000)
            await asyncio.sleep(0.005)
        answer = await client.answer()
        assert (answer.status, answer.header("connection"), answer.body) == (401, "close", b"no")
        assert await client.rest() == b""


async def test_an_application_error_is_a_500_of_the_contract() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("secret")

    async with serving(app) as front:
        client = await front.connect()
        client.send(GET[:-2] + b"X-Request-Id: mine.1\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.error["type"], answer.error["code"]) == (500, "server_error", "internal_error")
        assert answer.header("x-request-id") == "mine.1"
        assert b"secret" not in answer.body
        assert await client.rest() == b""


async def test_an_application_error_in_the_middle_of_a_stream_cuts_it() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        response_stream(scope).start(200, [])
        response_stream(scope).write(b"half")
        raise RuntimeError

    async with serving(app) as front:
        client = await front.connect()
        client.send(GET)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.answer()


@pytest.mark.parametrize("started", [False, True])
async def test_an_application_that_returns_early_is_a_500(started: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if started:
            response_stream(scope).start(200, [])

    async with serving(app) as front:
        assert (await front.ask(GET)).status == 500


async def test_more_bytes_than_promised_never_reach_the_peer_and_fewer_cut_the_connection() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        stream = response_stream(scope)
        stream.start(200, [(b"content-length", b"4")])
        stream.write(b"12")
        stream.finish(b"3456" if scope["path"] == "/more" else b"")

    async with serving(app) as front:
        for path in (b"/more", b"/less"):
            client = await front.connect()
            client.send(GET.replace(b"/echo", path) * 2)
            if path == b"/more":
                assert [(await client.answer()).body for _ in range(2)] == [b"1234", b"1234"]
            else:
                with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                    await client.answer()


@pytest.mark.parametrize("header", [
    (b"x-a", b"b\r\nx-evil: 1"), (b"x-a", b"b\nc"), (b"x-a\r\nx-evil", b"1"), (b"x a", b"1"), (b"", b"1"),
    (b"x-a", b"\0"), (b"x-a: 1\r\nx-b", b"2"),
])  # fmt: skip
def test_headers_that_break_out_of_their_line_are_refused(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="invalid response header"):
        header_block([(b"x-good", b"1"), header])


@pytest.mark.parametrize("value", [b"a", b"A-Z_0.9", b"x" * 128])
def test_a_good_request_id_is_kept(value: bytes) -> None:
    assert request_id([(b"x-request-id", value)]) == value.decode()


@pytest.mark.parametrize("values", [[], [b""], [b"x" * 129], [b"a b"], [b"a\r\nb"], [b"a", b"b"], ["é".encode()]])
def test_any_other_request_id_is_replaced(values: list[bytes]) -> None:
    chosen = {request_id([(b"x-request-id", value) for value in values]) for _ in range(2)}
    assert len(chosen) == 2
    assert all(len(value) == 36 for value in chosen)


async def test_the_request_id_of_a_stream_is_chosen_once() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        stream = response_stream(scope)
        seen.extend((stream.request_id, stream.request_id))
        raise RuntimeError

    async with serving(app) as front:
        answer = await front.ask(GET)
    assert answer.header("x-request-id") == seen[0] == seen[1]


async def test_a_response_can_end_the_connection_after_it() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        stream = response_stream(scope)
        stream.start(200, [])
        stream.write(b"half")
        stream.close_after = True
        stream.finish()

    async with serving(app, QUICK) as front:
        raw = await front.exchange(GET * 2)
        assert raw.endswith(b"\r\n\r\n4\r\nhalf\r\n0\r\n\r\n")
        assert raw.count(b"HTTP/1.1") == 1


async def test_head_and_first_bytes_leave_together_and_the_last_with_the_end() -> None:
    writes: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        stream: Any = response_stream(scope)
        real = stream._write

        def write(data: bytes) -> None:
            writes.append(data)
            real(data)

        stream._write = write
        stream.start(200, [])
        stream.write(b"a")
        stream.write(b"b")
        stream.write(b"")
        stream.finish(b"c")
        stream.write(b"too late")
        stream.finish(b"too late")

    async with serving(app) as front:
        assert (await front.ask(GET)).body == b"abc"
    assert len(writes) == 3
    assert writes[0].endswith(b"\r\n\r\n1\r\na\r\n")
    assert writes[2] == b"1\r\nc\r\n0\r\n\r\n"
