"""A table in the manner of JSON-Schema-Test-Suite: for every enforced keyword, what its grammar must refuse and take.

Refusing too much is allowed (order of properties, white space, names not described); taking too much is not.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
import xgrammar
from jsonschema import Draft202012Validator
from xgrammar.testing import _is_grammar_accept_string

from engine.structured.keywords import FORMATS, OF_TYPE
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
    "minLength": Row({"type": "string", "minLength": 2}, ["ab", "éé", "abc"], ["", "a", "é"]),
    "maxLength": Row({"type": "string", "maxLength": 2}, ["", "ab", "éé"], ["abc", "ééé"]),
    "pattern": Row({"type": "string", "pattern": "^[a-c]{2}$"}, ["ab"], ["a", "abc", "xy", ""]),
    "format": Row({"type": "string", "format": "date"}, ["2025-01-31"], ["2025-1-31", "tomorrow", ""]),
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


def test_why_lengths_are_bounded_by_patterns() -> None:
    """Where this fails, xgrammar has learned better, and `engine/structured/lowered.py` may go."""
    grammar = xgrammar.Grammar.from_json_schema('{"type": "string", "maxLength": 2}')
    assert _is_grammar_accept_string(grammar, '"\t"')


def test_every_enforced_keyword_is_in_the_table() -> None:
    enforced = frozenset().union(*OF_TYPE.values()) | {"type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf"}
    shown = {name.partition(" ")[0] for name in TABLE}
    assert enforced - shown == {"uniqueItems"}  # of which only false is taken


FORMS = {
    "date": ("2025-01-31", "20250131"),
    "time": ("10:20:30Z", "10.20"),
    "date-time": ("2025-01-31T10:20:30Z", "2025-01-31"),
    "duration": ("P3DT4H", "3 days"),
    "email": ("a@b.org", "a.b.org"),
    "hostname": ("a.example.org", "a b"),
    "ipv4": ("10.0.0.1", "10.0.0"),
    "ipv6": ("2001:db8::1", "10.0.0.1.2"),
    "uuid": ("123e4567-e89b-12d3-a456-426614174000", "123e4567"),
    "uri": ("https://a.org/b?c=d#e", "no uri"),
    "uri-reference": ("../b?c", "a b"),
    "uri-template": ("https://a.org/{b}", "{a b"),
    "json-pointer": ("/a/0", "a/0"),
    "relative-json-pointer": ("1/a", "/a"),
}


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_formats(name: str) -> None:
    good, bad = FORMS[name]
    schema = {"type": "string", "format": name}
    assert accepted(schema, compact(good))
    assert not accepted(schema, compact(bad))
