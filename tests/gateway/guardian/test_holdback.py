"""Nothing leaves before its verdict: laws of the hold-back, for any cut of any output into deltas."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.types import Delta, PositionLogprobs, TokenLogprob, ToolCallDelta
from gateway.guardian.check import Outlet
from gateway.guardian.held import REDACTED, without
from gateway.guardian.holdback import HoldBack, Ruling
from gateway.guardian.policy import StepUnit, StreamPolicy

BAD = "zorblax"
POLICY = StreamPolicy(window=64, hold_back=16, step=8)


class Sent:
    """What left, and the tokens that were counted."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.tokens = 0
        self.reasoning = 0

    def text(self, text: str, tokens: int) -> None:
        self.delta(Delta(0, text, tokens))

    def delta(self, delta: Delta) -> None:
        assert delta.tokens == 0
        self.deltas.append(delta)

    def cached(self, tokens: int) -> None: ...

    def count(self, tokens: int) -> None:
        self.tokens += tokens

    def of(self, index: int) -> str:
        return "".join(each.text for each in self.deltas if each.index == index)

    def reasons(self) -> dict[int, str]:
        return {each.index: each.finish_reason for each in self.deltas if each.finish_reason}


class Judge:
    """Stops what holds the planted word; slower than the output."""

    def __init__(self, seconds: float = 0.0, redact: bool = False) -> None:
        self.seen: list[str] = []
        self._seconds = seconds
        self._redact = redact

    async def __call__(self, texts: Sequence[str]) -> Sequence[Ruling]:
        self.seen += texts
        await asyncio.sleep(self._seconds)
        return [self._rule(text) for text in texts]

    def _rule(self, text: str) -> Ruling:
        at = text.find(BAD)
        if at < 0:
            return Ruling(stop=False)
        if not self._redact:
            return Ruling(stop=True)
        return Ruling(stop=False, spans=((at, at + len(BAD)),))


async def run(deltas: Sequence[Delta], judge: Judge, policy: StreamPolicy = POLICY, choices: int = 1) -> Sent:
    sent = Sent()
    hold = HoldBack(Outlet(sent, sent, choices, 1000), policy, judge)
    pump = asyncio.ensure_future(hold.pump())
    for delta in deltas:
        hold.delta(replace(delta))
        await asyncio.sleep(0)
        if pump.done():
            break
    async with asyncio.timeout(10):
        await pump
    return sent


def spoken(text: str, sizes: Sequence[int], index: int = 0) -> list[Delta]:
    out = []
    at = 0
    for size in sizes:
        if at >= len(text):
            break
        out.append(Delta(index, text[at : at + size], 1))
        at += size
    out.append(Delta(index, text[at:], 1, "stop"))
    return out


@given(
    st.text("abc zorblax.\n", max_size=400),
    st.lists(st.integers(1, 30), max_size=120),
    st.sampled_from(["characters", "tokens", "sentences"]),
    st.integers(1, 20),
)
def test_whatever_is_safe_arrives_whole_and_whatever_is_not_never_begins_to(
    text: str, sizes: list[int], unit: StepUnit, step: int
) -> None:
    policy = StreamPolicy(window=64, hold_back=16, step=step, unit=unit)
    sent = asyncio.run(run(spoken(text, sizes), Judge(), policy))
    if BAD in text:
        assert text.startswith(sent.of(0))
        assert len(sent.of(0)) <= text.find(BAD)
        assert sent.reasons() == {0: "content_filter"}
    else:
        assert sent.of(0) == text
        assert sent.reasons() == {0: "stop"}


@pytest.mark.parametrize("at", [0, 1, 40, 150, 293])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 400])
async def test_wherever_it_stands_and_however_it_is_split(at: int, size: int) -> None:
    text = ("." * 300)[:at] + BAD + "." * (300 - at)
    sent = await run(spoken(text, [size] * 400), Judge(0.001))
    assert sent.reasons() == {0: "content_filter"}
    assert len(sent.of(0)) <= at


