"""``response_format`` and ``structured_outputs`` on the wire: rows of the S table that need no engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.types import ChatMessage, Constraint
from gateway.errors import ApiError
from gateway.protocol.chat import ChatCompletionRequest, parse_chat
from gateway.protocol.completions import parse_completion
from gateway.protocol.sampling import RequestBounds

SCHEMA = {"type": "object", "properties": {"z": {"type": "integer"}, "a": {"type": "null"}}}
AT = "response_format.json_schema"


def chat(**fields: Any) -> ChatCompletionRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    return parse_chat(json.dumps(body).encode(), RequestBounds())


def schema_format(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, **fields}}


def refused_as(code: str, param: str, **fields: Any) -> str:
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    assert (caught.value.status, caught.value.code, caught.value.body.param) == (400, code, param)
    return caught.value.body.message


@pytest.mark.parametrize("strict", [True, False, None])
def test_a_schema_keeps_the_order_of_its_properties(strict: bool | None) -> None:
    constraint = chat(response_format=schema_format(strict=strict)).constraint()
    assert constraint is not None
    assert (constraint.kind, constraint.param) == ("json_schema", f"{AT}.schema")
    assert list(json.loads(constraint.text)["properties"]) == ["z", "a"]


def test_numbers_are_not_cut_short() -> None:
    big = {"const": 2**70, "type": "integer"}
    constraint = chat(response_format=schema_format(schema=big)).constraint()
    assert constraint is not None
    assert json.loads(constraint.text) == big


def test_kinds() -> None:
    assert chat(response_format={"type": "text"}).constraint() is None
    assert chat(response_format=None).constraint() is None
    assert chat(response_format={"type": "json_object"}).constraint() == Constraint(
        "json_object", "", "response_format"
    )
    rows: list[tuple[dict[str, Any], str, str]] = [
        ({"json": SCHEMA}, "json_schema", json.dumps(SCHEMA)),
        ({"json": json.dumps(SCHEMA)}, "json_schema", json.dumps(SCHEMA)),
        ({"regex": "a+"}, "regex", "a+"),
        ({"choice": ["a", "é"]}, "choice", json.dumps(["a", "é"])),
        ({"grammar": 'root ::= "a"', "regex": None}, "grammar", 'root ::= "a"'),
        ({"json_object": True}, "json_object", ""),
    ]
    for fields, kind, text in rows:
        constraint = chat(structured_outputs=fields).constraint()
        assert constraint is not None
        assert (constraint.kind, constraint.text) == (kind, text)
        assert constraint.param == f"structured_outputs.{next(iter(fields))}"


def test_completions_take_structured_outputs_too() -> None:
    body = {"model": "m", "prompt": "x", "structured_outputs": {"regex": "a"}}
    request = parse_completion(json.dumps(body).encode(), RequestBounds())
    assert request.constraint() == Constraint("regex", "a", "structured_outputs.regex")


@pytest.mark.parametrize(
    ("value", "code", "param"),
    [
        ({"type": "xml"}, "invalid_value", "response_format.type"),  # S01
        ({}, "missing_required_parameter", "response_format.type"),
        ("json", "invalid_type", "response_format"),
        ({"type": "json_object", "x": 1}, "unknown_parameter", "response_format.x"),
        ({"type": "json_schema"}, "missing_required_parameter", AT),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, "missing_required_parameter", f"{AT}.name"),  # S02
        ({"type": "json_schema", "json_schema": {"name": "n"}}, "missing_required_parameter", f"{AT}.schema"),
        (schema_format(name="a b"), "invalid_value", f"{AT}.name"),
        (schema_format(name="a" * 65), "invalid_value", f"{AT}.name"),
        (schema_format(name=7), "invalid_type", f"{AT}.name"),
        (schema_format(strict="yes"), "invalid_type", f"{AT}.strict"),
        (schema_format(description=1), "invalid_type", f"{AT}.description"),
        (schema_format(extra=1), "unknown_parameter", f"{AT}.extra"),
    ],
)
def test_formats_that_are_none(value: Any, code: str, param: str) -> None:
    refused_as(code, param, response_format=value)


@pytest.mark.parametrize(
    ("value", "code", "below"),
    [
        ({}, "invalid_value", ""),
        ({"regex": "a", "choice": ["a"]}, "invalid_value", ""),  # S22
        ({"regex": ""}, "empty_string", ".regex"),
        ({"regex": 7}, "invalid_type", ".regex"),
        ({"choice": []}, "empty_array", ".choice"),  # S21
        ({"choice": ["a"] * 501}, "array_above_max_length", ".choice"),
        ({"choice": ["a", ""]}, "empty_string", ".choice[1]"),
        ({"choice": ["a", 7]}, "invalid_type", ".choice[1]"),
        ({"choice": ["a" * 20_000]}, "invalid_value", ".choice"),
        ({"json": "{"}, "invalid_value", ".json"),
        ({"json_object": 7}, "invalid_type", ".json_object"),
        ({"json_object": False}, "invalid_value", ""),
        ({"structural_tag": "{}"}, "unsupported_parameter", ".structural_tag"),
        ({"whitespace_pattern": " "}, "unsupported_parameter", ".whitespace_pattern"),
        ("x", "invalid_type", ""),
    ],
)
def test_structured_outputs_that_are_none(value: Any, code: str, below: str) -> None:
    refused_as(code, "structured_outputs" + below, structured_outputs=value)


def test_s22_two_constraints_at_once() -> None:
    both = {"response_format": schema_format(), "structured_outputs": {"regex": "a"}}
    refused_as("invalid_value", "response_format", **both)
    tools = [{"type": "function", "function": {"name": "f"}}]
    refused_as("invalid_value", "response_format", response_format=schema_format(), tools=tools)
    refused_as("invalid_value", "structured_outputs", structured_outputs={"regex": "a"}, tools=tools)


@pytest.mark.parametrize("name", ["guided_json", "guided_regex", "guided_choice", "guided_grammar"])
def test_the_old_names_say_the_new_one(name: str) -> None:
    assert "structured_outputs" in refused_as("unsupported_parameter", name, **{name: "x"})


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([{"role": "user", "content": "x"}], ["Answer with JSON. What it is: A city.", "x"]),
        (
            [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "x"}],
            ["Be kind.\n\nAnswer with JSON. What it is: A city.", "x"],
        ),
    ],
)
def test_the_model_is_told_what_its_answer_is(messages: Any, told: list[str]) -> None:
    request = chat(messages=messages, response_format=schema_format(description="A city."))
    rendered = request.conversation({}).messages
    assert [message.content for message in rendered] == told
    assert rendered[0] == ChatMessage("system", told[0])
    assert any("A city." in str(passage) for passage in request.texts()), "the guard sees it too"


def test_nothing_is_said_where_nothing_is_described() -> None:
    assert [m.content for m in chat(response_format=schema_format()).conversation({}).messages] == ["x"]
