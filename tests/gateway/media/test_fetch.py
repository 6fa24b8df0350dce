"""Fetching from servers that mean no good, over real sockets and with the real dialer."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_network
from urllib.parse import quote

import pytest

from gateway.media.dial import DialPolicy, Doorman
from gateway.media.faults import MediaFault
from gateway.media.fetch import ByteBudget, Fetcher, FetchLimits
from gateway.media.resolver import MAX_LOOKUPS, Resolver
from tests.support.gateways import eventually
from tests.support.image_server import ImageServer, image_servers

#: Plays the public internet; everything else on loopback is as forbidden as ever.
PUBLIC = "127.0.0.2"
LIMIT = 200_000


class Names:
    """A name server: each look-up of a name gets its next answer, the last one for ever."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.answers = {name.replace("_", "."): list(each) for name, each in answers.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self.answers.get(host)
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return answers.pop(0) if len(answers) > 1 else answers[0]


def fetcher(server: ImageServer, names: Names | None = None, seconds: float = 5.0, **policy: object) -> Fetcher:
    allowed = {"ports": [server.port], "networks": [ip_network(f"{PUBLIC}/32")], **policy}
    doorman = Doorman(DialPolicy(**allowed), Resolver(0.3, names or Names(pictures_example=[[PUBLIC]])))  # type: ignore[arg-type]
    return Fetcher(doorman, FetchLimits(seconds))


async def fault(fetching: Fetcher, url: str) -> str:
    with pytest.raises(MediaFault) as caught:
        await fetching.fetch(url, ByteBudget(LIMIT, LIMIT))
    assert "127." not in str(caught.value)
    return caught.value.code


@pytest.fixture
async def servers() -> AsyncIterator[list[ImageServer]]:
    async with image_servers(PUBLIC, "127.0.0.1") as running:
        yield running


@pytest.fixture
async def server(servers: list[ImageServer]) -> AsyncIterator[ImageServer]:
    yield servers[0]
    await eventually(lambda: servers[0].open == 0)  # whatever happened, its socket is closed


@pytest.fixture
async def sink(servers: list[ImageServer]) -> AsyncIterator[ImageServer]:
    """What must never be reached: the same port on an address that is not public."""
    yield servers[1]
    assert servers[1].connections == 0


def at(server: ImageServer, path: str, host: str = "pictures.example") -> str:
    return f"http://{host}:{server.port}/{path}"


@pytest.mark.parametrize("path", ["ok.png", "untyped", "ok?type=application/octet-stream", "hops?n=3", "ok?type="])
async def test_fetches(server: ImageServer, path: str) -> None:
    assert await fetcher(server).fetch(at(server, path), ByteBudget(LIMIT, LIMIT)) == server.image


async def test_asks_for_what_it_wants_and_tells_nothing(server: ImageServer) -> None:
    await fetcher(server).fetch(at(server, "ok.png?a=b%20c"), ByteBudget(LIMIT, LIMIT))
    head = server.requests[0].lower()
    assert head.startswith("get /ok.png?a=b%20c http/1.1\r\n")
    assert f"host: pictures.example:{server.port}\r\n" in head
    assert "accept-encoding: identity\r\n" in head
    assert not {"cookie", "authorization", "referer"} & {line.partition(":")[0] for line in head.split("\r\n")}


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("endless", "image_too_large"),
        ("chunks", "image_too_large"),
        ("boasting", "image_too_large"),
        ("gzip", "image_too_large"),
        ("short", "image_fetch_failed"),
        ("nonsense", "image_fetch_failed"),
        ("large_head", "image_fetch_failed"),
        ("hops?n=4", "image_fetch_failed"),
        ("ok?type=text/html", "invalid_image"),
        ("to?url=", "image_fetch_failed"),
        *((f"status?code={code}", "image_fetch_failed") for code in (201, 204, 206, 304, 400, 401, 404, 429, 500, 503)),
    ],
)
async def test_bad_answers(server: ImageServer, path: str, code: str) -> None:
    assert await fault(fetcher(server), at(server, path)) == code


async def test_a_body_that_is_longer_than_announced_is_cut(server: ImageServer) -> None:
    assert await fetcher(server).fetch(at(server, "modest"), ByteBudget(LIMIT, LIMIT)) == server.image[:20]


@pytest.mark.parametrize("path", ["silent", "drip", "dripping_head"])
async def test_slow_answers(server: ImageServer, path: str) -> None:
    started = time.monotonic()
    assert await fault(fetcher(server, seconds=0.5), at(server, path)) == "image_fetch_failed"
    assert time.monotonic() - started < 5
    assert server.connections == 1  # and no second try


async def test_bytes_of_all_images_together(server: ImageServer) -> None:
    budget = ByteBudget(LIMIT, len(server.image) + 10)
    await fetcher(server).fetch(at(server, "ok"), budget)
    with pytest.raises(MediaFault) as caught:
        await fetcher(server).fetch(at(server, "ok"), budget)
    assert caught.value.code == "image_too_large"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "[::1]", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "2130706433", "0177.1", "0x7f.1", "localhost",
     "10.0.0.1", "100.64.0.1", "[fc00::1]", "[64:ff9b::7f00:1]", "224.0.0.1", "169.254.169.254", "[2002:7f00:1::]"],
)  # fmt: skip
async def test_hosts_that_are_not_public(server: ImageServer, sink: ImageServer, host: str) -> None:
    fetching = fetcher(server, Names(localhost=[["127.0.0.1", "::1"]]))
    assert await fault(fetching, at(server, "ok", host)) == "url_not_allowed"
    assert await fault(fetching, f"http://{host}/") == "url_not_allowed"


