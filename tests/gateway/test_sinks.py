from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engine.types import Delta
from gateway.protocol.encode import ChatEncoder, Usage
from gateway.sinks import MAX_PENDING_BYTES, Meter, OffsetSink, StreamSink, WholeSink


class Wire:
    """A connection that a test pauses and resumes."""

    def __init__(self) -> None:
        self.paused = False
        self.on_resume: Any = None
        self.sent = b""
        self.aborted = False
        self.finished = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def finish(self, data: bytes = b"") -> None:
        self.sent += data
        self.finished = True

    def abort(self) -> None:
        self.aborted = True

    def resume(self) -> None:
        self.paused = False
        self.on_resume()


def sink_on(wire: Wire, *, include_usage: bool = False) -> tuple[StreamSink, Meter]:
    meter = Meter(lambda: None)
    encoder = ChatEncoder("chatcmpl-1", 1, "m", include_usage=include_usage)
    return StreamSink(wire, encoder, meter, lambda: None), meter  # type: ignore[arg-type]


def read(wire: Wire) -> tuple[str, list[str | None], int]:
    events = [event.removeprefix("data: ") for event in wire.sent.decode().split("\n\n") if event.startswith("data: ")]
    assert events.pop() == "[DONE]"
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    return text, [choice["finish_reason"] for choice in choices if choice["finish_reason"]], len(events)


steps = st.lists(st.one_of(st.text(max_size=5), st.sampled_from(["PAUSE", "RESUME"])), max_size=40)


@given(steps)
def test_pauses_lose_and_reorder_nothing(actions: list[str]) -> None:
    wire = Wire()
    sink, meter = sink_on(wire)
    texts = [action for action in actions if action not in ("PAUSE", "RESUME")]
    for action in actions:
        if action == "PAUSE":
            wire.paused = True
        elif action == "RESUME":
            wire.resume()
        else:
            sink.text(action, 1)
    sink.delta(Delta(0, "end", 1, "stop"))
    sink.finish(Usage(0, 0))
    text, reasons, _ = read(wire)
    assert text == "".join(texts) + "end"
    assert reasons == ["stop"]
    assert meter.tokens == len(texts) + 1
    assert meter.finish_reasons == ["stop"]


def test_what_waited_leaves_as_one_chunk() -> None:
    wire = Wire()
    sink, _ = sink_on(wire)
    sink.text("a", 1)
    before = wire.sent.count(b"data: ")
    wire.paused = True
    for _ in range(1000):
        sink.text("b", 1)
    assert wire.sent.count(b"data: ") == before
    wire.resume()
    assert wire.sent.count(b"data: ") == before + 1
    assert b"b" * 1000 in wire.sent


def test_a_reader_who_lets_too_much_wait_is_cut() -> None:
    wire = Wire()
    sink, _ = sink_on(wire)
    wire.paused = True
    for _ in range(MAX_PENDING_BYTES // 1000 + 1):
        sink.text("x" * 1000, 1)
    assert wire.aborted


def test_silence_sends_comments_and_text_stops_them() -> None:
    wire = Wire()
    sink, _ = sink_on(wire)
    start = sink._quiet_since
    sink.tick(start + 14, 15)
    assert wire.sent == b""
    sink.tick(start + 15, 15)
    assert wire.sent == b": keep-alive\n\n"
    sink.text("a", 1)
    sink.tick(start + 40, 15)
    sink.tick(start + 50, 15)
    assert wire.sent.count(b"keep-alive") == 1
    sink.tick(start + 56, 15)
    assert wire.sent.count(b"keep-alive") == 2


def test_usage_comes_last_if_it_was_asked_for() -> None:
    wire = Wire()
    sink, _ = sink_on(wire, include_usage=True)
    sink.delta(Delta(0, "a", 1, "length"))
    sink.finish(Usage(3, 1, 2))
    *_, usage, done, rest = wire.sent.decode().split("\n\n")
    assert json.loads(usage.removeprefix("data: "))["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 1,
        "total_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    assert (done, rest) == ("data: [DONE]", "")


def test_the_string_that_ended_a_choice_is_kept() -> None:
    whole = WholeSink(2, Meter(lambda: None))
    whole.delta(Delta(0, "a", 1, "stop", stop="END"))
    whole.delta(Delta(1, "a", 1, "stop"))
    assert [choice.stop for choice in whole.choices()] == ["END", None]


def test_cached_tokens_of_all_prompts_are_summed() -> None:
    meter = Meter(lambda: None)
    whole = WholeSink(2, meter)
    OffsetSink(whole, 0).cached(16)
    OffsetSink(whole, 1).cached(32)
    sink_on(Wire())[0].cached(1)
    assert meter.cached == 48


@given(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=4)), max_size=30))
def test_whole_answers_keep_choices_apart(deltas: list[tuple[int, str]]) -> None:
    meter = Meter(lambda: None)
    sink = WholeSink(3, meter)
    for index, text in deltas:
        sink.delta(Delta(index, text, 1))
    for index in range(3):
        sink.delta(Delta(index, "", 1, "stop"))
    expected = ["".join(text for i, text in deltas if i == index) for index in range(3)]
    assert [choice.text for choice in sink.choices()] == expected
    assert meter.tokens == len(deltas) + 3
