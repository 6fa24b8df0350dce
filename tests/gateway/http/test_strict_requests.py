"""Table H of the abuse list: what is not exactly one well-formed HTTP/1.1 request never reaches the application."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.http.bounds import HttpBounds
from gateway.http.connection import response_stream
from tests.gateway.http.support import GET, QUICK, Seen, chunked, echo, post, read_body, serving, until

HOST = b"Host: localhost\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"

MALFORMED = {
    "H01 length and chunked": b"POST /echo HTTP/1.1\r\n" + HOST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "H01 chunked and length": b"POST /echo HTTP/1.1\r\n" + HOST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "H02 two lengths": b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "H02 one length twice": b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "H02 a list of lengths": b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 3, 3\r\n\r\nabc",
    "signed length": b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: +3\r\n\r\nabc",
    "hexadecimal length": b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 0x3\r\n\r\nabc",
    "length beyond an int64": b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 18446744073709551617\r\n\r\nabc",
    "empty length": b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length:\r\n\r\n",
    "gzip, chunked": b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"POST /echo HTTP/1.1\r\n" + HOST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "odd encoding": b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.0 chunked": b"POST /echo HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "H04 bare LF after the size": chunked(b"3\nabc\r\n0\r\n\r\n" + SMUGGLED),
    "H04 bare LF after the data": chunked(b"3\r\nabc\n0\r\n\r\n" + SMUGGLED),
    "H04 bare LF after the last chunk": chunked(b"0\n\r\n" + SMUGGLED),
    "H04 bare LF at the end": chunked(b"0\r\n\n" + SMUGGLED),
    "H05 long extension": chunked(b"3;" + b"a" * 5000 + b"\r\nabc\r\n0\r\n\r\n" + SMUGGLED),
    "H05 long extensions together": chunked((b"1;" + b"a" * 900 + b"\r\nx\r\n") * 5 + b"0\r\n\r\n"),
    "H06 negative size": chunked(b"-1\r\nabc\r\n0\r\n\r\n" + SMUGGLED),
    "H06 0x size": chunked(b"0x5\r\nabcde\r\n0\r\n\r\n" + SMUGGLED),
    "H06 17 digits": chunked(b"F0000000000000003\r\nabc\r\n0\r\n\r\n"),
    "H06 17 digits, mostly zeros": chunked(b"00000000000000003\r\nabc\r\n0\r\n\r\n"),
    "space before the size": chunked(b" 3\r\nabc\r\n0\r\n\r\n"),
    "space after the size": chunked(b"3 \r\nabc\r\n0\r\n\r\n"),
    "no size": chunked(b"\r\nabc\r\n0\r\n\r\n"),
    "data longer than the size": chunked(b"3\r\nabcd\r\n0\r\n\r\n"),
    "odd trailer": chunked(b"0\r\nX Y: z\r\n\r\n"),
    "long trailers": chunked(b"0\r\n" + b"X-T: y\r\n" * 1000 + b"\r\n"),
    "chunks of one byte without end": chunked(b"1\r\nx\r\n" * 40_000),
    "H08 obs-fold": b"GET /echo HTTP/1.1\r\n" + HOST + b"X-A: b\r\n c\r\n\r\n",
    "H08 obs-fold first": b"GET /echo HTTP/1.1\r\n x: y\r\n" + HOST + b"\r\n",
    "H09 space before the colon": b"GET /echo HTTP/1.1\r\n" + HOST + b"X-A : b\r\n\r\n",
    "no colon": b"GET /echo HTTP/1.1\r\n" + HOST + b"X-A\r\n\r\n",
    "empty name": b"GET /echo HTTP/1.1\r\n" + HOST + b": b\r\n\r\n",
    "name with a bracket": b"GET /echo HTTP/1.1\r\n" + HOST + b"X(A): b\r\n\r\n",
    "H14 target @evil": b"GET @evil HTTP/1.1\r\n" + HOST + b"\r\n",
    "H14 target *": b"POST * HTTP/1.1\r\n" + HOST + b"\r\n",
    "absolute target": b"GET http://localhost/echo HTTP/1.1\r\n" + HOST + b"\r\n",
    "target with a fragment": b"GET /echo#x HTTP/1.1\r\n" + HOST + b"\r\n",
    "target with a space": b"GET /ec ho HTTP/1.1\r\n" + HOST + b"\r\n",
    "target with UTF-8": "GET /é HTTP/1.1\r\n".encode() + HOST + b"\r\n",
    "H18 NUL": b"GET /echo HTTP/1.1\r\n" + HOST + b"X-A: b\x00c\r\n\r\n",
    "H18 bare CR": b"GET /echo HTTP/1.1\r\n" + HOST + b"X-A: b\rc\r\n\r\n",
    "control character": b"GET /echo HTTP/1.1\r\n" + HOST + b"X-A: b\x01c\r\n\r\n",
    "bare LF": b"GET /echo HTTP/1.1\r\n" + HOST + b"X-A: b\nX-B: c\r\n\r\n",
    "bare LF everywhere": b"GET /echo HTTP/1.1\nHost: localhost\n\n",
    "H19 HTTP/0.9": b"GET /echo\r\n",
    "HTTP/0.9 with a header": b"GET /echo\r\n" + HOST + b"\r\n",
    "HTTP/1.2": b"GET /echo HTTP/1.2\r\n" + HOST + b"\r\n",
    "HTTP/2.0": b"GET /echo HTTP/2.0\r\n" + HOST + b"\r\n",
    "lower-case version": b"GET /echo http/1.1\r\n" + HOST + b"\r\n",
    "H20 long method": b"A" * 5000 + b" /echo HTTP/1.1\r\n" + HOST + b"\r\n",
    "unknown method": b"BREW /echo HTTP/1.1\r\n" + HOST + b"\r\n",
    "method with a colon": b"GE:T /echo HTTP/1.1\r\n" + HOST + b"\r\n",
    "H21 HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "H21 TLS hello": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "two empty lines first": b"\r\n\r\n" + GET,
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
}  # fmt: skip


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_requests_are_answered_and_closed_without_running_anything(request_bytes: bytes) -> None:
    seen = Seen()
    async with serving(echo(seen), QUICK) as front:
        client = await front.connect()
        client.send(request_bytes)
        answer = await client.answer()
        assert await client.rest() == b""
        assert (answer.status, answer.header("connection")) == (400, "close")
        assert (answer.error["type"], answer.error["code"], answer.error["param"]) == (
            "invalid_request_error", "malformed_request", None)  # fmt: skip
        assert front.rejected == {"malformed_request": 1}
    assert not seen.bodies
    assert not [scope for scope in seen.scopes if scope["path"] == "/smuggled"]


@pytest.mark.parametrize(
    "request_bytes", [value for key, value in MALFORMED.items() if len(value) < 600], ids=lambda value: repr(value[:40])
)
async def test_malformed_requests_get_the_same_answer_byte_by_byte(request_bytes: bytes) -> None:
    seen = Seen()
    async with serving(echo(seen), replace(QUICK, header_timeout=HttpBounds().header_timeout)) as front:
        client = await front.connect()
        await client.send_in_pieces(request_bytes, 1)
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (400, "malformed_request")
        assert await client.rest() == b""
    assert not seen.bodies


HOSTS = {
    "H10 none": b"",
    "H11 two": b"Host: localhost\r\nHost: localhost\r\n",
    "H11 two different": b"Host: localhost\r\nHost: evil\r\n",
    "H12 path": b"Host: a/?\r\n",
    "H12 fragment": b"Host: a/#\r\n",
    "H12 user": b"Host: a@b\r\n",
    "H12 space": b"Host: a b\r\n",
    "empty": b"Host:\r\n",
    "list": b"Host: a,b\r\n",
    "bad port": b"Host: a:port\r\n",
    "long port": b"Host: a:123456\r\n",
    "only a port": b"Host: :80\r\n",
    "UTF-8": "Host: é\r\n".encode(),
    "half an address": b"Host: [::1\r\n",
    "long": b"Host: " + b"a" * 300 + b"\r\n",
}


@pytest.mark.parametrize("line", HOSTS.values(), ids=HOSTS.keys())
async def test_the_host_must_be_one_host(line: bytes) -> None:
    seen = Seen()
    async with serving(echo(seen)) as front:
        answer = await front.ask(b"GET /echo HTTP/1.1\r\n" + line + b"\r\n")
        assert (answer.status, answer.error["code"]) == (400, "invalid_host")
    assert not seen.scopes


@pytest.mark.parametrize(
    ("host", "status"),
    [(b"api.local", 200), (b"API.local:8000", 200), (b"[::1]:8000", 200), (b"evil", 400), (b"api.local.evil", 400),
     (b"xapi.local", 400), (b"api.local.", 400)],
)  # fmt: skip
async def test_h12_only_allowed_hosts_are_served(host: bytes, status: int) -> None:
    async with serving(echo(Seen()), replace(QUICK, allowed_hosts=("api.local", "[::1]"))) as front:
        answer = await front.ask(b"GET /echo HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        assert answer.status == status


async def test_http10_needs_no_host_and_is_closed_after_one_answer() -> None:
    async with serving(echo(Seen())) as front:
        raw = await front.exchange(b"GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + GET)
        assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
        assert raw.endswith(b"connection: close\r\n\r\nGET /echo 0")


@pytest.mark.parametrize(
    "header",
    [b"X-Long: " + b"a" * 16_400 + b"\r\n", b"X: y\r\n" * 101, (b"X-Some: " + b"a" * 1000 + b"\r\n") * 40],
    ids=["H15 one line", "H16 lines", "H16 bytes"],
)
@pytest.mark.parametrize("end", [b"\r\n", b""], ids=["whole", "unfinished"])
async def test_h15_h16_big_headers(header: bytes, end: bytes) -> None:
    seen = Seen()
    async with serving(echo(seen)) as front:
        raw = await front.exchange(b"GET /echo HTTP/1.1\r\nHost: localhost\r\n" + header + end)
        assert raw.startswith(b"HTTP/1.1 431 ")
        assert b'"code":"header_too_large"' in raw
        assert front.rejected == {"header_too_large": 1}
    assert not seen.scopes


async def test_headers_up_to_the_bounds_are_served() -> None:
    async with serving(echo(Seen())) as front:
        assert (await front.ask(GET[:-2] + b"X-Y: z\r\n" * 99 + b"\r\n")).status == 200
        assert (await front.ask(GET[:-2] + b"X-Long: " + b"a" * (16_384 - 8) + b"\r\n\r\n")).status == 200


@pytest.mark.parametrize("end", [b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b""], ids=["whole", "unfinished"])
async def test_a_long_target_is_414(end: bytes) -> None:
    async with serving(echo(Seen())) as front:
        raw = await front.exchange(b"GET /" + b"a" * 9000 + end)
        assert raw.startswith(b"HTTP/1.1 414 ")
        assert b'"code":"uri_too_long"' in raw


async def test_h25_a_declared_body_over_the_limit_is_refused_before_it_is_read() -> None:
    seen = Seen()
    async with serving(echo(seen), replace(QUICK, max_body_bytes=1000)) as front:
        answer = await front.ask(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1001\r\n\r\n")
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")
        assert answer.header("connection") == "close"
        assert (await front.ask(post(b"x" * 1000))).status == 200
    assert seen.disconnects == 1


async def test_h26_a_chunked_body_is_cut_where_it_crosses_the_limit() -> None:
    seen = Seen()
    async with serving(echo(seen), replace(QUICK, max_body_bytes=1000)) as front:
        client = await front.connect()
        client.send(chunked(b"3e8\r\n" + b"x" * 1000 + b"\r\n"))
        await until(lambda: len(seen.scopes) == 1)
        client.send(b"1\r\n")
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")
        assert await client.rest() == b""
        assert (await front.ask(chunked(b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n"))).status == 200
    assert seen.disconnects == 1


async def test_the_application_sets_the_limit_of_a_body() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        response_stream(scope).body_limit = 5000 if scope["path"] == "/more" else 10
        body = await read_body(receive)
        if body is not None:
            response_stream(scope).start(200, [])
            response_stream(scope).finish(b"%d" % len(body))

    async with serving(app, replace(QUICK, max_body_bytes=1000)) as front:
        assert (await front.ask(post(b"x" * 4000, path=b"/more"))).body == b"4000"
        assert (await front.ask(chunked(b"fa0\r\n" + b"x" * 4000 + b"\r\n0\r\n\r\n", path=b"/more"))).body == b"4000"
        assert (await front.ask(post(b"x" * 11, path=b"/less"))).status == 413
        assert (await front.ask(chunked(b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n", path=b"/less"))).status == 413


@pytest.mark.parametrize("value", [b"websocket", b"WebSocket", b"h2c, websocket", b"websocket/13"])
async def test_h30_websocket_upgrades_are_refused(value: bytes) -> None:
    seen = Seen()
    async with serving(echo(seen)) as front:
        answer = await front.ask(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: " + value + b"\r\n\r\n")
        assert (answer.status, answer.error["code"]) == (400, "upgrade_not_supported")
    assert not seen.scopes


async def test_other_upgrades_are_ignored() -> None:
    async with serving(echo(Seen())) as front:
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        assert (await front.ask(GET[:-2] + upgrade + b"\r\n")).body == b"GET /echo 0"
        assert (await front.ask(post(b"abc", extra=upgrade))).body == b"POST /echo 3"
        assert (await front.ask(chunked(b"3\r\nabc\r\n0\r\n\r\n").replace(b"\r\n\r\n", b"\r\n" + upgrade + b"\r\n", 1))
                ).body == b"POST /echo 3"  # fmt: skip


async def test_chunked_bodies_with_extensions_and_trailers_are_decoded() -> None:
    seen = Seen()
    async with serving(echo(seen)) as front:
        raw = b'3;a=b\r\nabc\r\n00A;x="y z"\r\n0123456789\r\n0\r\nX-Trailer: yes\r\n\r\n'
        assert (await front.ask(chunked(raw))).body == b"POST /echo 13"
        small = b"".join(b"1\r\n%c\r\n" % byte for byte in b"slow but honest " * 100) + b"0\r\n\r\n"
        assert (await front.ask(chunked(small))).body == b"POST /echo 1600"
    assert seen.bodies == [b"abc0123456789", b"slow but honest " * 100]


async def test_an_empty_line_before_a_request_is_ignored() -> None:
    async with serving(echo(Seen())) as front:
        client = await front.connect()
        for _ in range(2):
            client.send(b"\r\n" + GET)
            assert (await client.answer()).status == 200
        await client.send_in_pieces(b"\r\n" + GET, 1)
        assert (await client.answer()).status == 200


async def test_two_authorization_headers_are_left_to_the_application() -> None:
    seen = Seen()
    async with serving(echo(seen)) as front:
        await front.ask(GET[:-2] + b"Authorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n")
    assert [value for name, value in seen.scopes[0]["headers"] if name == b"authorization"] == [
        b"Bearer a",
        b"Bearer b",
    ]


async def test_rejections_carry_the_error_contract() -> None:
    async with serving(echo(Seen())) as front:
        first, second = [await front.ask(b"GET @evil HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(2)]
    assert first.header("content-type") == "application/json"
    assert first.header("x-content-type-options") == "nosniff"
    assert first.header("x-frame-options") == "DENY"
    assert first.header("cache-control") == "no-store"
    assert first.header("x-should-retry") == "false"
    assert first.header("date")
    assert len(first.header("x-request-id") or "") == 36
    assert first.header("x-request-id") != second.header("x-request-id")


async def test_h21_a_flood_of_rejections_logs_one_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sluice.http")
    async with serving(echo(Seen())) as front:
        for _ in range(50):
            await front.exchange(b"\x16\x03\x01")
        assert front.rejected["malformed_request"] == 50
    lines = [record for record in caplog.records if record.message.startswith("rejected")]
    span = lines[-1].created - lines[0].created
    assert len(lines) <= span + 1
