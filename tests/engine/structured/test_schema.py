"""Which schemas are refused, and by what name: the S table."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema_specifications import REGISTRY as SPECIFICATIONS

from engine.structured.keywords import ANNOTATIONS, FORMATS, OF_TYPE, REFUSED
from engine.structured.refusal import NotEnforceable
from engine.structured.schema import check_schema

NULL = {"type": "null"}


def obj(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **more}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = NULL
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def deep_list(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


ROWS: list[tuple[str, Any, str]] = [
    ("S03 not an object", [], "invalid_json_schema"),
    ("S03 false", False, "invalid_json_schema"),
    ("S03 banana", {"type": "banana"}, "invalid_json_schema"),
    ("S03 banana inside", obj({"a": {"type": ["null", "banana"]}}), "invalid_json_schema"),
    ("S03 no types", {"type": []}, "invalid_json_schema"),
    ("S03 required", obj({"a": NULL}, required="a"), "invalid_json_schema"),
    ("S03 twice required", obj({"a": NULL}, required=["a", "a"]), "invalid_json_schema"),
    ("S03 properties", {"type": "object", "properties": []}, "invalid_json_schema"),
    ("S03 anyOf", {"anyOf": []}, "invalid_json_schema"),
    ("S03 enum", {"enum": []}, "invalid_json_schema"),
    ("S03 minItems", {"type": "array", "minItems": -1}, "invalid_json_schema"),
    ("S03 maxLength", {"type": "string", "maxLength": 1.5}, "invalid_json_schema"),
    ("S03 pattern", {"type": "string", "pattern": "(a"}, "invalid_json_schema"),
    ("S04 http", {"$ref": "http://127.0.0.1/x"}, "unsupported_schema_feature"),
    ("S04 file", {"$ref": "file:///etc/passwd"}, "unsupported_schema_feature"),
    ("S04 anchor", {"$ref": "#a", "$defs": {"a": {"$anchor": "a"}}}, "unsupported_schema_feature"),
    ("S05", {"$ref": "#/$defs/none"}, "invalid_json_schema"),
    ("S05 escape", {"$ref": "#/$defs/a~1b", "$defs": {"a/b": NULL}}, "unsupported_schema_feature"),
    ("S06 self", {"$ref": "#"}, "unsatisfiable_schema"),
    ("S06 ring", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
     "unsatisfiable_schema"),
    ("S06 left recursion", {"anyOf": [{"$ref": "#"}, NULL]}, "unsatisfiable_schema"),
    ("S06 endless", obj({"a": {"$ref": "#"}}, required=["a"]), "unsatisfiable_schema"),
    ("S06 endless items", {"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "unsatisfiable_schema"),
    ("S06 endless choice", {"anyOf": [obj({"a": {"$ref": "#"}}, required=["a"])]}, "unsatisfiable_schema"),
    ("S06 bounds", {"type": "integer", "minimum": 2, "maximum": 1}, "unsatisfiable_schema"),
    ("S06 exclusive", {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2}, "unsatisfiable_schema"),
    ("S06 lengths", {"type": "string", "minLength": 2, "maxLength": 1}, "unsatisfiable_schema"),
    ("S06 items", {"type": "array", "prefixItems": [NULL], "items": False, "minItems": 2}, "unsatisfiable_schema"),
    ("S06 properties", obj({"a": NULL}, required=["a"], maxProperties=0), "unsatisfiable_schema"),
    ("S08", nested(16), "schema_too_complex"),
    ("S08 deep literal", {"const": deep_list(5_000)}, "schema_too_complex"),
    ("S09 properties", obj({f"p{i}": NULL for i in range(501)}), "schema_too_complex"),
    ("S09 properties together", obj({f"p{i}": obj({f"q{j}": NULL for j in range(30)}) for i in range(20)}),
     "schema_too_complex"),
    ("S09 values", {"enum": [f"v{i}" for i in range(501)]}, "schema_too_complex"),
    ("S09 characters", {"enum": ["x" * 17_000]}, "schema_too_complex"),
    ("S09 schemas", {"anyOf": [NULL] * 1001}, "schema_too_complex"),
    ("S10", {"description": "x" * 66_000}, "schema_too_complex"),
    ("S11 length", {"type": "string", "maxLength": 1025}, "schema_too_complex"),
    ("S11 strings", obj({f"p{i}": {"type": "string", "maxLength": 9} for i in range(9)}), "schema_too_complex"),
    ("S12", {"type": "string", "pattern": "^([a-z]{1,20}){1,20}$"}, "schema_too_complex"),
    ("S12 long", {"type": "string", "pattern": "a{1,2000}"}, "schema_too_complex"),
    ("S12 many", {"type": "string", "pattern": "a{1,1000}" * 5}, "schema_too_complex"),
    ("S15", {"type": "integer", "minimum": -(10**40), "maximum": 10**40}, "invalid_json_schema"),
    ("S15 number", {"type": "number", "maximum": 1e300}, "invalid_json_schema"),
    ("S15 literal", {"enum": [[{"a": 2**60}]]}, "invalid_json_schema"),
    ("S15 half", {"type": "integer", "minimum": 0.5}, "invalid_json_schema"),
    ("S16 const", {"const": "\ud800"}, "invalid_unicode"),
    ("S16 enum", {"enum": ["a\x00"]}, "invalid_unicode"),
    ("S16 name", obj({"\udfff": NULL}), "invalid_unicode"),
    ("S16 NUL name", obj({"a\x00": NULL}), "invalid_unicode"),
    ("S17 multipleOf", {"type": "integer", "multipleOf": 3}, "unsupported_schema_feature"),
    ("S17 uniqueItems", {"type": "array", "uniqueItems": True}, "unsupported_schema_feature"),
    ("S17 contains", {"type": "array", "contains": NULL}, "unsupported_schema_feature"),
    ("S17 allOf", {"allOf": [NULL, NULL]}, "unsupported_schema_feature"),
    ("S17 pattern and length", {"type": "string", "pattern": "a", "maxLength": 2}, "unsupported_schema_feature"),
    ("S17 format", {"type": "string", "format": "iban"}, "unsupported_schema_feature"),
    ("S17 beside $ref", {"$ref": "#/$defs/a", "minimum": 1, "$defs": {"a": {"type": "integer"}}},
     "unsupported_schema_feature"),
    ("S17 beside anyOf", {"type": "null", "anyOf": [NULL]}, "unsupported_schema_feature"),
    ("S17 overlap", {"oneOf": [{"type": "integer"}, {"type": "number"}]}, "unsupported_schema_feature"),
    ("S17 overlapping value", {"oneOf": [{"const": 1}, {"type": "number"}]}, "unsupported_schema_feature"),
    ("S17 not of the type", {"type": "string", "enum": ["a", 1]}, "unsupported_schema_feature"),
    ("S17 without a type", {"minimum": 1}, "unsupported_schema_feature"),
    ("S17 of another type", {"type": "string", "minimum": 1}, "unsupported_schema_feature"),
    ("S17 required only", obj({"a": NULL}, required=["b"]), "unsupported_schema_feature"),
    ("S17 open minProperties", obj({"a": NULL}, minProperties=1, additionalProperties=True),
     "unsupported_schema_feature"),
    ("S17 no properties", {"type": "object", "minProperties": 1}, "unsupported_schema_feature"),
    ("S17 maxItems", {"type": "array", "prefixItems": [NULL], "maxItems": 0}, "unsupported_schema_feature"),
    ("S17 minItems", {"type": "array", "minItems": 1}, "unsupported_schema_feature"),
    ("S17 lookahead", {"type": "string", "pattern": "(?=a)b"}, "unsupported_schema_feature"),
    ("S17 group", {"type": "string", "pattern": r"(a)\1"}, "unsupported_schema_feature"),
    ("S17 word", {"type": "string", "pattern": r"a\b"}, "unsupported_schema_feature"),
    ("S17 quote", {"type": "string", "pattern": '"'}, "unsupported_schema_feature"),
    ("S17 unknown", {"type": "string", "colour": "red"}, "unsupported_schema_feature"),
    ("S17 a slash is no escape", {"$ref": "#/properties/a/b", "properties": {"a/b": NULL, "a": {"b": {"not": {}}}}},
     "unsupported_schema_feature"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "code"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_refused(schema: Any, code: str) -> None:
    with pytest.raises(NotEnforceable) as caught:
        check_schema(schema)
    assert caught.value.code == code
    assert caught.value.hint.endswith(".")


@pytest.mark.parametrize("keyword", sorted(REFUSED))
def test_refused_by_name_at_its_place(keyword: str) -> None:
    schema = obj({"a": {"type": "array", "items": {"anyOf": [NULL, {keyword: {}}]}}})
    with pytest.raises(NotEnforceable, match=f"'{keyword.replace('$', '[$]')}'") as caught:
        check_schema(schema)
    assert caught.value.code == "unsupported_schema_feature"
    assert caught.value.at == "#.properties.a.items.anyOf.1"


def test_every_keyword_of_the_dialect_is_decided() -> None:
    decided = ANNOTATIONS | REFUSED | frozenset().union(*OF_TYPE.values())
    decided |= {"type", "$ref", "anyOf", "oneOf", "allOf", "const", "enum", "$defs", "definitions", "$id"}
    known: set[str] = set()
    for part in Draft202012Validator.META_SCHEMA["allOf"]:
        known |= SPECIFICATIONS.contents(f"https://json-schema.org/draft/2020-12/{part['$ref']}")["properties"].keys()
    assert known - decided == set()


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "urn:x", "title": "T", "type": "null"},
        {"type": "array", "uniqueItems": False, "items": True},
        {"properties": {"a": NULL}},
        {"type": "array", "prefixItems": [NULL, {"type": "integer"}], "items": False, "minItems": 1},
        obj({"next": {"anyOf": [{"$ref": "#"}, NULL]}}, required=["next"], additionalProperties=False),
        obj({"a": NULL, "b": NULL}, minProperties=1, additionalProperties=False),
        {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}},
        {"oneOf": [{"type": "string"}, {"type": ["integer", "null"]}]},
        {"oneOf": [{"const": "a"}, {"enum": ["b", None]}]},
        {"oneOf": [{"type": "boolean"}, {"const": "no"}, {"enum": [1, 2]}]},
        {"type": "string", "pattern": r"^([0-9]{1,3}\.){3}[0-9]{1,3}$"},
        *({"type": "string", "format": name} for name in sorted(FORMATS)),
        nested(15),
    ],
)
def test_accepted_as_it_stands(schema: Any) -> None:
    assert json.loads(check_schema(schema)) == schema


def test_bounds_of_length_become_patterns_wherever_they_stand() -> None:
    bounded = {"type": ["string", "null"], "minLength": 1, "maxLength": 3}
    named = {"properties": {"maxLength": bounded, "enum": {"enum": [{"maxLength": 3}]}}, "$defs": {"a": bounded}}
    schema = {"type": "object", **named, "additionalProperties": {"anyOf": [bounded, {"type": "null"}]}}
    before = json.dumps(schema)
    found = json.loads(check_schema(schema))
    assert json.dumps(schema) == before
    for each in (
        found["properties"]["maxLength"],
        found["$defs"]["a"],
        found["additionalProperties"]["anyOf"][0],
    ):
        assert each["pattern"].endswith("{1,3}$")
        assert each.keys() == {"type", "pattern"}
    assert found["properties"]["enum"] == {"enum": [{"maxLength": 3}]}
    assert json.loads(check_schema({"type": "string", "minLength": 0})) == {"type": "string"}


def test_alternatives_told_apart_by_a_constant() -> None:
    cat = obj({"kind": {"const": "cat"}, "lives": {"type": "integer"}}, required=["kind"])
    dog = obj({"kind": {"const": "dog"}}, required=["kind"])
    definitions = {"cat": cat, "dog": dog}
    either: dict[str, Any] = {
        "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
        "discriminator": {"propertyName": "kind"},
    }
    check_schema({**either, "$defs": definitions})
    with pytest.raises(NotEnforceable):
        check_schema({**either, "$defs": {**definitions, "dog": {**dog, "required": []}}})


def test_s14_doubling_definitions_are_looked_through_once() -> None:
    definitions: dict[str, Any] = {"d0": NULL}
    for level in range(1, 31):
        definitions[f"d{level}"] = obj({name: {"$ref": f"#/$defs/d{level - 1}"} for name in "ab"})
    check_schema({"$ref": "#/$defs/d30", "$defs": definitions})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "items", "$ref", "anyOf", "enum", "properties"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(JSON)
def test_nothing_else_than_a_verdict(schema: Any) -> None:
    try:
        text = check_schema(schema)
    except NotEnforceable:
        return
    assert json.loads(text) == schema