async def test_one_of_several_choices_is_cut_and_the_others_go_on() -> None:
    good, bad = "good " * 40, "fine " * 30 + BAD + " more" * 20
    pairs = zip_longest(spoken(good, [5] * 60, 0), spoken(bad, [5] * 60, 1))
    deltas = [each for pair in pairs for each in pair if each is not None]
    sent = await run(deltas, Judge(), choices=2)
    assert sent.reasons()[1] == "content_filter"
    assert BAD not in sent.of(1)
    assert sent.of(0) == good


@pytest.mark.parametrize(
    "delta",
    [
        Delta(0, "", 1, reasoning=f"I think {BAD}"),
        Delta(0, "", 1, tool_calls=(ToolCallDelta(0, "call", '{"a": "zorblax"}'),)),
        Delta(0, "", 1, tool_calls=(ToolCallDelta(0, BAD, "{}"),)),
        Delta(0, "x", 1, logprobs=(PositionLogprobs(TokenLogprob(BAD, -1.0, BAD.encode()), ()),)),
        Delta(
            0, "x", 1,
            logprobs=(PositionLogprobs(TokenLogprob("x", -1.0, b"x"), (TokenLogprob(BAD, -1.0, BAD.encode()),)),),
        ),
    ],
)  # fmt: skip
async def test_every_text_of_a_delta_is_judged(delta: Delta) -> None:
    sent = await run([Delta(0, "hello ", 1), delta, Delta(0, " bye", 1, "stop")], Judge())
    assert sent.reasons() == {0: "content_filter"}
    assert all(BAD not in repr(each) for each in sent.deltas)


async def test_a_call_split_between_deltas() -> None:
    calls = [
        Delta(0, "", 1, tool_calls=(ToolCallDelta(0, "f" if not i else None, part),)) for i, part in enumerate(BAD)
    ]
    sent = await run([*calls, Delta(0, "", 1, "tool_calls")], Judge())
    assert sent.reasons() == {0: "content_filter"}
    assert not any(each.tool_calls for each in sent.deltas)


async def test_log_probabilities_that_come_before_their_text() -> None:
    spelled = [
        Delta(0, "", 1, logprobs=(PositionLogprobs(TokenLogprob(part, -1.0, part.encode()), ()),)) for part in BAD
    ]
    sent = await run([*spelled, Delta(0, BAD, 1, "stop")], Judge())
    assert not any(each.logprobs for each in sent.deltas)


async def test_tokens_are_counted_as_they_come_and_once() -> None:
    sent = await run(spoken("fine " * 50, [5] * 60), Judge(0.002))
    assert sent.tokens == 51


@given(st.lists(st.sampled_from([BAD, "ok ", "word", " ", "z", "zor"]), max_size=60), st.lists(st.integers(1, 9)))
def test_redaction_takes_out_all_of_it_and_nothing_else(parts: list[str], sizes: list[int]) -> None:
    text = "".join(parts)

    class EveryOne(Judge):
        def _rule(self, text: str) -> Ruling:
            spans = []
            at = text.find(BAD)
            while at >= 0:
                spans.append((at, at + len(BAD)))
                at = text.find(BAD, at + len(BAD))
            return Ruling(stop=False, spans=tuple(spans))

    sent = asyncio.run(run(spoken(text, sizes), EveryOne()))
    assert sent.of(0) == text.replace(BAD, REDACTED)


def test_without() -> None:
    assert without("hello world", 0, ((0, 5),)) == f"{REDACTED} world"
    assert without("world", 6, ((0, 8),)) == "rld"
    assert without("hello world", 0, ((2, 4), (3, 7))) == f"he{REDACTED}orld"
    assert without("hello", 0, ()) == "hello"


async def test_what_the_judge_raises_ends_it() -> None:
    class Broken(Judge):
        async def __call__(self, texts: Sequence[str]) -> Sequence[Ruling]:
            raise LookupError

    with pytest.raises(LookupError):
        await run(spoken("fine " * 50, [5] * 60), Broken())
