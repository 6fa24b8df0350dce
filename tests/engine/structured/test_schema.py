"""Which schemas are refused, and by what name: the S table."""

from __future__ import annotations

import datetime
import json
import uuid
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema_specifications import REGISTRY as SPECIFICATIONS
from pydantic import AnyUrl, BaseModel, Field, SecretStr, StringConstraints

from engine.structured.formats import SHAPES
from engine.structured.keywords import ANNOTATIONS, OF_TYPE, REFUSED
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
    ("S17 anchor", {"type": "string", "pattern": "a^b"}, "unsupported_schema_feature"),
    ("S17 anchor inside", {"type": "string", "pattern": "^(a$|b)c?$"}, "unsupported_schema_feature"),
    ("S17 flags", {"type": "string", "pattern": "(?i)^abc$"}, "unsupported_schema_feature"),
    ("S17 flags of a group", {"type": "string", "pattern": "^(?i:a)$"}, "unsupported_schema_feature"),
    ("S17 surrogates", {"type": "string", "pattern": r"[\ud800-\udbff]"}, "unsupported_schema_feature"),
    ("S17 format and pattern", {"type": "string", "format": "uuid", "pattern": "^a"}, "unsupported_schema_feature"),
    ("S17 format and length", {"type": "string", "format": "email", "maxLength": 99}, "unsupported_schema_feature"),
    ("S17 format of a number", {"type": "integer", "format": "date"}, "unsupported_schema_feature"),
    ("S17 too narrow", {"type": "number", "minimum": 0.1234567891, "maximum": 0.1234567893},
     "unsupported_schema_feature"),
    ("S17 too narrow below 0", {"type": "number", "minimum": -1e-7, "exclusiveMaximum": 0},
     "unsupported_schema_feature"),
    ("S06 int32", {"type": "integer", "format": "int32", "minimum": 2**31}, "unsatisfiable_schema"),
    ("S17 names and properties", obj({"a": NULL}, propertyNames={"maxLength": 2}), "unsupported_schema_feature"),
    ("S17 names of no string", {"type": "object", "propertyNames": {"enum": [1]}}, "unsupported_schema_feature"),
    ("S17 names by choice", {"type": "object", "propertyNames": {"anyOf": [{"const": "a"}]}},
     "unsupported_schema_feature"),
    ("S17 fewest names", {"type": "object", "propertyNames": {"minLength": 1}, "minProperties": 2},
     "unsupported_schema_feature"),
    ("S17 two patterns", {"type": "object", "patternProperties": {"a": NULL, "b": NULL}}, "unsupported_schema_feature"),
    ("S17 patterns and properties", obj({"a": NULL}, patternProperties={"b": NULL}), "unsupported_schema_feature"),
    ("S17 lookahead of a name", {"type": "object", "patternProperties": {"(?=a)b": NULL}},
     "unsupported_schema_feature"),
    ("S17 into an annotation", {"$ref": "#/default", "default": {"type": "string", "maxLength": 3}},
     "unsupported_schema_feature"),
    ("S17 into an extension", {"$ref": "#/x-d", "x-d": NULL}, "unsupported_schema_feature"),
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
        {"type": "array", "uniqueItems": False, "items": True},
        {"properties": {"a": NULL}},
        {"type": "array", "prefixItems": [NULL, {"type": "integer"}], "items": False, "minItems": 1},
        obj({"next": {"anyOf": [{"$ref": "#"}, NULL]}}, required=["next"], additionalProperties=False),
        obj({"a": NULL, "b": NULL}, minProperties=1, additionalProperties=False),
        {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}},
        {"oneOf": [{"type": "string"}, {"type": ["integer", "null"]}]},
        {"oneOf": [{"const": "a"}, {"enum": ["b", None]}]},
        {"oneOf": [{"type": "boolean"}, {"const": "no"}, {"enum": [1, 2]}]},
        *({"type": "string", "format": name} for name in sorted(SHAPES)),
        {"type": "object", "propertyNames": {"$ref": "#/$defs/a"}, "$defs": {"a": {"type": "string", "enum": ["x"]}}},
        nested(15),
    ],
)
def test_accepted_as_it_stands(schema: Any) -> None:
    assert json.loads(check_schema(schema)) == schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "format": "date", "minLength": 1},
        {"type": "string", "format": "uri", "minLength": 1},  # pydantic's AnyUrl
        {"type": "string", "format": "uuid", "minLength": 36, "maxLength": 36},
        {"type": "string", "format": "path"},
        {"type": "string", "format": "password", "maxLength": 20},
        {"type": "number", "format": "double"},
        {"type": ["integer", "null"], "format": "int32", "minimum": 0},
        {"type": "object", "additionalProperties": NULL, "propertyNames": {"minLength": 1}},
        {"type": "object", "additionalProperties": NULL, "propertyNames": {"type": "string"}, "minProperties": 0},
        {"type": "object", "patternProperties": {"^[a-z]+$": NULL}},
        obj({f"p{i}": {"type": "string", "minLength": 1} for i in range(20)}),
        {"type": "string", "format": "nanoid", "pattern": "^[a-zA-Z0-9_-]{21}$"},  # Zod's
    ],
)
def test_accepted(schema: Any) -> None:
    Draft202012Validator.check_schema(schema)
    Draft202012Validator.check_schema(json.loads(check_schema(schema)))


def test_annotations_are_let_through_and_left_behind() -> None:
    odd = {"type": "integer", "multipleOf": 2}  # which vLLM would refuse wherever it stands
    schema = obj({"default": {**NULL, "default": odd, "examples": [odd]}}, **{"x-order": odd, "title": "T"})
    schema |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "urn:x"}
    assert json.loads(check_schema(schema)) == {**obj({"default": NULL}), "$id": "urn:x"}


def test_names_that_are_listed_become_properties() -> None:
    listed = {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": NULL, "required": ["a"]}
    assert json.loads(check_schema(listed)) == obj({"a": NULL, "b": NULL}, additionalProperties=False, required=["a"])


@pytest.mark.parametrize("name", ["Plain", "Many", "Named", "Narrow"])
def test_models_of_pydantic_are_taken(name: str) -> None:
    class Colour(Enum):
        RED = "red"

    class Plain(BaseModel):
        when: datetime.datetime
        day: datetime.date | None = None
        number: uuid.UUID
        site: AnyUrl
        price: Decimal

    class Many(BaseModel):
        by_colour: dict[Colour, int]
        by_word: dict[Literal["a", "b"], list[Plain]]
        by_code: dict[Annotated[str, StringConstraints(pattern="^[A-Z]{2}$")], float]
        by_number: dict[uuid.UUID, bool]

    class Named(BaseModel):
        secret: SecretStr
        where: Path
        note: Annotated[str, Field(min_length=1, json_schema_extra={"example": "x", "x-rank": 1})]

    class Narrow(BaseModel):
        pair: tuple[int, Literal["x"]]
        address: IPv4Address
        share: Annotated[float, Field(gt=0, lt=1)]

    check_schema({each.__name__: each for each in (Plain, Many, Named, Narrow)}[name].model_json_schema())


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
