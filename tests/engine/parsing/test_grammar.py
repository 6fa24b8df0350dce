"""What the structural tags accept, asked of xgrammar itself."""

from __future__ import annotations

import json

import pytest
import xgrammar

from engine.parsing import grammar
from engine.types import Tool, ToolUse

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = Tool("get_weather", "Weather", CITY, strict=True)
TIME = Tool("now")
LOOSE = Tool("loose", None, CITY)

PARIS = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
NOW = '{"name": "now", "arguments": {}}'


def accepts(tag: str, text: str) -> bool:
    """Whether a whole answer may be ``text``."""
    vocabulary = [bytes([byte]) for byte in range(256)] + [b"</s>"]
    info = xgrammar.TokenizerInfo(vocabulary, stop_token_ids=[256])
    matcher = xgrammar.GrammarMatcher(xgrammar.GrammarCompiler(info).compile_structural_tag(tag))
    return matcher.accept_string(text) and matcher.accept_token(256)


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        (PARIS, True),
        (NOW, True),
        (f"{PARIS}\n{NOW}\n{PARIS}", True),
        ("", False),
        ("Hello", False),
        ('{"name": "get_weather", "arguments": {}}', False),
        ('{"name": "get_weather", "arguments": {"city": 1}}', False),
        ('{"name": "get_weather", "arguments": "Paris"}', False),
        ('{"name": "other", "arguments": {}}', False),
        ('{"name": "now", "arguments": {"x": 1}}', False),
        (f"{PARIS} and", False),
    ],
)
def test_forced(text: str, accepted: bool) -> None:
    assert accepts(grammar.forced(ToolUse((WEATHER, TIME), "required")), text) is accepted


def test_arguments_are_an_object_also_where_their_schema_says_nothing() -> None:
    named = Tool("f", None, {"title": "Anything"}, strict=True)
    for tag in (grammar.forced(ToolUse((named,), "required")), grammar.strict(ToolUse((named,), "auto"))):
        assert accepts(tag, '{"name": "f", "arguments": {"a": 1}}')
        assert not accepts(tag, '{"name": "f", "arguments": 5}')


def test_arguments_follow_patterns_and_names() -> None:
    parameters = {
        "type": "object",
        "properties": {
            "at": {"type": "string", "pattern": r"^\d\d(:\d+)?$"},
            "by": {"type": "object", "propertyNames": {"enum": ["x"]}, "additionalProperties": {"type": "null"}},
        },
        "required": ["at"],
        "additionalProperties": False,
    }
    tag = grammar.forced(ToolUse((Tool("f", None, parameters, strict=True),), "required"))
    assert accepts(tag, '{"name": "f", "arguments": {"at": "10:5", "by": {"x": null}}}')
    assert not accepts(tag, '{"name": "f", "arguments": {"at": "105"}}')
    assert not accepts(tag, '{"name": "f", "arguments": {"at": "10", "by": {"y": null}}}')


def test_one_function_and_one_call() -> None:
    named = grammar.forced(ToolUse((WEATHER, TIME), "required", ("now",)))
    assert accepts(named, NOW)
    assert not accepts(named, PARIS)
    single = grammar.forced(ToolUse((WEATHER, TIME), "required", parallel=False))
    assert accepts(single, NOW)
    assert not accepts(single, f"{NOW}\n{NOW}")


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        (PARIS, True),
        (f"{PARIS}\n{PARIS}", True),
        ("It is sunny in {city}.", True),
        ("A", True),
        ('{"name": "get_weather", "arguments": {"city": 1}}', False),
        (' {"name": "get_weather", "arguments": {"city": 1}}', False),
        ('[{"name": "get_weather", "arguments": {"city": 1}}]', False),
        ('{"name":"get_weather","arguments":{"city":1}}', False),
        ('{"name": "loose", "arguments": {"city": 1}}', True),
    ],
)
def test_strict_tools_under_automatic_choice(text: str, accepted: bool) -> None:
    assert accepts(grammar.strict(ToolUse((WEATHER, LOOSE))), text) is accepted


def test_names_and_schemas_are_quoted() -> None:
    tag = json.loads(grammar.forced(ToolUse((WEATHER,), "required")))
    (call,) = tag["format"]["tags"]
    assert call["begin"] == '{"name": "get_weather", "arguments": '
    assert call["content"]["json_schema"] == CITY
