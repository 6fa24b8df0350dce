"""Bytes of good requests, damaged at random: whatever comes is an answer below 500 in our shape, or silence."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.gateways import KEY, Threaded, eventually, threaded
from tests.support.stub_engine import StubEngine
from tests.support.wire import Connection, ProtocolError

#: How long an answer may take before the damage is taken for one that makes the server wait for more.
PATIENCE = 0.25
#: Once it has answered, anything more that it has to say is there.
THEN = 0.02


def _post(path: str, body: object, *headers: str, chunked: bool = False) -> bytes:
    data = json.dumps(body).encode()
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(data)}"
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {KEY}", framing, *headers]
    head = "\r\n".join([*lines, "Content-Type: application/json", "", ""]).encode()
    return head + (b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data) if chunked else data)


CHAT = {"model": "stub", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "temperature": 0.5}
RECORDED = [
    _post("/v1/chat/completions", CHAT),
    _post("/v1/chat/completions", {**CHAT, "stream": True, "stop": ["x"]}, "X-Request-Id: abc", chunked=True),
    _post("/v1/completions", {"model": "stub", "prompt": [[1, 2], [3]], "max_tokens": 2, "logit_bias": {"5": 1}}),
    _post("/v1/tokenize", {"model": "stub", "prompt": "hello"}, "X-Request-Deadline-Ms: 5000"),
    f"GET /v1/models/stub HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode(),
]
#: Bytes that mean something to somebody on the way.
TELLING = b"\x00\t\r\n \"#%&'*+,-./:;<=?@[\\]^_`{|}~\x7f\x80\xc0\xed\xff0129eEtTfFnN"


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """One of the recorded requests after one to four changes."""
    data = bytearray(draw(st.sampled_from(RECORDED)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(1, 12))
        new = draw(st.binary(min_size=1, max_size=8) | st.lists(st.sampled_from(TELLING), min_size=1).map(bytes))
        match draw(st.sampled_from(["replace", "insert", "delete", "repeat"])):
            case "replace":
                data[at : at + len(new)] = new
            case "insert":
                data[at:at] = new
            case "delete":
                del data[at : at + length]
            case _:
                data[at:at] = data[at : at + length]
    return bytes(data)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Threaded]:
    with threaded(StubEngine, tmp_path_factory.mktemp("state")) as gateway:
        yield gateway


async def answers(port: int, data: bytes) -> list[tuple[int, bytes]]:
    """Everything that the server has to say to ``data``: statuses and bodies."""
    connection = await Connection.open("127.0.0.1", port)
    heard: list[tuple[int, bytes]] = []
    with suppress(TimeoutError, EOFError, OSError):
        await connection.send(data)
        while True:
            async with asyncio.timeout(THEN if heard else PATIENCE):
                status, headers = await connection.head()
                heard.append((status, b"".join([piece async for piece in connection.pieces(headers)])))
    await connection.close()
    return heard


@settings(max_examples=300)
@given(data=damaged())
def test_no_damage_is_our_fault(gateway: Threaded, data: bytes) -> None:
    for status, body in gateway.run(answers(gateway.live.port, data)):
        assert 200 <= status < 500, (status, body)
        if status >= 400 and body:
            assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


def test_and_nothing_is_left_of_it(gateway: Threaded) -> None:
    live = gateway.live
    gateway.run(eventually(lambda: not live.metric("sluice_requests_in_flight") and not live.engine.request_states))
    assert live.ledger.violations == []
    assert live.engine.leaks() == []
    ((status, _),) = gateway.run(answers(live.port, RECORDED[0]))
    assert status == 200


@pytest.mark.parametrize("data", RECORDED)
def test_undamaged_they_are_answered(gateway: Threaded, data: bytes) -> None:
    ((status, _),) = gateway.run(answers(gateway.live.port, data))
    assert status == 200


def test_a_broken_frame_would_be_noticed() -> None:
    async def lie() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.write(b"HTTP/9 what\r\n\r\n"), "127.0.0.1", 0)
        async with server:
            await answers(server.sockets[0].getsockname()[1], b"x")

    with pytest.raises(ProtocolError):
        asyncio.run(lie())
