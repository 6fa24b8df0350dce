"""Faults F11, F12, F16, F17: peers that leave in every phase, by FIN and by RST."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gateway.http.connection import response_stream
from tests.gateway.http.support import GET, HANG, QUICK, RawClient, Seen, chunked, echo, post, serving, until

LEAVE = {"FIN": RawClient.leave, "RST": RawClient.reset}
leaving = pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE.keys())


@leaving
async def test_f11_while_sending_headers(leave: Any) -> None:
    seen = Seen()
    async with serving(echo(seen)) as front:
        client = await front.connect()
        client.send(GET[:20])
        await until(lambda: front.server.connections == 1)
        leave(client)
        await until(lambda: front.server.connections == 0)
        assert not front.rejected
    assert not seen.scopes


@leaving
@pytest.mark.parametrize("request_bytes", [post(b"x" * 100)[:-50], chunked(b"64\r\nxxx")])
async def test_f12_while_sending_the_body(leave: Any, request_bytes: bytes) -> None:
    seen = Seen()
    async with serving(echo(seen)) as front:
        client = await front.connect()
        client.send(request_bytes)
        await until(lambda: len(seen.scopes) == 1)
        leave(client)
        await until(lambda: front.server.connections == 0)
        await until(lambda: front.server.running == 0)
    assert (seen.bodies, seen.disconnects) == ([], 1)


@leaving
async def test_f16_in_the_middle_of_a_stream(leave: Any) -> None:
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        stream = response_stream(scope)
        stream.on_disconnect = lambda: told.append("callback")
        stream.start(200, [])
        stream.write(b"first")
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        told.append("receive")
        stream.write(b"into the void")
        stream.finish(b"into the void")
        stream.abort()
        stream.on_disconnect = lambda: told.append("late callback")

    async with serving(app) as front:
        client = await front.connect()
        client.send(GET)
        await client.reader.readuntil(b"first")
        leave(client)
        await until(lambda: front.server.running == 0)
    assert told == ["callback", "receive", "late callback"]


@leaving
async def test_f17_before_the_answer(leave: Any) -> None:
    told = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        response_stream(scope).on_disconnect = told.set
        await told.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"nobody"})

    async with serving(app) as front:
        client = await front.connect()
        client.send(post(b"abc"))
        await until(lambda: front.server.running == 1)
        leave(client)
        await until(lambda: front.server.running == 0)
        assert told.is_set()
        assert not front.rejected


@leaving
async def test_f17_after_a_body_that_had_to_wait(leave: Any) -> None:
    """The body's last piece fills what may be held. Reading goes on, or nobody would see the peer leave."""
    told, begun, taken = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        response_stream(scope).on_disconnect = told.set
        await receive()
        begun.set()
        await asyncio.sleep(0.2)  # the rest is there before any of it is taken
        while (await receive())["more_body"]:
            pass
        taken.set()
        await told.wait()

    async with serving(app) as front:
        client = await front.connect()
        whole = post(b"x" * 70_000)
        client.send(whole[:-69_000])
        await until(begun.is_set)
        client.send(whole[-69_000:])
        await until(taken.is_set)
        leave(client)
        await until(lambda: front.server.running == 0)
        assert told.is_set()


async def test_f16_a_pipelining_peer_that_leaves_is_seen() -> None:
    told = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        response_stream(scope).on_disconnect = told.set
        await told.wait()

    async with serving(app) as front:
        client = await front.connect()
        client.send(GET * 3)
        await until(lambda: front.server.running == 1)
        client.leave()
        await asyncio.wait_for(told.wait(), 10)


async def test_a_peer_that_closes_its_writing_half_is_gone() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"

    async with serving(app) as front:
        client = await front.connect()
        client.send(GET)
        await until(lambda: front.server.running == 1)
        client.writer.write_eof()
        assert await client.rest() == b""


async def test_abort_shows_the_peer_that_the_answer_is_not_whole() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        response_stream(scope).start(200, [])
        response_stream(scope).write(b"half")
        response_stream(scope).abort()
        assert response_stream(scope).disconnected

    async with serving(app) as front:
        client = await front.connect()
        client.send(GET)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.answer()


async def test_receive_after_the_answer_says_disconnect() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        waiting = asyncio.create_task(until_disconnect(receive))
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"ok"})
        await waiting

    async def until_disconnect(receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with serving(app) as front:
        client = await front.connect()
        for _ in range(2):
            client.send(GET)
            assert (await client.answer()).body == b"ok"
        await until(lambda: front.server.running == 0)


async def test_connects_and_aborts_leave_nothing_behind() -> None:
    seen = Seen()
    async with serving(echo(seen)) as front:
        for index in range(300):
            client = await front.connect()
            client.send((GET[:10], GET, post(b"abc")[:-1], b"")[index % 4])
            (client.leave, client.reset)[index % 2]()
        await until(lambda: front.server.connections == 0 and front.server.running == 0)


async def test_f16_a_peer_that_leaves_unread_bytes_behind_is_seen_at_once() -> None:
    told = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        stream = response_stream(scope)
        stream.on_disconnect = told.set
        stream.start(200, [])
        stream.write(b"x" * 1_000_000)
        await told.wait()

    async with serving(app, replace(QUICK, write_stall_timeout=60)) as front:
        client = await front.connect(receive_buffer=4096)
        client.send(GET)
        await until(lambda: front.server.running == 1)
        client.writer.write_eof()
        await asyncio.wait_for(told.wait(), HANG)


async def test_a_refused_peer_reads_the_end_before_the_front_stops_listening_to_it() -> None:
    async with serving(echo(Seen()), replace(QUICK, linger_timeout=60, linger_bytes=65_536)) as front:
        client = await front.connect()
        client.send(b"GET @evil HTTP/1.1\r\n\r\n")
        assert (await client.rest()).endswith(b'"code":"malformed_request"}}')
        assert front.server.connections == 1
        client.send(b"x" * 65_537)
        await until(lambda: front.server.connections == 0)


async def test_a_refused_peer_that_still_sends_is_read_on_until_it_leaves() -> None:
    seen = Seen()
    bounds = replace(QUICK, max_body_bytes=70_000, linger_timeout=60, linger_bytes=1_000_000)
    async with serving(echo(seen), bounds) as front:
        client = await front.connect()
        client.send(chunked(b"a\r\n0123456789\r\n"))
        await until(lambda: len(seen.scopes) == 1)
        client.send(b"1ff00\r\n" + b"x" * 0x1FF00 + b"\r\n0\r\n\r\n")
        assert (await client.answer()).status == 413
        client.leave()
        await until(lambda: front.server.connections == 0)
