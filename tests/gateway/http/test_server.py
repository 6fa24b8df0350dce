"""Listening, the connection limit, descriptor exhaustion (F25, F26), draining (F57) and idle cost (F23)."""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from gateway.http.bounds import HttpBounds
from gateway.http.connection import response_stream
from gateway.http.listener import AddressUnavailableError, bind, connection_limit
from gateway.http.server import HttpServer
from tests.gateway.http.support import GET, QUICK, Front, RawClient, Seen, chunked, echo, post, serving, until


async def test_a_taken_port_is_named() -> None:
    async with serving(echo(Seen())) as front:
        other = HttpServer(echo(Seen()), QUICK, on_reject=lambda code: None)
        with pytest.raises(AddressUnavailableError, match=f"127.0.0.1:{front.port} is already in use"):
            await other.start("127.0.0.1", front.port)


async def test_an_unknown_host_is_named() -> None:
    with pytest.raises(AddressUnavailableError, match=r"no\.such\.host\.invalid"):
        bind("no.such.host.invalid", 0, QUICK)


async def test_ready_sockets_can_be_handed_over() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    server = HttpServer(echo(Seen()), QUICK, on_reject=lambda code: None)
    port = await server.start(sockets=[sock])
    assert port == sock.getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(GET)
    assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
    writer.close()
    await server.stop()


async def test_every_address_of_a_name_gets_the_same_port() -> None:
    bound = bind("localhost", 0, QUICK)
    assert len({sock.getsockname()[1] for sock in bound}) == 1
    for sock in bound:
        sock.close()


async def test_accepted_connections_send_at_once_and_buffer_little() -> None:
    async with serving(echo(Seen()), replace(QUICK, idle_timeout=30)) as front:
        client = await front.connect()
        await until(lambda: front.server.connections == 1)
        connection = next(iter(front.server._state.connections))
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        kernel = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        assert kernel + QUICK.send_buffer_bytes // 4 <= QUICK.send_buffer_bytes
        client.leave()


async def test_f26_connections_over_the_limit_get_503_and_the_others_go_on() -> None:
    async with serving(echo(Seen()), replace(QUICK, max_connections=5, idle_timeout=30)) as front:
        held = [await front.connect() for _ in range(5)]
        await until(lambda: front.server.connections == 5)
        raw = await front.exchange(b"")
        assert raw.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in raw
        assert b'"type":"server_error"' in raw
        assert b'"code":"too_many_connections"' in raw
        for client in held:
            client.send(GET)
            assert (await client.answer()).status == 200
        held[0].leave()
        await until(lambda: front.server.connections == 4)
        assert (await front.ask(GET)).status == 200


async def test_f26_a_flood_far_over_the_limit_is_dropped() -> None:
    async with serving(echo(Seen()), replace(QUICK, max_connections=5, idle_timeout=30, linger_timeout=30)) as front:
        flood = [await front.connect() for _ in range(200)]
        await until(lambda: front.rejected["too_many_connections"] == 195)
        await until(lambda: front.server.connections <= 5 * 1.1 + 16)
        for client in flood:
            client.reset()


def test_the_descriptor_limit_bounds_the_connections() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert connection_limit(HttpBounds(max_connections=10)) == 10
    assert connection_limit(HttpBounds(max_connections=10**9)) < soft


EXHAUSTED = """
import asyncio, os, resource, sys
import uvloop
from gateway.http.bounds import HttpBounds
from gateway.http.connection import response_stream
from gateway.http.server import HttpServer

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
held = []

def fill():
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass

async def app(scope, receive, send):
    stream = response_stream(scope)
    stream.start(200, [])
    if scope["path"] == "/stream":
        while not stream.disconnected:
            stream.write(b"tick")
            await asyncio.sleep(0.01)
    elif scope["path"] == "/fill":
        fill()
    elif scope["path"] == "/free":
        while held:
            os.close(held.pop())
    stream.finish(b"%d" % len(held))

async def main():
    server = HttpServer(app, HttpBounds(), on_reject=lambda code: None)
    print(await server.start("127.0.0.1", 0), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

uvloop.run(main())
"""


async def test_f25_without_descriptors_streams_go_on_and_accepting_recovers(tmp_path: Path) -> None:
    script = tmp_path / "exhausted.py"
    script.write_text(EXHAUSTED)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        await _exhaust(process.pid, int(await asyncio.wait_for(process.stdout.readline(), 60)))
    finally:
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 30)
    assert process.returncode == 0