@pytest.mark.parametrize("port", [22, 25, 81, 6379, 65535])
async def test_ports_that_are_not_allowed(server: ImageServer, port: int) -> None:
    assert await fault(fetcher(server), f"http://pictures.example:{port}/") == "url_not_allowed"


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}/x", "//127.0.0.1:{}/x", "http://hidden.example:{}/x"])
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_to_a_private_address(server: ImageServer, sink: ImageServer, url: str, code: int) -> None:
    names = Names(pictures_example=[[PUBLIC]], hidden_example=[["127.0.0.1"]])
    to = quote(url.format(server.port), safe="")
    assert await fault(fetcher(server, names), at(server, f"to?code={code}&url={to}")) == "url_not_allowed"
    assert server.connections == 1


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "gopher://pictures.example/", "http://a@b/", "data:,x", "http://["]
)
async def test_a_redirect_to_something_else(server: ImageServer, url: str) -> None:
    assert await fault(fetcher(server), at(server, f"to?url={quote(url, safe='')}")) == "url_not_allowed"


async def test_a_name_that_changes_its_mind(server: ImageServer, sink: ImageServer) -> None:
    """Rebinding: public when it is checked, private right afterwards. It is asked once, and that is connected to."""
    names = Names(pictures_example=[[PUBLIC], ["127.0.0.1"]])
    fetching = fetcher(server, names)
    assert await fetching.fetch(at(server, "ok"), ByteBudget(LIMIT, LIMIT)) == server.image
    assert names.asked == ["pictures.example"]
    assert await fault(fetching, at(server, "ok")) == "url_not_allowed"


async def test_a_name_that_changes_its_mind_between_redirects(server: ImageServer, sink: ImageServer) -> None:
    names = Names(pictures_example=[[PUBLIC], ["127.0.0.1"]])
    assert await fault(fetcher(server, names), at(server, "hops?n=1")) == "url_not_allowed"
    assert server.paths() == ["/hops?n=1"]


@pytest.mark.parametrize(
    "answer", [[PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], [PUBLIC, "::1"], ["::ffff:127.0.0.1"]]
)
async def test_one_private_address_is_too_many(server: ImageServer, sink: ImageServer, answer: list[str]) -> None:
    assert await fault(fetcher(server, Names(pictures_example=[answer])), at(server, "ok")) == "url_not_allowed"
    assert server.connections == 0


async def test_only_hosts_that_are_allowed(server: ImageServer) -> None:
    names = Names(pictures_example=[[PUBLIC]], www_pictures_example=[[PUBLIC]], pictures_example_evil=[[PUBLIC]])
    exact = fetcher(server, names, hosts=["pictures.example"])
    below = fetcher(server, names, hosts=["*.pictures.example"])
    budget = ByteBudget(LIMIT, LIMIT)
    assert await exact.fetch(at(server, "ok", "PICTURES.example."), budget)
    assert await below.fetch(at(server, "ok", "www.pictures.example"), budget)
    assert await fault(exact, at(server, "ok", "www.pictures.example")) == "url_not_allowed"
    assert await fault(below, at(server, "ok", "pictures.example")) == "url_not_allowed"
    assert await fault(exact, at(server, "ok", "pictures.example.evil")) == "url_not_allowed"


async def test_a_name_that_does_not_exist(server: ImageServer) -> None:
    assert await fault(fetcher(server), at(server, "ok", "nowhere.example")) == "image_fetch_failed"


async def test_nobody_listens(server: ImageServer) -> None:
    with socket.create_server((PUBLIC, 0)) as closed:
        port = closed.getsockname()[1]
    assert await fault(fetcher(server, ports=[port]), f"http://pictures.example:{port}/") == "image_fetch_failed"


async def test_slow_name_servers_hold_up_nobody_else(server: ImageServer) -> None:
    """F66: each look-up is given up in time, their number is bounded, and threads that wait are not waited for."""
    release = threading.Event()

    def slow(_host: str, _port: int) -> Sequence[str]:
        release.wait(20)
        return [PUBLIC]

    doorman = Doorman(DialPolicy([server.port], (), [ip_network(f"{PUBLIC}/32")]), Resolver(0.3, slow))
    fetching = Fetcher(doorman, FetchLimits(5.0))
    try:
        started = time.monotonic()
        codes = await asyncio.gather(*(fault(fetching, at(server, "ok")) for _ in range(MAX_LOOKUPS + 4)))
        assert set(codes) == {"image_fetch_failed"}
        assert time.monotonic() - started < 5
        assert await fault(fetching, at(server, "ok")) == "image_fetch_failed"  # at once: all threads wait
    finally:
        release.set()
    await eventually(lambda: doorman._resolver._busy == 0)
    assert await fetching.fetch(at(server, "ok"), ByteBudget(LIMIT, LIMIT)) == server.image


async def test_whoever_leaves_closes_the_socket(server: ImageServer) -> None:
    """F19."""
    task = asyncio.ensure_future(fetcher(server).fetch(at(server, "drip"), ByteBudget(LIMIT, LIMIT)))
    await eventually(lambda: server.open == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: server.open == 0, seconds=2)
