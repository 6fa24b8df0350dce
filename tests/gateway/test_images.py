"""Images in requests, from the wire to the answer: table I of the bad inputs, and what comes before what.

The engine is the stub, which says other words about other pictures; sockets, fetcher and decoder are real.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.contract import assert_error
from tests.support.gateways import Live, eventually, running
from tests.support.image_server import ImageServer, image_servers
from tests.support.pictures import inline, picture, png
from tests.support.stub_engine import StubConfig, StubEngine

PUBLIC = "127.0.0.2"
URL = "messages[0].content[0].image_url.url"


@pytest.fixture
async def servers() -> AsyncIterator[list[ImageServer]]:
    async with image_servers(PUBLIC, "127.0.0.1") as running:
        yield running


@pytest.fixture
async def server(servers: list[ImageServer]) -> AsyncIterator[ImageServer]:
    yield servers[0]
    await eventually(lambda: servers[0].open == 0)


def settings(server: ImageServer, **more: Any) -> dict[str, Any]:
    from_where = {"allowed_networks": [f"{PUBLIC}/32"], "allowed_ports": [80, 443, server.port]}
    return {**from_where, "image_seconds": 2.0, "image_bytes": 300_000, **more}


@pytest.fixture
async def live(server: ImageServer, tmp_path: Path) -> AsyncIterator[Live]:
    async with running(StubEngine(StubConfig(images=True)), tmp_path, media=settings(server)) as gateway:
        yield gateway


def client(live: Live) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=live.url, headers=live.authorization, timeout=30)


def image(url: str, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


async def ask(live: Live, *parts: Any, path: str = "/v1/chat/completions", **fields: Any) -> httpx.Response:
    body = {"model": "stub", "messages": [{"role": "user", "content": list(parts)}], **fields}
    async with client(live) as http:
        return await http.post(path, json=body)


def at(server: ImageServer, path: str = "ok.png") -> str:
    return f"http://{PUBLIC}:{server.port}/{path}"


@pytest.mark.parametrize(("redirects", "status"), [(2, 200), (1, 400)])
async def test_redirects_are_followed_as_often_as_is_set(
    server: ImageServer, tmp_path: Path, redirects: int, status: int
) -> None:
    engine = StubEngine(StubConfig(images=True))
    async with running(engine, tmp_path, media=settings(server, redirects=redirects)) as live:
        answer = await ask(live, image(at(server, "hops?n=2")))
        if status == 200:
            assert answer.status_code == 200, answer.text
        else:
            assert_error(answer, 400, "image_fetch_failed", URL)
    assert len(server.paths()) == redirects + 1


TABLE = {
    "I01": ("file:///etc/passwd", "invalid_image_url"),
    "I02": ("http://127.0.0.1:{port}/", "url_not_allowed"),
    "I02 v6": ("http://[::1]:{port}/", "url_not_allowed"),
    "I02 any": ("http://0.0.0.0:{port}/", "url_not_allowed"),
    "I02 mapped": ("http://[::ffff:127.0.0.1]:{port}/", "url_not_allowed"),
    "I02 decimal": ("http://2130706433:{port}/", "url_not_allowed"),
    "I02 octal": ("http://0177.1:{port}/", "url_not_allowed"),
    "I02 hex": ("http://0x7f.1:{port}/", "url_not_allowed"),
    "I02 name": ("http://localhost:{port}/", "url_not_allowed"),
    "I04": ("http://10.0.0.1/", "url_not_allowed"),
    "I04 NAT": ("http://100.64.0.1/", "url_not_allowed"),
    "I04 ULA": ("http://[fd00::1]/", "url_not_allowed"),
    "I04 multicast": ("http://224.0.0.1/", "url_not_allowed"),
    "I04 NAT64": ("http://[64:ff9b::7f00:1]/", "url_not_allowed"),
    "I05": ("http://allowed.example\\@127.0.0.1/", "url_not_allowed"),
    "I05 CRLF": ("http://127.0.0.2:{port}/\r\nX: y", "url_not_allowed"),
    "I05 tab": ("http://127.0.0\t.2:{port}/", "url_not_allowed"),
    "I05 fragment": ("http://127.0.0.1#@allowed.example/", "url_not_allowed"),
    "I05 IDNA": ("http://ⓛocalhost/", "url_not_allowed"),
    "I06": ("http://127.0.0.2:{port}/to?url=http://127.0.0.1:{port}/", "url_not_allowed"),
    "I08": ("gopher://127.0.0.2:{port}/", "invalid_image_url"),
    "I08 script": ("javascript:alert(1)", "invalid_image_url"),
    "I08 blob": ("blob:http://127.0.0.2/x", "invalid_image_url"),
    "I08 data": ("data:text/html;base64,PGI+", "invalid_image_url"),
    "I09": ("http://127.0.0.2:22/", "url_not_allowed"),
    "I09 redis": ("http://127.0.0.2:6379/", "url_not_allowed"),
    "I09 socket": ("unix:///run/docker.sock", "invalid_image_url"),
    "I10": ("data:image/png,AAAA", "invalid_base64"),
    "I10 bad": ("data:image/png;base64,A", "invalid_base64"),
    "I11": ("data:image/png;base64,", "invalid_image"),
    "I11 cut": (inline(picture()[:50]), "invalid_image"),
    "I11 chunk": (inline(picture().replace(b"IDAT", b"ID\0T")), "invalid_image"),
    "I12": (inline(png(50_000, 50_000, b"\0" * 100_000)), "image_too_large"),
    "I12 100 MP": (inline(png(10_000, 10_000, b"\0" * 100_000)), "image_too_large"),
    "I15": ("http://127.0.0.2:{port}/drip", "image_fetch_failed"),
    "I15 head": ("http://127.0.0.2:{port}/silent", "image_fetch_failed"),
    "I16": ("http://127.0.0.2:{port}/endless", "image_too_large"),
    "I16 lying": ("http://127.0.0.2:{port}/boasting", "image_too_large"),
    "I16 gzip": ("http://127.0.0.2:{port}/gzip", "image_too_large"),
    "wrong type": ("http://127.0.0.2:{port}/ok?type=text/html", "invalid_image"),
    "no name": ("http://nowhere.invalid/", "image_fetch_failed"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("url", "code"), TABLE.values(), ids=TABLE)
async def test_table_i(live: Live, servers: list[ImageServer], url: str, code: str) -> None:
    server, sink = servers
    response = await ask(live, image(url.replace("{port}", str(server.port))))
    assert_error(response, 400, code, URL, "invalid_request_error")
    assert sink.connections == 0
    assert live.engine.accounts == {}
    assert live.ledger.entries == []
    assert (await ask(live, image(at(server)))).status_code == 200


async def test_what_is_too_large_for_a_request(server: ImageServer, tmp_path: Path) -> None:
    media = settings(server, image_bytes=1000, request_pixels=150)
    async with running(StubEngine(StubConfig(images=True)), tmp_path, media=media) as live:
        large = f"data:image/png;base64,{base64.b64encode(bytes(1001)).decode()}"
        assert_error(await ask(live, image(large)), 413, "request_too_large", URL)
        squares = [image(inline(picture(size=(10, 10), color=color))) for color in ("red", "blue")]
        response = await ask(live, *squares)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "image_too_large")


async def test_so_many_images_are_refused_before_any_is_fetched(live: Live, server: ImageServer) -> None:
    assert (await ask(live, *[image(at(server, f"{n}.png")) for n in range(16)])).status_code == 200
    assert len(server.requests) == 16
    response = await ask(live, *[image(at(server, f"{n}.png")) for n in range(17)])
    assert_error(response, 400, "too_many_images", "messages")
    assert len(server.requests) == 16


async def test_a_model_that_takes_text_only(server: ImageServer, tmp_path: Path) -> None:
    async with running(StubEngine(), tmp_path, media=settings(server)) as live:
        for path in ("/v1/chat/completions", "/v1/tokenize"):
            response = await ask(live, {"type": "text", "text": "x"}, image(at(server)), path=path)
            assert_error(response, 400, "unsupported_modality", "messages[0].content")
    assert server.connections == 0


async def test_nothing_is_fetched_for_who_may_not_ask(live: Live, server: ImageServer) -> None:
    body = {"model": "stub", "messages": [{"role": "user", "content": [image(at(server))]}]}
    async with httpx.AsyncClient(base_url=live.url) as http:
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 401
    async with client(live) as http:
        for wrong in ({"model": "other"}, {"temperature": 9}, {"messages": [*body["messages"], {"role": "x"}]}):
            response = await http.post("/v1/chat/completions", json={**body, **wrong})
            assert response.status_code in (400, 404)
    assert server.connections == 0


async def test_pictures_reach_the_engine(live: Live, server: ImageServer) -> None:
    server.image = picture(size=(30, 20), color="red")
    fetched = await ask(live, {"type": "text", "text": "See"}, image(at(server)))
    sent = await ask(live, {"type": "text", "text": "See"}, image(inline(server.image)))
    other = await ask(live, {"type": "text", "text": "See"}, image(inline(picture(size=(30, 20), color="blue"))))
    texts = [each.json()["choices"][0]["message"]["content"] for each in (fetched, sent, other)]
    assert texts[0] == texts[1] != texts[2]
    tokens = (await ask(live, {"type": "text", "text": "See"}, image(at(server)), path="/v1/tokenize")).json()["count"]
    assert fetched.json()["usage"]["prompt_tokens"] == tokens
    assert live.metric("sluice_images_total", source="http", outcome="ok") == 2
    assert live.metric("sluice_images_total", source="inline", outcome="ok") == 2
    assert live.metric("sluice_image_bytes_total", source="http") == 2 * len(server.image)
    assert live.metric("sluice_image_seconds_count", source="inline") == 2


async def test_who_leaves_while_an_image_is_fetched(live: Live, server: ImageServer) -> None:
    """F19: the fetch is cancelled, its socket closed, and nothing is left of the request."""
    task = asyncio.ensure_future(ask(live, image(at(server, "drip"))))
    await eventually(lambda: server.open == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await eventually(lambda: server.open == 0, seconds=2)
    await eventually(lambda: live.metric("sluice_images_total", source="http", outcome="cancelled") == 1)
    assert live.ledger.entries == []
    assert live.metric("sluice_requests_in_flight") == 0


async def test_the_requests_own_deadline(live: Live, server: ImageServer) -> None:
    body = {"model": "stub", "messages": [{"role": "user", "content": [image(at(server, "drip"))]}]}
    async with client(live) as http:
        response = await http.post("/v1/chat/completions", json=body, headers={"X-Request-Deadline-Ms": "200"})
    assert_error(response, 503, "queue_timeout")
    await eventually(lambda: server.open == 0, seconds=2)


async def test_a_burst_beyond_the_limit_fetches_little(server: ImageServer, tmp_path: Path) -> None:
    """The first refusal is known to those who wait for their turn to fetch."""
    engine = StubEngine(StubConfig(images=True))
    limits = {"key": {"requests_per_minute": 2}}
    async with running(engine, tmp_path, media=settings(server, requests=1), limits=limits) as live:
        answers = await asyncio.gather(*(ask(live, image(at(server, f"{n}.png"))) for n in range(12)))
    assert sorted(each.status_code for each in answers) == [200] * 2 + [429] * 10
    assert len(server.requests) < 8
