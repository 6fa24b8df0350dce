"""Faults F20 to F23: peers that send or read too slowly, or do nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gateway.http.connection import response_stream
from tests.gateway.http.support import GET, QUICK, Seen, chunked, echo, post, read_body, serving, until


@pytest.mark.parametrize("start", [b"G", b"GET /echo HTTP/1.1\r\n", b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX-A: "])
async def test_f21_slow_headers_are_cut_with_408(start: bytes) -> None:
    seen = Seen()
    async with serving(echo(seen)) as front:
        client = await front.connect()
        client.send(start)
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (408, "request_timeout")
        assert await client.rest() == b""
        assert front.rejected == {"request_timeout": 1}
    assert not seen.scopes


async def test_f21_a_byte_now_and_then_does_not_buy_time() -> None:
    async with serving(echo(Seen())) as front:
        client = await front.connect()
        dripping = asyncio.create_task(client.send_in_pieces(b"GET /" + b"a" * 1000, 1, pause=0.02))
        assert (await client.answer()).status == 408
        dripping.cancel()


async def test_f21_many_slow_peers_do_not_disturb_an_honest_one() -> None:
    async with serving(echo(Seen())) as front:
        slow = [await front.connect() for _ in range(300)]
        for client in slow:
            client.send(b"GET /echo HTTP/1.1\r\nX-Slow: ")
        for _ in range(20):
            assert (await front.ask(post(b"abc"))).status == 200
        for client in slow:
            assert (await client.answer()).status == 408
            client.leave()
        await until(lambda: front.server.connections == 0)


@pytest.mark.parametrize("before", [b"", GET])
async def test_f23_idle_connections_are_closed_without_a_word(before: bytes) -> None:
    async with serving(echo(Seen())) as front:
        client = await front.connect()
        client.send(before)
        if before:
            await client.answer()
        assert await client.rest() == b""
        assert not front.rejected


@pytest.mark.parametrize("request_bytes", [post(b"x" * 5000)[:-4000], chunked(b"1388\r\n" + b"x" * 1000)])
async def test_f22_a_body_that_stops_is_answered_with_408(request_bytes: bytes) -> None:
    seen = Seen()
    async with serving(echo(seen)) as front:
        client = await front.connect()
        client.send(request_bytes)
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (408, "request_timeout")
        assert answer.header("connection") == "close"
        assert await client.rest() == b""
        await until(lambda: seen.disconnects == 1)


async def test_f22_a_body_below_the_rate_is_cut() -> None:
    async with serving(echo(Seen()), replace(QUICK, body_timeout=60)) as front:
        client = await front.connect()
        head, _, body = post(b"x" * 5000).partition(b"\r\n\r\n")
        client.send(head + b"\r\n\r\n")
        dripping = asyncio.create_task(client.send_in_pieces(body, 1, pause=0.01))
        assert (await client.answer()).status == 408
        dripping.cancel()


async def test_f22_a_body_that_takes_too_long_in_total_is_cut() -> None:
    async with serving(echo(Seen()), replace(QUICK, body_timeout=0.5, min_rate=1)) as front:
        client = await front.connect()
        client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n")
        dripping = asyncio.create_task(client.send_in_pieces(b"x" * 9_000_000, 2000, pause=0.01))
        assert (await client.answer()).status == 408
        dripping.cancel()


async def test_f22_a_late_body_of_an_answered_request_ends_the_connection() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        response_stream(scope).start(401, [])
        response_stream(scope).finish(b"no")

    async with serving(app) as front:
        client = await front.connect()
        client.send(post(b"x" * 5000)[:-4000])
        assert (await client.answer()).status == 401
        assert await client.closed()


async def test_f22_a_body_that_waits_for_the_application_is_not_late() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(1.2)
        await echo(Seen())(scope, receive, send)

    bounds = replace(QUICK, body_timeout=0.6, body_grace=0.2)
    async with serving(app, bounds) as front:
        client = await front.connect()
        client.send(post(b"x" * 2_000_000))
        assert (await client.answer()).body == b"POST /echo 2000000"
        head, _, body = post(b"x" * 2000, extra=b"Expect: 100-continue\r\n").partition(b"\r\n\r\n")
        client.send(head + b"\r\n\r\n")
        assert (await client.answer()).status == 100
        client.send(body)
        assert (await client.answer()).body == b"POST /echo 2000"


async def test_unread_bodies_are_not_taken_from_the_peer() -> None:
    release = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await release.wait()
        await echo(Seen())(scope, receive, send)

    async with serving(app) as front:
        client = await front.connect()
        client.send(post(b"x" * 10_000_000))
        await asyncio.sleep(0.3)
        connection = next(iter(front.server._state.connections))
        assert connection._body is not None
        assert connection._body.unread < 65_536 + 262_144
        release.set()
        assert (await client.answer()).body == b"POST /echo 10000000"


@pytest.mark.parametrize("polite", [True, False], ids=["holds back", "does not look"])
async def test_f20_a_peer_that_does_not_read_is_cut_and_costs_a_bounded_buffer(polite: bool) -> None:
    gone = asyncio.Event()
    worst = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal worst
        stream: Any = response_stream(scope)
        stream.on_disconnect = gone.set
        stream.start(200, [])
        while not stream.disconnected:
            if not polite or not stream.paused:
                stream.write(b"x" * 1000)
            worst = max(worst, stream._transport.get_write_buffer_size())
            await asyncio.sleep(0)

    async with serving(app) as front:
        client = await front.connect(receive_buffer=4096)
        client.send(GET)
        await asyncio.wait_for(gone.wait(), 20)
        assert front.rejected == {"slow_reader": 1}
        await until(lambda: front.server.connections == 0)
    assert worst <= QUICK.send_buffer_bytes * (0.3 if polite else 0.55)


async def test_f20_asgi_send_waits_for_a_slow_reader_and_ends_when_it_is_cut() -> None:
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(10_000):
            await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
            if not response_stream(scope).disconnected:
                sent += 10_000
        assert (await receive())["type"] == "http.disconnect"

    async with serving(app) as front:
        client = await front.connect(receive_buffer=4096)
        client.send(GET)
        await until(lambda: front.rejected["slow_reader"] == 1)
        await until(lambda: front.server.running == 0)
    assert sent < 1_000_000


async def test_f20_an_answer_that_is_whole_but_unread_is_cut_too() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        response_stream(scope).start(200, [])
        response_stream(scope).finish(b"x" * 5_000_000)

    async with serving(app) as front:
        client = await front.connect(receive_buffer=4096)
        client.send(GET * 100)
        await until(lambda: front.rejected["slow_reader"] == 1)
        await until(lambda: front.server.connections == 0)


async def test_a_reader_that_pauses_and_goes_on_gets_everything() -> None:
    resumed = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        stream = response_stream(scope)
        wake = asyncio.Event()

        def on_resume() -> None:
            nonlocal resumed
            resumed += 1
            wake.set()

        stream.on_resume = on_resume
        stream.start(200, [])
        for index in range(3000):
            while stream.paused:
                wake.clear()
                await wake.wait()
            stream.write(b"%08d" % index * 125)
        stream.finish()

    async with serving(app, replace(QUICK, write_stall_timeout=10.0)) as front:
        client = await front.connect(receive_buffer=65_536)
        client.send(GET)
        await asyncio.sleep(0.2)
        assert (await client.answer()).body == b"".join(b"%08d" % index * 125 for index in range(3000))
    assert resumed > 0


async def test_a_peer_that_sends_requests_without_reading_answers_gets_no_more_run() -> None:
    seen = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal seen
        seen += 1
        await read_body(receive)
        response_stream(scope).start(200, [])
        response_stream(scope).finish(b"x" * 50_000)

    async with serving(app, replace(QUICK, write_stall_timeout=1.0)) as front:
        client = await front.connect(receive_buffer=4096)
        client.send(GET * 2000)
        await asyncio.sleep(0.5)
        assert 1 <= seen < 30
        await until(lambda: front.rejected["slow_reader"] == 1)


async def test_f20_a_closed_connection_whose_last_bytes_are_not_read_is_cut() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        response_stream(scope).start(200, [])
        response_stream(scope).finish(b"x" * 50_000_000)

    # So large a mark that the transport never pauses: only the time to close is left to end it.
    async with serving(app, replace(QUICK, send_buffer_bytes=400_000_000)) as front:
        client = await front.connect(receive_buffer=4096)
        client.send(GET[:-2] + b"Connection: close\r\n\r\n")
        await client.reader.readuntil(b"\r\n")
        await until(lambda: front.server.connections == 0)
        assert not front.rejected
