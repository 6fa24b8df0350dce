"""L11: inputs of every bad kind, two hundred a second, beside sixteen honest streams."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any, Final

from loadtest.answers import read_stream
from loadtest.client import Recording, Target
from loadtest.figures import percentile
from loadtest.goals.books import GONE, saw
from loadtest.goals.goal import Figure, Goal, Run, at_most, exactly, told
from loadtest.goals.load import ask_again, run
from loadtest.goals.servers import Server, toy
from loadtest.goals.stubbed import books
from loadtest.goals.watch import lag_max, lag_p99, series
from loadtest.workload import CHAT, chat

HONEST: Final = 16
TOKENS: Final = 64
PER_SECOND: Final = 200
_HELLO: Final = [{"role": "user", "content": "hello"}]


def bad_requests(target: Target) -> list[bytes]:
    """One of each kind: framing, JSON, credentials, names, parameters, sizes."""
    host = f"Host: {target.host}:{target.port}\r\n".encode()
    framing = [
        b"NONSENSE\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n" + host + host + b"\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\n" + host + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\n" + host + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1/chat/completions HTTP/1.1\r\n" + host + b"Content-Length: 99999999\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"X: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"X: y\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + host + b" folded: 1\r\n\r\n",
        b"GET /v1/../v1/models HTTP/1.1\r\n" + host + b"\r\n",
    ]
    bodies = [
        b"",
        b"[]",
        b"{",
        b'{"model": "toy", "model": "toy"}',
        b'{"model": "toy", "messages": NaN}',
        b'{"model": "toy", "messages": "\\ud800"}',
        b"[" * 5000,
        b'{"model": "toy", "n": 1e400}',
        b'{"model": "toy", "n": ' + b"9" * 5000 + b"}",
        b"\xff\xfe",
    ]
    stranger = Target(target.port, "sk-nobody-0123456789abcdef", target.model)
    return [
        *framing,
        *(_raw(target, body) for body in bodies),
        *(target.post(CHAT, {"model": "toy", "messages": _HELLO, **change}) for change in _CHANGES),
        stranger.post(CHAT, {"model": "toy", "messages": _HELLO}),
        target.post("/v1/nothing", {}),
        target.get(CHAT),
    ]


_CHANGES: Final[Sequence[Mapping[str, Any]]] = (
    {"messages": []},
    {"messages": None},
    {"messages": [{"role": "wizard", "content": "x"}]},
    {"messages": [{"role": "user", "content": 3}]},
    {"messages": [{"role": "user", "content": "word " * 20_000}]},
    {"messages": [{"role": "user", "content": "\U0001f468\u200d" * 20_000}]},
    {"messages": _HELLO * 3000},
    {"model": ""},
    {"model": "no-such-model"},
    {"model": "toy:../../etc/passwd"},
    {"model": "toy:https://h/x"},
    {"model": "x" * 10_000},
    {"n": 0},
    {"n": 10**6},
    {"n": True},
    {"max_tokens": 0},
    {"max_tokens": 2**70},
    {"temperature": 9},
    {"top_p": 0},
    {"stop": ["a"] * 5},
    {"stop": [""]},
    {"logprobs": True, "top_logprobs": 99},
    {"logit_bias": {"1": 500}},
    {"stream": "yes"},
    {"stream_options": {"include_usage": True}},
    {"response_format": {"type": "poem"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "banana"}}}},
    {"tools": [{"type": "function", "function": {"name": "bad name!"}}]},
    {"tool_choice": "required"},
    {"guided_json": {}},
    {"cache_salt": "x"},
    {"no_such_field": 1},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}]},
)


def _raw(target: Target, body: bytes) -> bytes:
    head = target.post(CHAT, {}).partition(b"\r\nContent-Length")[0]
    return head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def storm(limits: Run) -> Sequence[Figure]:
    """L11: the same streams alone first."""
    with toy(limits.directory) as server:
        engine = {child.pid for child in server.process.tree()} - {each.pid for each in server.front}
        bad = bad_requests(server.target)
        run(_once_each(server.target, bad))
        _honest(server, 3.0)
        alone = _honest(server, limits.seconds / 2)
        before = server.metrics()
        recordings: list[Recording] = []
        answers: Counter[int] = Counter()

        async def load() -> None:
            until = perf_counter() + limits.seconds
            request = chat(server.target, tokens=TOKENS, stream=True)
            await asyncio.gather(
                ask_again(server.target, request, HONEST, until, recordings.append),
                _throw(server.target, bad, until, answers),
            )

        run(load())
        after = server.metrics()
        still = {child.pid for child in server.process.tree()}
        server.saws += map(saw, recordings)
        # A refusal that was admitted for a moment would be in the ledger without a client.
        server.saws += [GONE] * answers[200]
    beside = [read_stream(each, tokens=TOKENS).ttft for each in recordings]
    sent = sum(answers.values())
    return [
        told("bad inputs", sent),
        told("of kinds", len(bad)),
        exactly("answered with 5xx", sum(count for code, count in answers.items() if code >= 500), 0),
        exactly("answered with 200", answers[200], 0),
        told("closed without an answer", answers[0]),
        exactly("honest streams that are not whole", _broken(server), 0),
        told("honest TTFT p99 alone", percentile(alone, 0.99) * 1e3, "ms"),
        at_most("honest TTFT p99 beside it, of that", percentile(beside, 0.99) / percentile(alone, 0.99), 2.0),
        at_most("event loop lag p99", lag_p99(before, after) * 1e3, 20, "ms"),
        at_most("event loop lag, worst of the last 30 s", lag_max(after) * 1e3, 100, "ms"),
        exactly("engine processes that changed", len(engine - still), 0),
        exactly("new series of /metrics", series(after) - series(before), 0),
        *books(server),
    ]


def _honest(server: Server, seconds: float) -> list[float]:
    recordings: list[Recording] = []
    request = chat(server.target, tokens=TOKENS, stream=True)
    run(ask_again(server.target, request, HONEST, perf_counter() + seconds, recordings.append))
    server.saws += map(saw, recordings)
    return [read_stream(each, tokens=TOKENS).ttft for each in recordings]


def _broken(server: Server) -> int:
    return sum(not each.succeeded for each in server.saws if each is not GONE)


async def _once_each(target: Target, bad: Sequence[bytes]) -> None:
    """So that every series is there before they are counted."""
    for request in bad:
        await _send(target, request)


async def _throw(target: Target, bad: Sequence[bytes], until: float, answers: Counter[int]) -> None:
    began, number = perf_counter(), 0
    going: set[asyncio.Task[None]] = set()

    async def one(request: bytes) -> None:
        answers[await _send(target, request)] += 1

    while (now := perf_counter()) < until:
        due = began + number / PER_SECOND
        if due > now:
            await asyncio.sleep(due - now)
            continue
        going.add(task := asyncio.ensure_future(one(bad[number % len(bad)])))
        task.add_done_callback(going.discard)
        number += 1
    await asyncio.gather(*going)


async def _send(target: Target, request: bytes) -> int:
    """The status of the answer; 0 if the connection was closed without one."""
    loop = asyncio.get_running_loop()
    raw = b""
    with socket.socket() as one, suppress(OSError):
        one.setblocking(False)
        await loop.sock_connect(one, (target.host, target.port))
        async with asyncio.timeout(30):
            await loop.sock_sendall(one, request)
            while b"\r\n" not in raw and (piece := await loop.sock_recv(one, 4096)):
                raw += piece
    return int(raw[9:12]) if raw.startswith(b"HTTP/1.1 ") else 0


GOALS: Final = (Goal("L11", "bad inputs, 200 a second, beside 16 honest streams", storm),)
