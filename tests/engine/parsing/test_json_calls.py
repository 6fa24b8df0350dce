"""Tools, S rows of CONFORMANCE: a declared name is a call, anything else is text; S29: broken and huge calls."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.parsing.json_calls import CallReader, ForcedCalls, HeldCalls
from tests.engine.parsing.joined import cuts, joined

NAMES = ("get_weather", "add")
WEATHER = '{"name": "get_weather", "arguments": {"city": "Köln", "when": [1, {"a": "}\\""}]}}'
ARGUMENTS = '{"city": "Köln", "when": [1, {"a": "}\\""}]}'
ADD = '{"name":"add","arguments":{"x":1e400,"y":10000000000000000000000001}}'


def held(parallel: bool = True) -> HeldCalls:
    return HeldCalls(CallReader(NAMES, parallel=parallel))


def forced(parallel: bool = True) -> ForcedCalls:
    return ForcedCalls(NAMES, parallel=parallel)


CALLS = [
    (WEATHER, [["get_weather", ARGUMENTS]]),
    (f"\n  {WEATHER}\t\n", [["get_weather", ARGUMENTS]]),
    (f"[{WEATHER} , {ADD}]", [["get_weather", ARGUMENTS], ["add", ADD[26:-1]]]),
    (f"{WEATHER}\n{ADD}", [["get_weather", ARGUMENTS], ["add", ADD[26:-1]]]),
    (f"{ADD}; {ADD}", [["add", ADD[26:-1]], ["add", ADD[26:-1]]]),
    ('{"name": "add"}', [["add", "{}"]]),
    ('{"name": "add", "parameters": {"x": 1}}', [["add", '{"x": 1}']]),
    ('{"type": "function", "name": "add", "parameters": {}}', [["add", "{}"]]),
    ('{"arguments": {"x": 1}, "name": "add"}', [["add", '{"x": 1}']]),
    ('{"name": "add", "arguments": "{\\"x\\": 1}"}', [["add", '{"x": 1}']]),
    ('{"n\\u0061me": "add", "arguments": {}}', [["add", "{}"]]),
    ("[" + ",".join([ADD] * 20) + "]", [["add", ADD[26:-1]]] * 20),
]
TEXTS = [
    "",
    "   ",
    "Hello {name}",
    "{}",
    "[]",
    "{",
    '{"name": "unknown", "arguments": {}}',
    '{"name": "add", "arguments": {',
    '{"name": "add", "arguments": {"x": 1}',
    '{"name": "add", "arguments": {"x": 1,}}',
    '{"name": "add", "arguments": {"x": NaN}}',
    '{"name": "add", "arguments": {"x": "\n"}}',
    '{"name": "add", "arguments": {}} and more',
    '{"name": "add", "arguments": {}},',
    '{"name": "add", "arguments": [1]}',
    '{"name": "add", "arguments": "x"}',
    '{"name": "add", "name": "add"}',
    '{"name": "add",}',
    '{"name": 3, "arguments": {}}',
    '{"city": "Paris"}',
    '{"city": "Paris", "name": "add", "arguments": {}}',
    f"[{WEATHER},]",
    f"[{WEATHER} {WEATHER}]",
    f"[{WEATHER}",
    f"[{WEATHER}, 3]",
    f"[[{WEATHER}]]",
    f"{WEATHER}\n" + '{"name": "unknown", "arguments": {}}',
    '{"name": "add", "arguments": ' + '{"a":' * 10_000 + "1" + "}" * 10_001,
    '{"name": "add", "arguments": {"x": ' + "[" * 10_000,
    f"\u00a0{WEATHER}",
]


@pytest.mark.parametrize(("text", "calls"), CALLS)
def test_calls(text: str, calls: list[list[str]]) -> None:
    found = joined(held(), [text])
    assert (found.calls, found.content) == (calls, "")


@pytest.mark.parametrize("text", TEXTS)
def test_anything_else_is_text_and_all_of_it(text: str) -> None:
    found = joined(held(), [text])
    assert (found.content, found.calls) == (text, [])


@given(st.data(), st.sampled_from([text for text, _ in CALLS] + [text for text in TEXTS if len(text) < 1000]))
def test_any_cut_gives_the_same(data: st.DataObject, text: str) -> None:
    assert joined(held(), data.draw(cuts(text))) == joined(held(), [text])


FRAGMENTS = ['{"name": "', "add", '"', ', "arguments": ', "{", "}", "[", "]", ",", " ", '"x": 1', "\\", ";", "\n", "é"]


@given(st.data())
def test_any_cut_of_almost_calls_gives_the_same(data: st.DataObject) -> None:
    text = "".join(data.draw(st.lists(st.sampled_from(FRAGMENTS), max_size=14)))
    for new in (held, forced):
        assert joined(new(), data.draw(cuts(text))) == joined(new(), [text])
    whole = joined(held(), [text])
    assert bool(whole.calls) != bool(whole.content) or not text


def test_a_reply_of_text_is_not_held_back() -> None:
    splitter = held()
    assert splitter.feed(" ").content == ""
    assert splitter.feed("Hi").content == " Hi"
    assert splitter.feed("{").content == "{"
    other = held()
    assert other.feed('{"city').content == '{"city'
    unknown = held()
    assert unknown.feed('{"name": "unknown"').content == '{"name": "unknown"'


def test_only_the_first_call_without_parallel_calls() -> None:
    assert joined(held(parallel=False), [f"{WEATHER}\n{ADD}"]).calls == [["get_weather", ARGUMENTS]]
    assert joined(forced(parallel=False), [f"{WEATHER}\n{ADD}"]).calls == [["get_weather", ARGUMENTS]]


@given(st.data(), st.sampled_from([WEATHER, f"{WEATHER}\n{ADD}\n{WEATHER}", ADD, WEATHER[:-1], WEATHER[:50]]))
def test_forced_arguments_leave_as_they_come_and_join_to_the_same(data: st.DataObject, text: str) -> None:
    assert joined(forced(), data.draw(cuts(text))) == joined(forced(), [text])


def test_forced_calls_are_streamed() -> None:
    splitter = forced()
    assert splitter.feed('{"name": "add", "argum').calls == ()
    (named, begun) = splitter.feed('ents": {"x"').calls
    assert (named.index, named.name, named.arguments) == (0, "add", "")
    assert (begun.name, begun.arguments) == (None, '{"x"')
    assert splitter.unfinished_call
    (rest,) = splitter.feed(": 1}}").calls
    assert rest.arguments == ": 1}"
    assert not splitter.unfinished_call


def test_forced_calls_that_are_cut() -> None:
    cut = joined(forced(), [WEATHER[:50]])
    assert cut.calls == [["get_weather", WEATHER[37:50]]]
    assert joined(forced(), ['{"name": "get']).content == '{"name": "get'


@given(
    st.lists(
        st.tuples(
            st.sampled_from(NAMES),
            st.dictionaries(st.text(max_size=4), st.recursive(st.text(max_size=4), st.lists, max_leaves=4), max_size=3),
        ),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
    st.sampled_from([None, 2]),
)
def test_what_is_written_is_read_back(
    written: list[tuple[str, dict[str, object]]], ascii: bool, indent: int | None
) -> None:
    objects = [{"name": name, "arguments": arguments} for name, arguments in written]
    text = "\n".join(json.dumps(each, ensure_ascii=ascii, indent=indent) for each in objects)
    for splitter in (held(), forced()):
        calls = joined(splitter, [text]).calls
        assert [(name, json.loads(arguments)) for name, arguments in calls] == written
