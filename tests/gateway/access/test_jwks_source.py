from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator

import pytest

from gateway.access.jwks_source import DISCOVERY_PATH, MAX_BYTES, FetchFailed, KeySource, permitted_url
from tests.support.issuer import Answer, KeyServer, endless, http, key_server, silence


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    async with key_server() as server:
        yield server


async def failure(source: KeySource) -> str:
    with pytest.raises(FetchFailed) as failed:
        await source.fetch()
    return str(failed.value)


async def test_what_is_there_is_fetched(server: KeyServer) -> None:
    server.answers["/jwks"] = http(b"x" * MAX_BYTES)
    source = KeySource("anything", server.url())
    assert await source.fetch() == b"x" * MAX_BYTES
    assert await source.fetch() == b"x" * MAX_BYTES
    assert server.asked == ["/jwks", "/jwks"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (http(b"", "302 Found", "location: /elsewhere"), "HTTP 302"),
        (http(b"", "301 Moved Permanently", "location: /elsewhere"), "HTTP 301"),
        (http(b"{}", "500 Internal Server Error"), "HTTP 500"),
        (http(b"", "204 No Content"), "HTTP 204"),
        (http(b"x" * (MAX_BYTES + 1)), "more than"),
        (endless(), "more than"),
        (http(gzip.compress(b"0" * 50_000_000), "200 OK", "content-encoding: gzip"), "compressed"),
    ],
)
async def test_answers_that_are_refused(server: KeyServer, answer: Answer, reason: str) -> None:
    server.answers = {"/jwks": answer, "/elsewhere": http(b'{"keys":[]}')}
    assert reason in await failure(KeySource("anything", server.url()))
    assert server.asked == ["/jwks"]


@pytest.mark.parametrize("answer", [silence, endless(b" ", 0.01)])
async def test_slow_ones_are_given_up(server: KeyServer, answer: Answer) -> None:
    server.answers["/jwks"] = answer
    assert await failure(KeySource("anything", server.url(), seconds=0.2)) == "no answer within 0.2 s"


async def test_nobody_there(server: KeyServer) -> None:
    await server.stop()
    assert await failure(KeySource("anything", server.url()))
    await server.start()


async def test_an_answer_that_is_no_http(server: KeyServer) -> None:
    async def babble(writer: object) -> None:
        writer.write(b"\0\1\2 what?\r\n\r\n")  # type: ignore[attr-defined]

    server.answers["/jwks"] = babble
    assert await failure(KeySource("anything", server.url()))


# -- discovery --------------------------------------------------------------------------------------------------------


def discovery(server: KeyServer, **changes: object) -> None:
    document = {"issuer": server.url("/realm"), "jwks_uri": server.url("/keys"), **changes}
    server.answers["/realm" + DISCOVERY_PATH] = http(json.dumps(document).encode())
    server.answers["/keys"] = http(b"the keys")


async def test_discovery(server: KeyServer) -> None:
    discovery(server)
    assert await KeySource(server.url("/realm"), None).fetch() == b"the keys"
    assert server.asked == ["/realm" + DISCOVERY_PATH, "/keys"]


async def test_an_issuer_that_ends_with_a_slash(server: KeyServer) -> None:
    discovery(server, issuer=server.url("/realm/"))
    assert await KeySource(server.url("/realm/"), None).fetch() == b"the keys"


@pytest.mark.parametrize(
    "changes",
    [{"issuer": "https://other.example"}, {"issuer": None}, {"jwks_uri": None}, {"jwks_uri": ["/keys"]},
     {"jwks_uri": "http://192.0.2.1/keys"}, {"jwks_uri": "file:///etc/passwd"}, {"jwks_uri": "ftp://127.0.0.1/"},
     {"jwks_uri": "data:application/json,{}"}, {"jwks_uri": "/keys"}, {"jwks_uri": "http://[::1"}],
)  # fmt: skip
async def test_discovery_that_leads_astray(server: KeyServer, changes: dict[str, object]) -> None:
    discovery(server, **changes)
    assert (await failure(KeySource(server.url("/realm"), None))).startswith("discovery: ")
    assert "/keys" not in server.asked


async def test_discovery_by_a_superstring_of_the_issuer(server: KeyServer) -> None:
    discovery(server, issuer=server.url("/realm") + "/")
    assert "another issuer" in await failure(KeySource(server.url("/realm"), None))


async def test_discovery_that_is_no_json(server: KeyServer) -> None:
    server.answers["/realm" + DISCOVERY_PATH] = http(b"<html></html>")
    assert "not JSON" in await failure(KeySource(server.url("/realm"), None))


def test_others_do_not_send_us_to_this_machine() -> None:
    source = KeySource("https://issuer.example", None)
    for uri in ("http://127.0.0.1:6379/", "https://localhost/keys", "http://[::1]/keys"):
        document = json.dumps({"issuer": "https://issuer.example", "jwks_uri": uri}).encode()
        with pytest.raises(FetchFailed, match="this machine"):
            source._discovered(document)


# -- where keys may come from -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["https://issuer.example/keys", "http://127.0.0.1:8080/keys", "http://localhost/k", "http://[::1]:1/k"]
)
def test_https_and_this_machine(url: str) -> None:
    assert str(permitted_url(url)) == url


@pytest.mark.parametrize(
    "url",
    ["http://issuer.example/keys", "http://10.0.0.1/keys", "http://127.0.0.1.example/keys", "http://localhost.example/",
     "file:///etc/passwd", "ftp://127.0.0.1/", "data:,x", "issuer.example", "//issuer.example", "", "https://", "https:///x",
     "https://user:secret@issuer.example/keys", "http://169.254.169.254/", "http://[::1", "https://issuer.example:99999x/"],
)  # fmt: skip
def test_nowhere_else(url: str) -> None:
    with pytest.raises(ValueError):
        permitted_url(url)