async def _exhaust(pid: int, port: int) -> None:
    async def connect() -> RawClient:
        return RawClient(*await asyncio.open_connection("127.0.0.1", port))

    stream, control = await connect(), await connect()
    stream.send(GET.replace(b"echo", b"stream"))
    await stream.reader.readuntil(b"tick")
    control.send(GET.replace(b"echo", b"fill"))
    assert int((await control.answer()).body) > 100
    waiting = [await connect() for _ in range(20)]
    used = sum(psutil.Process(pid).cpu_times()[:2])
    for _ in range(50):
        await stream.reader.readuntil(b"tick")
    # A loop that spins on accept() would use all of this half second and more.
    assert sum(psutil.Process(pid).cpu_times()[:2]) - used < 0.25
    control.send(GET.replace(b"echo", b"free"))
    assert (await control.answer()).body == b"0"
    fresh = await connect()
    fresh.send(GET)
    assert (await fresh.answer()).status == 200
    await stream.reader.readuntil(b"tick")
    for client in (stream, control, fresh, *waiting):
        client.leave()


async def test_f57_draining_closes_the_idle_finishes_the_running_and_answers_the_new() -> None:
    release = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        stream = response_stream(scope)
        stream.start(200, [])
        if scope["path"] == "/stream":
            stream.write(b"first ")
            await release.wait()
        stream.finish(b"last")

    async with serving(app, replace(QUICK, idle_timeout=30)) as front:
        idle, used, running, started = [await front.connect() for _ in range(4)]
        used.send(GET)
        await used.answer()
        running.send(GET.replace(b"echo", b"stream") + GET)
        started.send(GET[:10])
        await running.reader.readuntil(b"first ")
        await until(lambda: front.server.connections == 4)
        front.server.begin_drain()
        assert await idle.rest() == b""
        assert await used.rest() == b""
        started.send(GET[10:])
        answer = await started.answer()
        assert (answer.status, answer.header("connection")) == (200, "close")
        assert (await front.ask(GET)).header("connection") == "close"
        assert await front.server.wait_idle(0.05) is False
        release.set()
        assert await running.rest() == b"\r\n4\r\nlast\r\n0\r\n\r\n"
        assert await front.server.wait_idle(10) is True
        front.server.close_listener()
        with pytest.raises(OSError, match=r"refused|Connect"):
            await front.connect()


async def test_wait_idle_waits_for_the_bytes_too() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        response_stream(scope).start(200, [])
        response_stream(scope).finish(b"x" * 3_000_000)

    async with serving(app, replace(QUICK, write_stall_timeout=30)) as front:
        client = await front.connect(receive_buffer=4096)
        client.send(GET)
        await client.reader.readuntil(b"\r\n")
        front.server.begin_drain()
        assert await front.server.wait_idle(0.1) is False
        reading = asyncio.create_task(client.rest())
        assert await front.server.wait_idle(10) is True
        assert (await reading).endswith(b"x" * 1000)


async def test_abort_all_tells_the_running_applications() -> None:
    told = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        response_stream(scope).on_disconnect = told.set
        await told.wait()

    async with serving(app) as front:
        client = await front.connect()
        client.send(GET)
        await until(lambda: front.server.running == 1)
        front.server.abort_all()
        assert await front.server.wait_idle(10) is True
        assert told.is_set()


async def test_f23_idle_connections_are_cheap() -> None:
    async with serving(echo(Seen()), replace(QUICK, idle_timeout=60)) as front:
        await _open_and_use(front, 50)
        process = psutil.Process()
        before = process.memory_info().rss
        clients = await _open_and_use(front, 1000)
        # Both ends live in this process; 10,000 connections may cost 300 MB.
        assert process.memory_info().rss - before < 60_000_000
        assert len(asyncio.all_tasks()) < 20
        for client in clients:
            client.writer.transport.abort()


async def _open_and_use(front: Front, count: int) -> list[RawClient]:
    clients = [await front.connect() for _ in range(count)]
    for client in clients:
        client.send(GET)
    for client in clients:
        assert (await client.answer()).status == 200
    return clients


async def test_f27_a_storm_of_bad_requests_does_not_stop_good_ones() -> None:
    bad = (b"GET @ HTTP/1.1\r\n\r\n", GET[:-2] + b"X: " + b"a" * 20_000, chunked(b"-1\r\n"), b"\x16\x03\x01")
    async with serving(echo(Seen())) as front:
        for round_ in range(25):
            assert all([(await front.exchange(request))[:10] == b"HTTP/1.1 4" for request in bad])
            assert (await front.ask(post(b"good"))).body == b"POST /echo 4", round_
        assert front.rejected.total() == 100
