"""Thoughts, texts, calls and failures as the vendors' own documents have them, also where the sample model has none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.types import PositionLogprobs, TokenLogprob
from gateway.errors import internal
from gateway.protocol.anthropic.encode import MessagesEncoder
from gateway.protocol.anthropic.errors import error_body
from gateway.protocol.encode import Usage
from gateway.protocol.response.encode import ResponseEncoder
from gateway.protocol.response.request import parse_response
from gateway.protocol.sampling import RequestBounds
from tests.conformance.documents import anthropic_validator, openai_validator
from tests.support.itemised import Answer, events_of, streamed, whole

USAGE = Usage(7, 5, 3, 2)
ANSWERS = [
    Answer("hm", "text", (("f", '{"a": 1}'), ("g", "{}")), "tool_calls", None),
    Answer("hm", "", (), "length", None),
    Answer("", "a", (("f", '{"a": '),), "length", None),
    Answer("", "a", (), "stop", "END"),
    Answer("", "a", (), "content_filter", None),
    Answer("", "", (), "stop", None),
]
REQUEST = b"""{"model": "m", "input": "x", "instructions": "i", "metadata": {"a": "b"}, "max_output_tokens": 9,
    "tools": [
    {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true},
    {"type": "function", "name": "g"}], "tool_choice": {"type": "function", "name": "f"}, "user": "u"}"""


def response_encoder() -> ResponseEncoder:
    echo = parse_response(REQUEST, RequestBounds(), stores=False).echo()
    return ResponseEncoder("resp_1", "m", echo, store=False)


@pytest.mark.parametrize("answer", ANSWERS)
def test_responses(answer: Answer) -> None:
    validate = openai_validator()
    validate("Response", whole(response_encoder(), answer, USAGE))
    for event in events_of(streamed(response_encoder(), answer.deltas([2, 1]), USAGE)):
        validate("ResponseStreamEvent", event)


@pytest.mark.parametrize("answer", ANSWERS)
def test_messages(answer: Answer) -> None:
    def encoder() -> MessagesEncoder:
        return MessagesEncoder("msg_1", "m", 7, "req")

    validate = anthropic_validator()
    validate("Message", whole(encoder(), answer, USAGE))
    for event in events_of(streamed(encoder(), answer.deltas([2, 1]), USAGE)):
        if event["type"] != "ping":
            validate("MessageStreamEvent", event)


def test_failures() -> None:
    for event in events_of(response_encoder().failed(internal())):
        openai_validator()("ResponseStreamEvent", event)
    (event,) = events_of(MessagesEncoder("msg_1", "m", 7, "req").failed(internal()))
    anthropic_validator()("ErrorResponse", event)

    anthropic_validator()("ErrorResponse", json.loads(error_body(internal(), "req")))


def test_log_probabilities() -> None:
    position = PositionLogprobs(TokenLogprob("a", -0.5, b"a"), (TokenLogprob("b", -1.0, b"b"),))
    deltas: list[Any] = Answer("", "a", (), "stop", None).deltas([])
    deltas[0].logprobs = (position,)
    for event in events_of(streamed(response_encoder(), deltas, USAGE)):
        openai_validator()("ResponseStreamEvent", event)
