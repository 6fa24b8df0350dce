from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engine.types import Delta, PositionLogprobs, TokenLogprob, ToolCallDelta
from gateway.errors import internal
from gateway.protocol.encode import Usage
from gateway.protocol.response.encode import ResponseEncoder
from gateway.protocol.response.items import read_input
from gateway.protocol.response.request import parse_response
from gateway.protocol.sampling import RequestBounds
from tests.support.itemised import Answer, Event, answers, cuts, events_of, streamed, whole

USAGE = Usage(7, 5, 3, 2)
ECHO = parse_response(b'{"model": "m", "input": "x"}', RequestBounds(), stores=False).echo()


def encoder(store: bool = False) -> ResponseEncoder:
    return ResponseEncoder("resp_1", "m", ECHO, store=store, wall=lambda: 7.5)


def without_ids(items: list[Any]) -> list[Any]:
    return [{key: value for key, value in item.items() if key not in ("id", "call_id")} for item in items]


class Client:
    """Puts a response together from its events, and checks that every event stands where it may."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.open: Any = None
        self.final: Any = None

    def read(self, events: list[Event]) -> Any:
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
        for event in events[2:]:
            assert self.final is None
            self._take(event["type"].removeprefix("response."), event)
        assert self.open is None
        return self.final

    def _take(self, kind: str, event: Event) -> None:
        if kind in ("completed", "incomplete", "failed"):
            self.final = event["response"]
        elif kind == "output_item.added":
            assert self.open is None
            assert event["output_index"] == len(self.items)
            self.open = event["item"]
            assert self.open["status"] == "in_progress"
        elif kind == "output_item.done":
            self.items.append(event["item"])
            assert self.items[-1]["id"] == self.open["id"]
            said = self.open.get("arguments", self.open.get("said"))
            assert said == self._said(event["item"])
            self.open = None
        else:
            self._grow(kind, event)

    def _grow(self, kind: str, event: Event) -> None:
        assert (event["item_id"], event["output_index"]) == (self.open["id"], len(self.items))
        if kind == "content_part.added":
            assert event["part"]["text"] == ""
            self.open["said"] = ""
        elif kind in ("output_text.delta", "reasoning_text.delta"):
            self.open["said"] += event["delta"]
        elif kind == "function_call_arguments.delta":
            self.open["arguments"] += event["delta"]
        else:
            assert kind.endswith(".done"), kind

    @staticmethod
    def _said(item: Any) -> str:
        text: str = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        return text


@given(answers, cuts, st.frozensets(st.integers(0, 40)))
def test_a_stream_is_the_whole_answer(answer: Answer, sizes: list[int], pauses: frozenset[int]) -> None:
    final = Client().read(events_of(streamed(encoder(), answer.deltas(sizes), USAGE, pauses)))
    other = whole(encoder(), answer, USAGE)
    assert without_ids(final.pop("output")) == without_ids(other.pop("output"))
    assert final == other
    assert final["status"] == ("incomplete" if answer.reason == "length" else "completed")


@given(answers)
def test_items_are_what_the_model_did(answer: Answer) -> None:
    output = whole(encoder(), answer, USAGE)["output"]
    kinds = [item["type"] for item in output]
    empty = not (answer.reasoning or answer.text or answer.calls)
    expected = ["reasoning"] * bool(answer.reasoning) + ["message"] * bool(answer.text or empty)
    assert kinds == expected + ["function_call"] * len(answer.calls)
    assert [(item["name"], item["arguments"]) for item in output if item["type"] == "function_call"] == list(
        answer.calls
    )
    texts = [item["content"][0]["text"] for item in output if item["type"] != "function_call"]
    assert texts == [text for text in (answer.reasoning, answer.text) if text] + [""] * empty


@given(answers)
def test_an_answer_can_be_sent_back(answer: Answer) -> None:
    output = whole(encoder(), answer, USAGE)["output"]
    assert [item.wire()["id"] for item in read_input(output)] == [item["id"] for item in output]


def test_ids_do_not_collide_and_answers_say_what_was_stored() -> None:
    answer = Answer("r", "t", (("f", "{}"), ("f", "{}")), "tool_calls", None)
    output = whole(encoder(), answer, USAGE)["output"]
    ids = [item["id"] for item in output] + [item["call_id"] for item in output if "call_id" in item]
    assert len(set(ids)) == 6
    assert [each.partition("_")[0] for each in ids] == ["rs", "msg", "fc", "fc", "call", "call"]
    kept = encoder(store=True)
    kept.conclude((), USAGE)
    kept.stored = False
    assert json.loads(kept.whole((), USAGE))["store"] is False


def test_usage() -> None:
    assert whole(encoder(), Answer("", "a", (), "stop", None), USAGE)["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 12,
    }


def test_a_call_that_was_whole_when_the_tokens_ran_out() -> None:
    for arguments, status in (('{"a": 1}', "completed"), ('{"a": ', "incomplete")):
        output = whole(encoder(), Answer("", "", (("f", arguments),), "length", None), USAGE)["output"]
        assert output[0]["status"] == status


def test_text_after_a_call_is_another_message() -> None:
    deltas = [
        Delta(0, "a", 1),
        Delta(0, "", 1, tool_calls=(ToolCallDelta(0, "f", "{}"),)),
        Delta(0, "b", 1),
        Delta(0, "", 1, "tool_calls"),
    ]
    final = Client().read(events_of(streamed(encoder(), deltas, USAGE)))
    assert [item["type"] for item in final["output"]] == ["message", "function_call", "message"]


def test_log_probabilities_are_of_the_text() -> None:
    position = PositionLogprobs(TokenLogprob("a", -0.5, b"a"), (TokenLogprob("b", -1.0, b"b"),))
    events = events_of(streamed(encoder(), [Delta(0, "a", 1, logprobs=(position,)), Delta(0, "", 1, "stop")], USAGE))
    short = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -1.0}]}
    told = {event["type"]: event.get("logprobs") for event in events}
    assert told["response.output_text.delta"] == told["response.output_text.done"] == [short]
    (part,) = events[-1]["response"]["output"][0]["content"]
    long = {"token": "a", "logprob": -0.5, "bytes": [97]}
    assert part["logprobs"] == [{**long, "top_logprobs": [{"token": "b", "logprob": -1.0, "bytes": [98]}]}]


def test_a_failure_is_the_last_event_at_any_time() -> None:
    for deltas in ([], [Delta(0, "a", 1)]):
        failing = encoder(store=True)
        sent = b"".join([failing.opening(0) + failing.delta(each) for each in deltas]) + failing.failed(internal())
        events = events_of(sent)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[0]["type"] == "response.created"
        last = events[-1]
        assert last["type"] == "response.failed"
        assert last["response"]["status"] == "failed"
        assert last["response"]["store"] is False
        assert last["response"]["error"] == {"code": "server_error", "message": "internal server error"}
