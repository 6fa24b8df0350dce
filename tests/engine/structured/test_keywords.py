"""A table in the manner of JSON-Schema-Test-Suite: for every enforced keyword, what its grammar must refuse and take.

Refusing too much is allowed (order of properties, white space, names not described); taking too much is not.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import pytest
import xgrammar
from jsonschema import Draft202012Validator
from xgrammar.testing import _is_grammar_accept_string

from engine.structured.formats import FREE, STRINGS, WELL_KNOWN
from engine.structured.keywords import OF_TYPE
from engine.structured.schema import check_schema


class Row(NamedTuple):
    schema: Any
    valid: list[Any]
    invalid: list[Any]


A = {"type": "integer"}
CLOSED: dict[str, Any] = {"type": "object", "additionalProperties": False}
AB = {"a": A, "b": {"type": "null"}}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            **CLOSED,
            "properties": {"v": A, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
            "required": ["v", "next"],
        }
    },
}
TABLE: dict[str, Row] = {
    "type object": Row({"type": "object"}, [{}], [[], "a", 1, None]),
    "type array": Row({"type": "array"}, [[], [1]], [{}, "a", 1]),
    "type string": Row({"type": "string"}, ["", "é", 'a"b', "\n", "\u2028"], [1, None, []]),
    "type integer": Row(A, [0, -7, 123456789], [1.5, "1", None]),
    "type number": Row({"type": "number"}, [0, -7.25, 1e5], ["1", None, True]),
    "type boolean": Row({"type": "boolean"}, [True, False], [0, "true", None]),
    "type null": Row({"type": "null"}, [None], [0, "null", False]),
    "type list": Row({"type": ["boolean", "null"]}, [True, None], [0, "a"]),
    "properties": Row({**CLOSED, "properties": AB}, [{"a": 1, "b": None}, {"a": 1}, {}], [{"a": "x"}, {"b": 1}]),
    "required": Row({**CLOSED, "properties": AB, "required": ["a"]}, [{"a": 1}], [{}, {"b": None}]),
    "additionalProperties false": Row({**CLOSED, "properties": {"a": A}}, [{"a": 1}, {}], [{"c": 1}, {"a": 1, "c": 1}]),
    "additionalProperties schema": Row(
        {"type": "object", "additionalProperties": A}, [{}, {"x": 1, "y": 2}], [{"x": "a"}, {"x": None}]
    ),
    "minProperties": Row({**CLOSED, "properties": AB, "minProperties": 1}, [{"a": 1}, {"a": 1, "b": None}], [{}]),
    "maxProperties": Row({**CLOSED, "properties": AB, "maxProperties": 1}, [{"a": 1}, {}], [{"a": 1, "b": None}]),
    "items": Row({"type": "array", "items": A}, [[], [1, 2]], [["a"], [1, None]]),
    "items false": Row({"type": "array", "prefixItems": [A], "items": False}, [[1]], [["a"], [1, 2]]),
    "prefixItems": Row(
        {"type": "array", "prefixItems": [A, {"type": "null"}], "items": {"type": "boolean"}},
        [[1, None], [1, None, True]],
        [["a"], [1, 1], [1, None, "x"]],
    ),
    "minItems": Row({"type": "array", "items": A, "minItems": 2}, [[1, 2], [1, 2, 3]], [[], [1]]),
    "maxItems": Row({"type": "array", "items": A, "maxItems": 2}, [[], [1, 2]], [[1, 2, 3]]),
    "propertyNames": Row(
        {"type": "object", "propertyNames": {"pattern": "^[a-c]{2}$"}, "additionalProperties": A},
        [{}, {"ab": 1}],
        [{"xy": 1}, {"abc": 1}, {"ab": None}],
    ),
    "propertyNames by length": Row(
        {"type": "object", "propertyNames": {"minLength": 2}, "additionalProperties": A},
        [{"ab": 1, "éé": 2}],
        [{"": 1}, {"a": 1}],
    ),
    "propertyNames listed": Row(
        {"type": "object", "propertyNames": {"enum": ["x", "y"]}, "additionalProperties": A, "required": ["x"]},
        [{"x": 1}, {"x": 1, "y": 2}],
        [{}, {"y": 1}, {"x": 1, "z": 2}, {"x": "a"}],
    ),
    "patternProperties": Row(
        {"type": "object", "patternProperties": {"^a+$": A}, "additionalProperties": False},
        [{}, {"a": 1, "aa": 2}],
        [{"b": 1}, {"a": None}],
    ),
    "minLength": Row({"type": "string", "minLength": 2}, ["ab", "éé", "abc"], ["", "a", "é"]),
    "maxLength": Row({"type": "string", "maxLength": 2}, ["", "ab", "éé"], ["abc", "ééé"]),
    "pattern": Row({"type": "string", "pattern": "^[a-c]{2}$"}, ["ab"], ["a", "abc", "xy", ""]),
    "format": Row({"type": "string", "format": "date"}, ["2025-01-31"], ["2025-1-31", "tomorrow", ""]),
    "format of integers": Row({**A, "format": "int32"}, [0, -(2**31), 2**31 - 1], []),
    "format and bound": Row({**A, "format": "int32", "minimum": 5}, [5, 2**31 - 1], [4]),
    "minimum": Row({**A, "minimum": 3}, [3, 40], [2, -5]),
    "maximum": Row({**A, "maximum": 3}, [3, 0, -40], [4, 33]),
    "exclusiveMinimum": Row({**A, "exclusiveMinimum": 3}, [4, 40], [3, 2]),
    "exclusiveMaximum": Row({**A, "exclusiveMaximum": 3}, [2, -40], [3, 4]),
    "minimum number": Row({"type": "number", "minimum": -1.5}, [-1.5, 0, 2.25], [-1.6, -20]),
    "maximum number": Row({"type": "number", "exclusiveMaximum": 2}, [1.9, -3], [2, 2.1]),
    "enum": Row({"enum": ["a", 1, None, [1, {"b": 2}]]}, ["a", 1, None, [1, {"b": 2}]], ["b", 2, True, []]),
    "const": Row({"const": {"k": ["\n", 1.5]}}, [{"k": ["\n", 1.5]}], [{"k": []}, {}, None]),
    "$ref": Row({"$ref": "#/$defs/a", "$defs": {"a": {"enum": [1, 2]}}}, [1, 2], [3, "1"]),
    "$ref recursive": Row(
        TREE, [{"v": 1, "next": None}, {"v": 1, "next": {"v": 2, "next": None}}], [{"v": 1}, {"v": 1, "next": {}}]
    ),
    "anyOf": Row({"anyOf": [{"type": "null"}, {**A, "minimum": 5}]}, [None, 5], [4, "a"]),
    "oneOf": Row({"oneOf": [{"type": "boolean"}, {"const": "no"}]}, [True, "no"], ["yes", None]),
    "allOf": Row({"allOf": [{"enum": ["x"]}]}, ["x"], ["y", None]),
}


def accepted(schema: Any, text: str) -> bool:
    grammar = xgrammar.Grammar.from_json_schema(check_schema(schema), any_whitespace=False, separators=(",", ":"))
    return bool(_is_grammar_accept_string(grammar, text))


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize("name", TABLE)
def test_what_the_grammar_takes_and_refuses(name: str) -> None:
    schema, valid, invalid = TABLE[name]
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for value in valid:
        validator.validate(value)
        if isinstance(value, str) and "\u2028" in value:
            continue  # may be refused, must not be garbled
        assert accepted(schema, compact(value)), value
    for value in invalid:
        assert not validator.is_valid(value)
        assert not accepted(schema, compact(value)), value


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("text", ["", "{", "[1,]", '{"a":1,}', "01", "'a'", "NaN", '"\n"', '"\x01"', "true false"])
def test_nothing_that_is_no_json(name: str, text: str) -> None:
    assert not accepted(TABLE[name].schema, text)


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"^\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?$", ["10:20", "10:20:30", "10:20:30.5"], ["10:205", "10:20:305"]),
        ("^a(bc+)?$", ["a", "abcc"], ["ac"]),
        ("^(ab*|c)?d$", ["d", "abbd", "cd"], ["bd"]),
        (r"^\W$", ["-", " "], ["É", "_", "a"]),
        (r"^\D+$", ["é", "日本", "a-b"], ["1", "\u0663"]),
        (r"^[^\s@]+@\S+$", ["a@é"], ["a b@c", "\x85@a", "a@\ufeff", "a\u2028@b"]),
        ("^.$", ["é", "😀"], ["\u2028", "ab", ""]),
        ("^[ -~]+$", ["a b"], ["é"]),
        ("^[]a-]{2}$", ["]a", "a-"], ["b]"]),
        ("^a{b}$", ["a{b}"], ["ab"]),
        (r"^(?P<year>\d{4})(|Z)$", ["2025", "2025Z"], ["2025ZZ"]),
        ("^$", [""], ["a"]),
    ],
)
def test_patterns(pattern: str, good: list[str], bad: list[str]) -> None:
    """As Python reads them and as ECMA-262 does: what they disagree about is not let through."""
    schema = {"type": "string", "pattern": pattern}
    assert [text for text in good if not accepted(schema, f'"{text}"')] == []
    assert [text for text in bad if accepted(schema, f'"{text}"')] == []
    assert [text for text in good if not re.search(pattern, text)] == []


def test_why_what_is_optional_is_counted() -> None:
    """Where this fails, xgrammar has learned better, and :func:`engine.structured.patterns.plain_pattern` may write
    ``?``."""
    grammar = xgrammar.Grammar.from_json_schema('{"type": "string", "pattern": "^a(bc+)?$"}')
    assert _is_grammar_accept_string(grammar, '"ac"')


def test_why_lengths_are_bounded_by_patterns() -> None:
    """Where this fails, xgrammar has learned better, and `engine/structured/lowered.py` may go."""
    grammar = xgrammar.Grammar.from_json_schema('{"type": "string", "maxLength": 2}')
    assert _is_grammar_accept_string(grammar, '"\t"')


def test_every_enforced_keyword_is_in_the_table() -> None:
    enforced = frozenset().union(*OF_TYPE.values()) | {"type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf"}
    shown = {name.partition(" ")[0] for name in TABLE}
    assert enforced - shown == {"uniqueItems"}  # of which only false is taken


FORMS = {
    "date": ("2024-02-29", "2025-02-29"),
    "time": ("10:20:30Z", "10:20:60Z"),
    "date-time": ("2025-01-31T10:20:30.5+02:00", "2025-06-31T10:20:30Z"),
    "duration": ("P3DT4H", "3 days"),
    "email": ("a@b.org", "a.b.org"),
    "hostname": ("a.example.org", "a b"),
    "ipv4": ("10.0.0.1", "10.0.0.01"),
    "ipv6": ("2001:db8::1", "10.0.0.1.2"),
    "uuid": ("123e4567-e89b-12d3-a456-426614174000", "123e4567"),
    "uri": ("https://a.org/b?c=d#e", "no uri"),
    "uri-reference": ("../b?c", "a b"),
    "uri-template": ("https://a.org/{b}", "{a b"),
    "json-pointer": ("/a/0", '/a"'),
    "relative-json-pointer": ("1/a", '1/a"'),
}


@pytest.mark.parametrize("name", sorted(STRINGS - FREE))
def test_formats(name: str) -> None:
    good, bad = FORMS[name]
    schema = {"type": "string", "format": name}
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(good)
    assert accepted(schema, compact(good))
    assert not accepted(schema, f'"{bad}"')


@pytest.mark.parametrize(("form", "pattern"), sorted(WELL_KNOWN))
def test_what_zod_writes_beside_a_format(form: str, pattern: str) -> None:
    good = {"uuid": "123e4567-e89b-%s2d3-a456-426614174000", "email": "a.b+c@d-e.org", "ipv4": "10.0.0.1"}
    good |= {"date": "2024-02-29", "date-time": "2024-02-29T10:20:30.5Z"}
    text = good[form].replace("%s", next((c for c in "12345678" if f"-{c}[0-9a" in pattern), "4"))
    assert re.search(pattern, text)
    assert accepted({"type": "string", "format": form, "pattern": pattern}, f'"{text}"')
    assert not accepted({"type": "string", "format": form, "pattern": pattern}, f'"{text}"'.replace("-", "~", 1)[:-2])
