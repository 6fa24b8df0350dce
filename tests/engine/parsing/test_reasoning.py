from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.parsing.json_calls import CallReader, HeldCalls
from engine.parsing.piece import PlainText
from engine.parsing.reasoning import Marks, Thinking, ThoughtCounter
from tests.engine.parsing.joined import cuts, joined

MARKS = Marks("<think>", "</think>", 1, 2)
CALL = '{"name": "f", "arguments": {}}'


def thinking(begun: bool = False) -> Thinking:
    return Thinking(MARKS, PlainText(), begun=begun)


ROWS = [
    ("<think>\nWhy?</think>\n\nSo.", False, "Why?", "So."),
    ("\n<think>Why?</think>So.", False, "Why?", "So."),
    ("Why?</think>So.", True, "Why?", "So."),
    ("<think>Why?</think>So.", True, "Why?", "So."),
    ("Only text", False, "", "Only text"),
    (" <thin air", False, "", " <thin air"),
    ("Only text </think> x", False, "", "Only text </think> x"),
    ("<think>cut", False, "cut", ""),
    ("<think>cut </thi", False, "cut </thi", ""),
    ("cut", True, "cut", ""),
    ("<thi", True, "<thi", ""),
    ("<think>", False, "", ""),
    ("<think></think>", False, "", ""),
    ("<think>a</think>b<think>c</think>", False, "a", "b<think>c</think>"),
    ("", False, "", ""),
]


@pytest.mark.parametrize(("text", "begun", "reasoning", "content"), ROWS)
def test_reasoning_and_content(text: str, begun: bool, reasoning: str, content: str) -> None:
    found = joined(thinking(begun), [text])
    assert (found.reasoning, found.content) == (reasoning, content)


@given(st.data(), st.sampled_from(ROWS))
def test_any_cut_gives_the_same(data: st.DataObject, row: tuple[str, bool, str, str]) -> None:
    text, begun, reasoning, content = row
    found = joined(thinking(begun), data.draw(cuts(text)))
    assert (found.reasoning, found.content) == (reasoning, content)


@given(st.data(), st.booleans())
def test_any_cut_of_anything_gives_the_same(data: st.DataObject, begun: bool) -> None:
    parts = ["<think>", "</think>", "<th", "ink>", "</", " ", "\n", "a", CALL]
    text = "".join(data.draw(st.lists(st.sampled_from(parts), max_size=8)))
    first, second = (Thinking(MARKS, HeldCalls(CallReader(["f"])), begun=begun) for _ in range(2))
    assert joined(first, data.draw(cuts(text))) == joined(second, [text])


def test_calls_after_reasoning() -> None:
    found = joined(Thinking(MARKS, HeldCalls(CallReader(["f"])), begun=False), [f"<think>{CALL}</think>\n{CALL}"])
    assert (found.reasoning, found.content, found.calls) == (CALL, "", [["f", "{}"]])


def test_reasoning_is_not_held_back() -> None:
    splitter = thinking()
    assert splitter.feed("<think>").reasoning == ""
    assert splitter.feed("a").reasoning == "a"
    assert splitter.feed("b<").reasoning == "b"


@pytest.mark.parametrize(
    ("prompt", "begun"), [([], False), ([5, 1, 7], True), ([1, 5, 2, 7], False), ([1, 2, 1], True)]
)
def test_a_prompt_may_begin_the_reasoning(prompt: list[int], begun: bool) -> None:
    assert MARKS.open_at_end_of(prompt) is begun


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(0, 12), st.booleans())
def test_counts_do_not_depend_on_the_grouping(ids: list[int], at: int, begun: bool) -> None:
    whole, parts = ThoughtCounter(MARKS, begun=begun), ThoughtCounter(MARKS, begun=begun)
    assert whole.count(0, ids) == parts.count(0, ids[:at]) + parts.count(0, ids[at:])


def test_counts_are_per_choice_and_without_marks() -> None:
    counter = ThoughtCounter(MARKS, begun=False)
    assert counter.count(0, [1, 9, 9]) == 2
    assert counter.count(1, [9]) == 0
    assert counter.count(0, [9, 2, 9]) == 1
