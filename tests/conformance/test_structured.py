"""Structured output of the real engine: the S and F rows of "Structured output"."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from tests.conformance.contract import Api, assert_error, joined

pytestmark = pytest.mark.engine

QUESTION = "Tell me about a city."
SCHEMAS: dict[str, dict[str, Any]] = {
    "object": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "people": {"type": "integer", "minimum": 1}},
        "required": ["city", "people"],
        "additionalProperties": False,
    },
    "array": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 3},
    "prefixItems": {"type": "array", "prefixItems": [{"type": "null"}, {"type": "boolean"}], "items": False},
    "string": {"type": "string", "minLength": 3, "maxLength": 9},
    "pattern": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{2}$"},
    "format": {"type": "string", "format": "date"},
    "number": {"type": "number", "minimum": -1.5, "exclusiveMaximum": 2},
    "integer": {"type": "integer", "minimum": 10, "maximum": 99},
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "enum": {"enum": ["é", 'q"', None, [1, {"a": 2}]]},
    "const": {"const": {"köln": ["\n", 1.5]}},
    "anyOf": {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 5, "maximum": 7}]},
    "oneOf": {"oneOf": [{"type": "boolean"}, {"const": "no"}]},
    "types": {"type": ["boolean", "null"]},
    "$ref": {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}}},
    "recursive": {
        "type": "object",
        "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
        "required": ["next"],
        "additionalProperties": False,
    },
    "map": {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 1},
    "least": {
        "type": "object",
        "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
        "minProperties": 1,
        "additionalProperties": False,
    },
}


def formatted(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def streamed(api: Api, **fields: Any) -> tuple[str, str]:
    """Text and finish reason."""
    choices = [event["choices"][0] for event in api.chat_events(QUESTION, **fields)[:-1] if event["choices"]]
    return "".join(each["delta"].get("content") or "" for each in choices), choices[-1]["finish_reason"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_enforced(api: Api, name: str) -> None:
    validator = Draft202012Validator(SCHEMAS[name])
    fields = {"response_format": formatted(SCHEMAS[name]), "seed": 1, "temperature": 1.0, "max_tokens": 80, "n": 4}
    response = api.chat(QUESTION, **fields)
    assert response.status_code == 200, response.text
    events = api.chat_events(QUESTION, **fields)
    for choice in response.json()["choices"]:
        text, reason = choice["message"]["content"], choice["finish_reason"]
        if reason == "stop":
            validator.validate(json.loads(text))
        else:
            assert reason == "length"
        assert joined(events, choice["index"]) == (text, reason)


def test_json_object(api: Api) -> None:
    answer = api.chat(QUESTION, response_format={"type": "json_object"}, max_tokens=200, temperature=0).json()
    (choice,) = answer["choices"]
    text = choice["message"]["content"]
    assert text.startswith("{")
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"regex": "(yes|no)[.!]{1,3}"}, "(yes|no)[.!]{1,3}"),
        ({"choice": ["Köln", 'a "b"', "c\\d"]}, 'Köln|a "b"|c\\\\d'),
        ({"grammar": 'root ::= "x" | "y" root'}, "y*x"),
        ({"json": {"type": "integer", "minimum": 0, "maximum": 9}}, "[0-9]"),
    ],
)
def test_structured_outputs_in_chats_and_completions(api: Api, fields: dict[str, Any], pattern: str) -> None:
    for seed in range(2):
        wanted = {"structured_outputs": fields, "seed": seed, "temperature": 1.0, "max_tokens": 60}
        chat = api.chat(QUESTION, **wanted).json()["choices"][0]
        plain = api.completion("Say:", **wanted).json()["choices"][0]
        for text, reason in (
            (chat["message"]["content"], chat["finish_reason"]),
            (plain["text"], plain["finish_reason"]),
        ):
            assert reason == "length" or re.fullmatch(pattern, text), text


def test_every_choice_is_held(api: Api) -> None:
    answer = api.chat(QUESTION, response_format=formatted(SCHEMAS["integer"]), n=4, temperature=1.0, seed=3).json()
    assert len(answer["choices"]) == 4
    assert all(10 <= int(choice["message"]["content"]) <= 99 for choice in answer["choices"])


def test_s30_too_few_tokens(api: Api) -> None:
    fields = {"response_format": formatted(SCHEMAS["object"]), "max_tokens": 2}
    assert api.chat(QUESTION, **fields).json()["choices"][0]["finish_reason"] == "length"


def test_a_stop_string_that_cuts_it(api: Api) -> None:
    fields = {"response_format": formatted(SCHEMAS["object"]), "stop": '"people"', "temperature": 0, "max_tokens": 80}
    (choice,) = api.chat(QUESTION, **fields).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert streamed(api, **fields) == (choice["message"]["content"], "length")


@pytest.mark.parametrize(
    ("schema", "code"),
    [
        ({"type": "banana"}, "invalid_json_schema"),
        ({"$ref": "#"}, "unsatisfiable_schema"),
        ({"$ref": "http://127.0.0.1/"}, "unsupported_schema_feature"),
        ({"type": "integer", "multipleOf": 2}, "unsupported_schema_feature"),
        ({"type": "string", "pattern": "^([a-z]{1,20}){1,20}$"}, "schema_too_complex"),
    ],
)
def test_refused_wherever_schemas_are_taken(api: Api, schema: Any, code: str) -> None:
    at = "response_format.json_schema.schema"
    assert_error(api.chat(QUESTION, response_format=formatted(schema)), 400, code, at)
    assert_error(api.chat(QUESTION, response_format=formatted(schema), stream=True), 400, code, at)
    held = {"structured_outputs": {"json": schema}}
    assert_error(api.completion("x", **held), 400, code, "structured_outputs.json")
    parameters = {"type": "object", "properties": {"a": schema}}
    if "$ref" not in schema:  # which would point to another place there
        function = {"name": "f", "parameters": parameters, "strict": True}
        tools = [{"type": "function", "function": function}]
        assert_error(api.chat(QUESTION, tools=tools), 400, code, "tools[0].function.parameters")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"regex": "((a{0,20}){0,20}){0,20}"}, "schema_too_complex"),
        ({"regex": "(a"}, "invalid_value"),
        ({"grammar": "root ::= other"}, "invalid_value"),
        ({"grammar": "root ::= a\na ::= b\nb ::= a"}, "unsatisfiable_schema"),
        ({"choice": []}, "empty_array"),
    ],
)
def test_other_constraints_that_are_refused(api: Api, fields: dict[str, Any], code: str) -> None:
    param = f"structured_outputs.{next(iter(fields))}"
    assert_error(api.chat(QUESTION, structured_outputs=fields), 400, code, param)


def test_a_tool_that_is_not_strict_may_say_more_than_a_grammar_can(api: Api) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 2}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    assert api.chat(QUESTION, tools=tools, max_tokens=2).status_code == 200
    assert_error(
        api.chat(QUESTION, tools=tools, tool_choice="required"),
        400,
        "unsupported_schema_feature",
        "tools[0].function.parameters",
    )


def test_f69_a_flood_of_costly_schemas_stalls_nobody_else(api: Api) -> None:
    """100 at once, each new and as costly as is allowed: what cannot be tried in time is 503, the rest is served."""

    def costly(number: int) -> dict[str, Any]:
        properties = {f"p{number}_{place}": {"type": "string", "format": "uri"} for place in range(10)}
        return formatted({"type": "object", "properties": properties, "additionalProperties": False})

    async def flood() -> tuple[list[httpx.Response], list[httpx.Response]]:
        async with httpx.AsyncClient(base_url=api.gateway.live.url, headers=api.gateway.live.authorization) as http:

            async def ask(**fields: Any) -> httpx.Response:
                body = {"model": api.model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 1}
                return await http.post("/v1/chat/completions", json={**body, **fields}, timeout=120)

            structured = [asyncio.create_task(ask(response_format=costly(number))) for number in range(100)]
            await asyncio.sleep(0.1)
            # Without a schema, and with one that is known already, there is nothing to wait for.
            plain = await asyncio.gather(*(ask() for _ in range(5)))
            known = await ask(response_format=formatted(SCHEMAS["boolean"]))
            return [*plain, known], await asyncio.gather(*structured)

    assert api.chat(QUESTION, response_format=formatted(SCHEMAS["boolean"]), max_tokens=1).status_code == 200
    others, flooded = asyncio.run(flood())
    assert {response.status_code for response in others} == {200}
    served = [response for response in flooded if response.status_code == 200]
    refused = [response for response in flooded if response.status_code != 200]
    assert served
    assert refused
    for response in refused:
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "queue_timeout"
        assert int(response.headers["retry-after"]) >= 1


S_TABLE: dict[str, tuple[dict[str, Any], str, str]] = {
    "S01": ({"response_format": {"type": "yaml"}}, "invalid_value", "response_format.type"),
    "S02 name": (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "missing_required_parameter",
        "response_format.json_schema.name",
    ),
    "S03": ({"response_format": formatted(False)}, "invalid_json_schema", "response_format.json_schema.schema"),
    "S08": (
        {"structured_outputs": {"json": {"anyOf": [json.loads('{"items":' * 17 + "{}" + "}" * 17)]}}},
        "schema_too_complex",
        "structured_outputs.json",
    ),
    "S11": (
        {"response_format": formatted({"type": "string", "maxLength": 5000})},
        "schema_too_complex",
        "response_format.json_schema.schema",
    ),
    "S16": (
        {"response_format": formatted({"const": "a\x00"})},
        "invalid_unicode",
        "response_format.json_schema.schema",
    ),
    "S19": ({"structured_outputs": {"regex": "a" * 1100}}, "invalid_value", "structured_outputs.regex"),
    "S21": ({"structured_outputs": {"choice": ["a"] * 501}}, "array_above_max_length", "structured_outputs.choice"),
    "S22": (
        {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
        "invalid_value",
        "response_format",
    ),
    "S24": (
        {"tools": [{"type": "function", "function": {"name": f"f{place}"}} for place in range(129)]},
        "array_above_max_length",
        "tools",
    ),
    "S25": (
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        "invalid_value",
        "tools[0].function.name",
    ),
    "S26": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#/nowhere"}}}]},
        "invalid_json_schema",
        "tools[0].function.parameters",
    ),
    "S28": (
        {"messages": [{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "c", "content": "x"}]},
        "invalid_value",
        "messages[1].tool_call_id",
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("row", S_TABLE)
def test_table_s_over_the_wire(api: Api, row: str, stream: bool) -> None:
    fields, code, param = S_TABLE[row]
    body = {"model": api.model, "messages": [{"role": "user", "content": "x"}], **fields, "stream": stream}
    assert_error(api.http.post("/v1/chat/completions", json=body), 400, code, param)
