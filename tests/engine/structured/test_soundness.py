"""The law of structured output: whatever a grammar lets through is valid for the schema that it was made of."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import xgrammar
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from engine.structured.refusal import NotEnforceable
from engine.structured.schema import check_schema

END = "<end>"
VOCABULARY = [*map(chr, range(32, 127)), "é", "\n", "\x1b", "\u2028", "\u0663", "{}", "[]", '": "', '","', END]
STEPS = 300


@pytest.fixture(scope="module")
def compiler() -> xgrammar.GrammarCompiler:
    return xgrammar.GrammarCompiler(
        xgrammar.TokenizerInfo(VOCABULARY, stop_token_ids=[VOCABULARY.index(END)]), max_threads=1
    )


def written(compiler: xgrammar.GrammarCompiler, schema: str, chance: random.Random) -> str | None:
    """A text that the grammar lets through as complete; None if it went on too long."""
    compiled = compiler.compile_json_schema(schema, any_whitespace=False, separators=(",", ":"))
    matcher = xgrammar.GrammarMatcher(compiled)
    mask = xgrammar.allocate_token_bitmask(1, len(VOCABULARY))
    text = ""
    for _ in range(STEPS):
        matcher.fill_next_token_bitmask(mask)
        words = mask[0].tolist()
        allowed = [token for token in range(len(VOCABULARY)) if words[token // 32] >> (token % 32) & 1]
        assert allowed, f"a dead end after {text!r}"
        closing = [token for token in allowed if VOCABULARY[token] in ('"', "}", "]", ",", END)]
        token = chance.choice(closing if closing and chance.random() < 0.4 else allowed)
        if VOCABULARY[token] == END:
            return text
        matcher.accept_token(token)
        text += VOCABULARY[token]
    return None


def assert_sound(compiler: xgrammar.GrammarCompiler, schema: Any, tries: int = 8) -> int:
    """How many texts were looked at."""
    text = check_schema(schema)
    found = [written(compiler, text, random.Random(seed)) for seed in range(tries)]
    validator = Draft202012Validator(schema)
    for each in found:
        if each is not None:
            validator.validate(json.loads(each))
    return sum(each is not None for each in found)


NUMBERS = st.integers(-1000, 1000) | st.floats(-50, 50).map(lambda value: round(value, 2))
LITERALS = st.none() | st.booleans() | st.integers(-99, 99) | st.text('abé"\\\n/', max_size=3)
PATTERNS = ["^[a-c]+$", "x?y", r"^\d{2,3}-\w$", "^(ab|c)*$", "^[^a]{2}$", "^a(bc+)?$", r"^(\W*b)?$"]
LISTED = st.sampled_from([{"enum": ["a", "é"]}, {"minLength": 2}, {"pattern": "^b?c$"}, {"type": "string"}])
NAMES = st.sampled_from(["a", "b", 'c"', "d\\", "é", "x/y"])


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def typed(name: str, words: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return words.map(lambda found: {"type": name, **found})


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    more = optional(
        additionalProperties=st.booleans() | inner, minProperties=st.integers(0, 2), maxProperties=st.integers(1, 3)
    )

    def build(found: tuple[dict[str, Any], dict[str, Any], int]) -> dict[str, Any]:
        properties, words, required = found
        return {"type": "object", "properties": properties, "required": list(properties)[:required], **words}

    described = st.one_of(
        inner.map(lambda each: {"patternProperties": {"^[ab]+$": each}}),
        st.tuples(LISTED, inner).map(lambda found: {"propertyNames": found[0], "additionalProperties": found[1]}),
    )
    return st.tuples(st.dictionaries(NAMES, inner, max_size=3), more, st.integers(0, 3)).map(build) | typed(
        "object", described
    )


LEAVES = st.one_of(
    typed("null", st.just({})),
    typed("boolean", st.just({})),
    typed("string", optional(minLength=st.integers(0, 3), maxLength=st.integers(0, 5))),
    typed("string", optional(pattern=st.sampled_from(PATTERNS))),
    typed("string", optional(format=st.sampled_from(["date", "time", "json-pointer", "ipv4", "path"]))),
    typed("integer", optional(minimum=st.integers(-999, 999), maximum=st.integers(-999, 9999))),
    typed("integer", optional(exclusiveMinimum=st.integers(-99, 99), exclusiveMaximum=st.integers(-99, 999))),
    typed("number", optional(minimum=NUMBERS, maximum=NUMBERS)),
    typed("number", optional(exclusiveMinimum=NUMBERS, exclusiveMaximum=NUMBERS)),
    st.lists(LITERALS, min_size=1, max_size=3).map(lambda values: {"enum": values}),
    LITERALS.map(lambda value: {"const": value}),
    st.just({"type": ["string", "null"], "maxLength": 2}),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        objects(inner),
        typed(
            "array",
            optional(
                items=inner,
                minItems=st.integers(0, 2),
                maxItems=st.integers(0, 3),
                prefixItems=st.lists(inner, max_size=2),
            ),
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda each: {"anyOf": each}),
        st.lists(inner, min_size=1, max_size=2).map(lambda each: {"oneOf": each}),
        inner.map(lambda each: {"$ref": "#/$defs/d", "$defs": {"d": each}}),
    ),
    max_leaves=6,
)


@settings(max_examples=150)
@given(st.data())
def test_law(compiler: xgrammar.GrammarCompiler, data: st.DataObject) -> None:
    schema = data.draw(SCHEMAS)
    try:
        check_schema(schema)
    except NotEnforceable:
        return
    assert_sound(compiler, schema, tries=4)


TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer", "minimum": 0, "maximum": 9},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
    },
}


@pytest.mark.parametrize(
    "schema",
    [
        TREE,
        {"type": "object"},
        {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2},
        {"type": "string", "minLength": 3},
        {"type": "array", "prefixItems": [{"type": "integer"}], "items": False},
        {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
    ],
)
def test_sound(compiler: xgrammar.GrammarCompiler, schema: Any) -> None:
    assert assert_sound(compiler, schema, tries=30) > 10


@pytest.mark.parametrize(
    ("why", "schema", "text"),
    [
        ("a required name that is not described", {"type": "object", "required": ["z"]}, "{}"),
        ("types beside alternatives", {"type": "null", "anyOf": [{"type": "boolean"}]}, "true"),
        ("quotes in patterns", {"type": "string", "pattern": '^"$'}, '"""'),
        ("two of one name", {"type": "object", "minProperties": 2, "additionalProperties": True}, '{"a": 1, "a": 1}'),
        ("several of all", {"allOf": [{"type": "integer"}, {"minimum": 7}]}, "1"),
    ],
)
def test_why_some_are_refused(why: str, schema: Any, text: str) -> None:
    """Where one of these fails, xgrammar has learned to enforce it, and it may be allowed."""
    from xgrammar.testing import _is_grammar_accept_string

    grammar = xgrammar.Grammar.from_json_schema(json.dumps(schema), any_whitespace=True)
    assert _is_grammar_accept_string(grammar, text), why
    with pytest.raises(NotEnforceable):
        check_schema(schema)
