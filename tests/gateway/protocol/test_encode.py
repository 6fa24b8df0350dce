from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engine.types import Delta, PositionLogprobs, TokenLogprob
from gateway.protocol.encode import ChatEncoder, Choice, CompletionEncoder, Usage, new_id

GOLDEN_CHAT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"m","choices":[{"index":0,"delta":'
    b'{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}]}\n\n'
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"m","choices":[{"index":0,"delta":'
    b'{"content":"Hi \\"there\\"\\n"},"logprobs":null,"finish_reason":null}]}\n\n'
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"m","choices":[{"index":0,"delta":'
    b'{},"logprobs":null,"finish_reason":"stop"}]}\n\n'
)
GOLDEN_COMPLETION = (
    b'data: {"id":"cmpl-1","object":"text_completion","created":7,"model":"m","choices":[{"index":0,"text":"a",'
    b'"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
    b'data: {"id":"cmpl-1","object":"text_completion","created":7,"model":"m","choices":[{"index":1,"text":"b",'
    b'"logprobs":null,"finish_reason":"length"}],"usage":null}\n\n'
    b'data: {"id":"cmpl-1","object":"text_completion","created":7,"model":"m","choices":[],'
    b'"usage":{"prompt_tokens":2,"completion_tokens":2,"total_tokens":4,"prompt_tokens_details":{"cached_tokens":0}}}\n\n'
)


def chat(include_usage: bool = False) -> ChatEncoder:
    return ChatEncoder("chatcmpl-1", 7, "m", include_usage=include_usage)


def events(data: bytes) -> list[Any]:
    assert data == b"" or data.endswith(b"\n\n")
    return [json.loads(event.removeprefix("data: ")) for event in data.decode().split("\n\n")[:-1]]


def test_chat_chunks_are_these_bytes() -> None:
    encoder = chat()
    assert encoder.opening(0) + encoder.text('Hi "there"\n') + encoder.delta(Delta(0, "", 1, "stop")) == GOLDEN_CHAT


def test_completion_chunks_are_these_bytes() -> None:
    encoder = CompletionEncoder("cmpl-1", 7, "m", include_usage=True)
    assert encoder.opening(0) == b""
    sent = encoder.text("a") + encoder.delta(Delta(1, "b", 1, "length")) + encoder.usage(Usage(2, 2))
    assert sent == GOLDEN_COMPLETION


@given(st.lists(st.text(max_size=6), min_size=1), st.booleans())
def test_joined_deltas_equal_the_whole(pieces: list[str], include_usage: bool) -> None:
    encoder = chat(include_usage)
    sent = encoder.opening(0) + b"".join(map(encoder.text, pieces)) + encoder.delta(Delta(0, "", 0, "stop"))
    streamed = "".join(event["choices"][0]["delta"].get("content", "") for event in events(sent))
    whole = json.loads(encoder.whole([Choice("".join(pieces), "stop", None)], Usage(1, len(pieces))))
    assert streamed == whole["choices"][0]["message"]["content"]
    assert all(("usage" in event) is include_usage for event in events(sent))


@given(st.text(max_size=8), st.text(max_size=8))
def test_the_hot_path_writes_what_the_full_path_writes(text: str, other: str) -> None:
    for encoder in (chat(), chat(include_usage=True), CompletionEncoder("cmpl-1", 7, "m", include_usage=False)):
        assert encoder.text(text + "x") == encoder.delta(Delta(0, text + "x", 1))


def test_text_and_finish_reason_come_in_that_order() -> None:
    text, finish = events(chat().delta(Delta(2, "end", 1, "length")))
    assert text["choices"][0] == {"index": 2, "delta": {"content": "end"}, "logprobs": None, "finish_reason": None}
    assert finish["choices"][0] == {"index": 2, "delta": {}, "logprobs": None, "finish_reason": "length"}


def position(text: str) -> PositionLogprobs:
    token = TokenLogprob(text, -0.5, text.encode())
    return PositionLogprobs(token, (token, TokenLogprob("é", -1.0, "é".encode())))


def test_logprobs() -> None:
    (event,) = events(chat().delta(Delta(0, "hi", 1, None, (position("hi"),))))
    (token,) = event["choices"][0]["logprobs"]["content"]
    assert (token["token"], token["logprob"], token["bytes"]) == ("hi", -0.5, [104, 105])
    assert token["top_logprobs"][1] == {"token": "é", "logprob": -1.0, "bytes": [195, 169]}


def test_legacy_offsets_run_on_over_chunks() -> None:
    encoder = CompletionEncoder("cmpl-1", 7, "m", include_usage=False)
    sent = [encoder.delta(Delta(0, text, 1, None, (position(text),))) for text in ("ab", "cde", "f")]
    offsets = [events(each)[0]["choices"][0]["logprobs"]["text_offset"] for each in sent]
    assert offsets == [[0], [2], [5]]


def test_echo_comes_first() -> None:
    encoder = CompletionEncoder("cmpl-1", 7, "m", include_usage=False, echo=["A", "B"])
    assert events(encoder.opening(1))[0]["choices"][0]["text"] == "B"
    whole = json.loads(encoder.whole([Choice("1", "stop", None), Choice("2", "stop", None)], Usage(2, 2)))
    assert [choice["text"] for choice in whole["choices"]] == ["A1", "B2"]


def test_ids_do_not_repeat() -> None:
    assert len({new_id("x-") for _ in range(10_000)}) == 10_000
