from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.types import Delta
from gateway.errors import internal
from gateway.protocol.anthropic.encode import PING, MessagesEncoder, input_json
from gateway.protocol.encode import Usage
from tests.support.itemised import Answer, Event, answers, cuts, events_of, streamed, whole

USAGE = Usage(7, 5, 3, 2)


def encoder() -> MessagesEncoder:
    return MessagesEncoder("msg_1", "m", 7, "req")


def read(events: list[Event]) -> Any:
    """The message that a client puts together, who checks that every event stands where it may."""
    first, *rest = [event for event in events if event["type"] != "ping"]
    assert first["type"] == "message_start"
    message, open_block, done = first["message"], None, False
    for event in rest:
        assert not done
        match event["type"]:
            case "content_block_start":
                assert open_block is None
                assert event["index"] == len(message["content"])
                open_block, pieces = event["content_block"], []
            case "content_block_delta":
                assert event["index"] == len(message["content"])
                (piece,) = [value for key, value in event["delta"].items() if key != "type"]
                pieces.append(piece)
            case "content_block_stop":
                _fill(open_block, "".join(pieces))
                message["content"].append(open_block)
                open_block = None
            case "message_delta":
                assert open_block is None
                message = {**message, **event["delta"], "usage": {**message["usage"], **event["usage"]}}
            case "message_stop":
                done = True
            case other:
                raise AssertionError(other)
    assert done
    return message


def _fill(block: Any, said: str) -> None:
    match block["type"]:
        case "text":
            block["text"] = said
        case "thinking":
            block["thinking"] = said
        case "tool_use":
            assert block["input"] == {}
            block["input"] = json.loads(input_json(said))


def without_ids(content: list[Any]) -> list[Any]:
    return [{key: value for key, value in block.items() if key != "id"} for block in content]


@given(answers, cuts, st.frozensets(st.integers(0, 40)))
def test_a_stream_is_the_whole_answer(answer: Answer, sizes: list[int], pauses: frozenset[int]) -> None:
    message = read(events_of(streamed(encoder(), answer.deltas(sizes), USAGE, pauses)))
    other = whole(encoder(), answer, USAGE)
    assert without_ids(message.pop("content")) == without_ids(other.pop("content"))
    assert message == other


@given(answers)
def test_blocks_are_what_the_model_did(answer: Answer) -> None:
    content = whole(encoder(), answer, USAGE)["content"]
    said = [("thinking", answer.reasoning)] * bool(answer.reasoning) + [("text", answer.text)] * bool(answer.text)
    assert [(block["type"], block[block["type"]]) for block in content if block["type"] != "tool_use"] == said
    calls = [(block["name"], block["input"]) for block in content if block["type"] == "tool_use"]
    assert calls == [(name, json.loads(arguments)) for name, arguments in answer.calls]


@pytest.mark.parametrize(
    ("reason", "stop", "expected"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", "END", ("stop_sequence", "END")),
        ("length", None, ("max_tokens", None)),
        ("tool_calls", None, ("tool_use", None)),
    ],
)
def test_why_it_stopped(reason: Any, stop: str | None, expected: tuple[str, str | None]) -> None:
    answer = Answer("", "a", (), reason, stop)
    for pauses in (frozenset[int](), frozenset({0, 1, 2})):
        message = read(events_of(streamed(encoder(), answer.deltas([]), USAGE, pauses)))
        assert (message["stop_reason"], message["stop_sequence"]) == expected
    message = whole(encoder(), answer, USAGE)
    assert (message["stop_reason"], message["stop_sequence"]) == expected


def test_cached_tokens_are_not_among_the_input_tokens() -> None:
    first = encoder()
    first.cached(3)
    started = events_of(first.opening(0))[0]["message"]["usage"]
    assert (started["input_tokens"], started["cache_read_input_tokens"], started["output_tokens"]) == (4, 3, 0)
    usage = whole(encoder(), Answer("", "a", (), "stop", None), USAGE)["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (4, 3, 5)
    assert usage["output_tokens_details"] == {"thinking_tokens": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("  ", {}),
        ('{"a": [1, 2', {"a": [1, 2]}),
        ('{"a": 1, "b": "x', {"a": 1}),
        ('{"a": 36893488147419103232}', {"a": 2**65}),
        ('{"a": 1e999, "b', {"INVALID_JSON": '{"a": 1e999, "b'}),
        ('{"a": NaN}', {"INVALID_JSON": '{"a": NaN}'}),
        ("[1]", {"INVALID_JSON": "[1]"}),
        ("nonsense", {"INVALID_JSON": "nonsense"}),
    ],
)
def test_arguments_that_are_no_object(text: str, expected: Any) -> None:
    assert json.loads(input_json(text)) == expected


def test_a_failure_is_the_last_event_at_any_time() -> None:
    for deltas in ([], [Delta(0, "a", 1)]):
        failing = encoder()
        sent = b"".join([failing.opening(0) + failing.delta(each) for each in deltas]) + failing.failed(internal())
        assert events_of(sent)[-1] == {
            "type": "error",
            "error": {"type": "api_error", "message": "internal server error"},
            "request_id": "req",
        }


def test_silence_is_a_ping() -> None:
    assert encoder().keep_alive == PING
    assert events_of(PING) == [{"type": "ping"}]
