from __future__ import annotations

import pytest

from engine.parsing.json_calls import ForcedCalls
from engine.parsing.parsers import Parsers
from engine.parsing.reasoning import Marks
from engine.parsing.sink import ParsingSink
from engine.types import Delta, FinishReason, Parsing, PositionLogprobs, TokenLogprob, Tool, ToolUse

MARKS = Marks("<think>", "</think>", 1, 2)
CALL = '{"name": "f", "arguments": {"x": 1}}'
LOGPROBS = (PositionLogprobs(TokenLogprob("a", -1.0, b"a"), ()),)


class Recorder:
    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.cached_tokens = 0

    def text(self, text: str, tokens: int) -> None:
        self.delta(Delta(0, text, tokens))

    def delta(self, delta: Delta) -> None:
        self.deltas.append(delta)

    def cached(self, tokens: int) -> None:
        self.cached_tokens += tokens


def forced() -> tuple[Recorder, ParsingSink]:
    recorder = Recorder()
    return recorder, ParsingSink(recorder, lambda: ForcedCalls(["f"]))


@pytest.mark.parametrize(
    ("text", "ended", "reason"),
    [
        (CALL, "stop", "tool_calls"),
        (CALL, "length", "length"),
        (CALL[:-4], "stop", "length"),
        (CALL[:-4], "length", "length"),
        ("{", "stop", "stop"),
    ],
)
def test_finish_reasons(text: str, ended: FinishReason, reason: FinishReason) -> None:
    recorder, sink = forced()
    sink.delta(Delta(0, text, 5, ended))
    assert [delta.finish_reason for delta in recorder.deltas] == [reason]


def test_tokens_and_logprobs_pass_at_once_and_choices_do_not_mix() -> None:
    recorder, sink = forced()
    sink.text(CALL[:5], 2)
    sink.delta(Delta(1, CALL, 9, "stop", LOGPROBS, reasoning_tokens=3))
    sink.delta(Delta(0, CALL[5:], 7, "stop"))
    sink.cached(4)
    assert [(delta.index, delta.tokens) for delta in recorder.deltas] == [(0, 2), (1, 9), (0, 7)]
    assert (recorder.deltas[1].logprobs, recorder.deltas[1].reasoning_tokens) == (LOGPROBS, 3)
    assert [sum(call.name is not None for call in delta.tool_calls) for delta in recorder.deltas] == [0, 1, 1]
    assert recorder.cached_tokens == 4


TOOLS = (Tool("f"), Tool("g", strict=True, param="tools[1].function.parameters"))


@pytest.mark.parametrize(
    ("parsing", "marks"),
    [(None, None), (None, MARKS), (Parsing(reasoning=True), None), (Parsing(ToolUse(TOOLS, "none"), True), None)],
)
def test_plain_requests_are_not_read(parsing: Parsing | None, marks: Marks | None) -> None:
    assert Parsers(None, marks).reading(parsing, [1]) is None


def test_reasoning_that_the_prompt_began() -> None:
    reading = Parsers(None, MARKS).reading(Parsing(ToolUse(TOOLS), True), [9, 1])
    assert reading is not None
    assert reading.keeps_special_tokens
    assert reading.counter is not None
    assert reading.counter.count(0, [9, 9, 2, 9]) == 2
    assert reading.splitter().feed("Hm.</think>").reasoning == "Hm."


def test_grammars_are_asked_for_where_calls_are_held_to_something() -> None:
    parsers = Parsers(None, None)
    assert parsers.grammar(None) is None
    assert parsers.grammar(Parsing(reasoning=True)) is None
    assert parsers.grammar(Parsing(ToolUse(TOOLS, "none"))) is None
    assert parsers.grammar(Parsing(ToolUse(TOOLS, only=("f",)))) is None
    assert parsers.grammar(Parsing(ToolUse(TOOLS))) is not None
    assert parsers.grammar(Parsing(ToolUse(TOOLS[:1], "required"))) is not None
