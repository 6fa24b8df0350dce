import asyncio
import json

import pytest

from loadtest.answers import read_completion, read_stream
from loadtest.client import Target, run_load
from tests.loadtest.scripted import CHUNKED, chunk, complete, served, stream_in_shreds


async def hang_up(body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(CHUNKED + chunk(b"data: {}\n\n"))
    writer.close()


async def say_nothing(body: bytes, writer: asyncio.StreamWriter) -> None:
    """Keep the connection open."""


async def answer_and_close(body: bytes, writer: asyncio.StreamWriter) -> None:
    await complete(body, writer)
    writer.close()


def request(target: Target, tokens: int) -> bytes:
    return target.post("/v1/chat/completions", {"max_tokens": tokens})


def test_every_connection_gets_every_stream_whole() -> None:
    with served(stream_in_shreds) as target:
        window = run_load(target, request(target, 9), connections=5, each=4)
    assert [read_stream(recording, tokens=9).events for recording in window.recordings] == [9] * 20


def test_answers_with_a_length_are_read_to_their_end() -> None:
    with served(complete) as target:
        window = run_load(target, request(target, 1), connections=3, each=10)
    for recording in window.recordings:
        read_completion(recording, tokens=1)
    assert len(window.recordings) == 30


def test_times_lie_within_the_window() -> None:
    with served(complete) as target:
        window = run_load(target, request(target, 1), connections=2, each=5)
    span = max(r.finished for r in window.recordings) - min(r.sent for r in window.recordings)
    assert 0 < span <= window.seconds


def test_requests_carry_key_host_and_length() -> None:
    target = Target(8000, "sk-test", "toy")
    head, body = target.post("/v1/x", {"a": 1}).split(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /v1/x HTTP/1.1",
        b"Host: 127.0.0.1:8000",
        b"Authorization: Bearer sk-test",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
    ]
    assert json.loads(body) == {"a": 1}


@pytest.mark.parametrize("each", [1, 2])
def test_a_server_that_hangs_up_is_an_error(each: int) -> None:
    answer = hang_up if each == 1 else answer_and_close
    with served(answer) as target, pytest.raises(ConnectionError):
        run_load(target, request(target, 2), connections=1, each=each)


def test_a_silent_server_is_a_timeout() -> None:
    with served(say_nothing) as target, pytest.raises(TimeoutError):
        run_load(target, request(target, 2), connections=2, each=1, timeout=0.2)
