"""S24 to S28 and what OpenAI's document says of tools: each row is a valid body with one thing wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.types import ChatMessage, Tool, ToolCall, ToolUse
from gateway.errors import ApiError
from gateway.guardian.check import Passage
from gateway.protocol.chat import ChatCompletionRequest, parse_chat
from gateway.protocol.sampling import RequestBounds

USER = {"role": "user", "content": "Hi"}


def tool(name: Any = "f", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def call(call_id: Any = "c1", name: Any = "f", arguments: Any = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def assistant(*calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **fields}


def result(call_id: Any = "c1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "4"}


def parse(**fields: Any) -> ChatCompletionRequest:
    return parse_chat(json.dumps({"model": "m", "messages": [USER], **fields}).encode(), RequestBounds())


def chosen(choice: Any) -> dict[str, Any]:
    return {"tools": [tool()], "tool_choice": choice}


def talk(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [USER, *messages]}


NAME = "tools[0].function.name"
ROWS = {
    "S24": ({"tools": [tool(f"f{i}") for i in range(129)]}, "tools", "array_above_max_length"),
    "no tools": ({"tools": []}, "tools", "empty_array"),
    "tools of no array": ({"tools": tool()}, "tools", "invalid_type"),
    "tool of no object": ({"tools": ["f"]}, "tools[0]", "invalid_type"),
    "S25 letters": ({"tools": [tool("a b")]}, NAME, "invalid_value"),
    "S25 line end": ({"tools": [tool("a\n")]}, NAME, "invalid_value"),
    "S25 other digits": ({"tools": [tool("f\u0663")]}, NAME, "invalid_value"),
    "S25 long": ({"tools": [tool("a" * 65)]}, NAME, "invalid_value"),
    "S25 empty": ({"tools": [tool("")]}, NAME, "invalid_value"),
    "S25 twice": ({"tools": [tool("f"), tool("g"), tool("f")]}, "tools[2].function.name", "invalid_value"),
    "name missing": ({"tools": [{"type": "function", "function": {}}]}, NAME, "missing_required_parameter"),
    "name number": ({"tools": [tool(3)]}, NAME, "invalid_type"),
    "type": ({"tools": [{**tool(), "type": "custom"}]}, "tools[0].type", "invalid_value"),
    "type missing": ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type", "missing_required_parameter"),
    "unknown": ({"tools": [tool(color="red")]}, "tools[0].function.color", "unknown_parameter"),
    "parameters": ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters", "invalid_type"),
    "S26": ({"tools": [tool(parameters={"type": "string"})]}, "tools[0].function.parameters", "invalid_json_schema"),
    "strict": ({"tools": [tool(strict="yes")]}, "tools[0].function.strict", "invalid_type"),
    "choice without tools": ({"tool_choice": "auto"}, "tool_choice", "invalid_value"),
    "parallel without tools": ({"parallel_tool_calls": True}, "parallel_tool_calls", "invalid_value"),
    "choice": (chosen("always"), "tool_choice", "invalid_value"),
    "choice number": (chosen(1), "tool_choice", "invalid_type"),
    "choice type": (chosen({"type": "custom"}), "tool_choice.type", "invalid_value"),
    "choice type missing": (chosen({}), "tool_choice.type", "missing_required_parameter"),
    "choice function missing": (chosen({"type": "function"}), "tool_choice.function", "missing_required_parameter"),
    "choice unknown": (chosen(tool("g")), "tool_choice.function.name", "invalid_value"),
    "choice more": (chosen({**tool(), "x": 1}), "tool_choice.x", "unknown_parameter"),
    "choice function more": (chosen(tool(x=1)), "tool_choice.function.x", "unknown_parameter"),
    "allowed mode": (
        chosen({"type": "allowed_tools", "allowed_tools": {"mode": "none", "tools": [tool()]}}),
        "tool_choice.allowed_tools.mode",
        "invalid_value",
    ),
    "allowed none": (
        chosen({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}),
        "tool_choice.allowed_tools.tools",
        "invalid_value",
    ),
    "allowed unknown": (
        chosen({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool(), tool("g")]}}),
        "tool_choice.allowed_tools.tools[1].function.name",
        "invalid_value",
    ),
    "S28 missing": (
        talk(assistant(call()), {"role": "tool", "content": "4"}),
        "messages[2].tool_call_id",
        "invalid_value",
    ),
    "S28 unknown": (talk(assistant(call()), result("c2")), "messages[2].tool_call_id", "invalid_value"),
    "S28 before its call": (talk(result(), assistant(call())), "messages[1].tool_call_id", "invalid_value"),
    "result without content": (
        talk(assistant(call()), {"role": "tool", "tool_call_id": "c1"}),
        "messages[2].content",
        "invalid_type",
    ),
    "call id twice": (talk(assistant(call(), call())), "messages[1].tool_calls[1].id", "invalid_value"),
    "call id again": (talk(assistant(call()), assistant(call())), "messages[2].tool_calls[0].id", "invalid_value"),
    "call id empty": (talk(assistant(call(""))), "messages[1].tool_calls[0].id", "empty_string"),
    "call name": (talk(assistant(call(name="a b"))), "messages[1].tool_calls[0].function.name", "invalid_value"),
    "call arguments": (
        talk(assistant(call(arguments={}))),
        "messages[1].tool_calls[0].function.arguments",
        "invalid_type",
    ),
    "calls of a user": ({"messages": [{**USER, "tool_calls": [call()]}]}, "messages[0].tool_calls", "invalid_value"),
    "many calls": (
        talk(assistant(*[call(f"c{i}") for i in range(129)])),
        "messages[1].tool_calls",
        "array_above_max_length",
    ),
    "id of a user": ({"messages": [{**USER, "tool_call_id": "c1"}]}, "messages[0].tool_call_id", "invalid_value"),
    "assistant of nothing": (talk({"role": "assistant", "content": None}), "messages[1].content", "invalid_type"),
    "assistant without calls": (talk(assistant()), "messages[1].content", "invalid_type"),
    "reasoning of a user": ({"messages": [{**USER, "reasoning": "x"}]}, "messages[0].reasoning", "invalid_value"),
    "two reasonings": (
        talk({"role": "assistant", "content": "x", "reasoning": "a", "reasoning_content": "b"}),
        "messages[1].reasoning",
        "invalid_value",
    ),
    "effort": ({"reasoning_effort": "extreme"}, "reasoning_effort", "invalid_value"),
    "role function": ({"messages": [{"role": "function", "content": ""}]}, "messages[0].role", "unsupported_parameter"),
}


@pytest.mark.parametrize(("fields", "param", "code"), ROWS.values(), ids=ROWS.keys())
def test_refused(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(**fields)
    assert (caught.value.status, caught.value.body.param, caught.value.code) == (400, param, code)
    assert param in caught.value.body.message


@pytest.mark.parametrize(
    ("choice", "mode", "only"),
    [
        (None, "auto", ()),
        ("auto", "auto", ()),
        ("none", "none", ()),
        ("required", "required", ()),
        (tool("g"), "required", ("g",)),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("g")]}}, "auto", ("g",)),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool()]}}, "required", ("f",)),
    ],
)
def test_choices(choice: Any, mode: Any, only: tuple[str, ...]) -> None:
    schema = {"type": "object", "properties": {"z": {}, "a": {}}}
    request = parse(
        tools=[tool(description="F", parameters=schema, strict=True), tool("g")],
        tool_choice=choice,
        parallel_tool_calls=False,
    )
    tools = (
        Tool("f", "F", schema, True, "tools[0].function.parameters"),
        Tool("g", param="tools[1].function.parameters"),
    )
    assert request.parsing().tools == ToolUse(tools, mode, only, parallel=False)
    assert request.conversation({}).tools == request.parsing().tools
    assert list(request.tools[0].function.parameters["properties"]) == ["z", "a"]  # type: ignore[index]


def test_a_conversation_with_calls() -> None:
    arguments = '{ "x" : 1 }'
    request = parse(
        messages=[
            USER,
            assistant(call(arguments=arguments), call("c2", "g", ""), reasoning_content="Hm."),
            result("c2"),
            result(),
        ],
        reasoning_effort="low",
    )
    assert request.conversation({}).messages == [
        ChatMessage("user", "Hi"),
        ChatMessage("assistant", "", None, (ToolCall("c1", "f", arguments), ToolCall("c2", "g", "")), None, "Hm."),
        ChatMessage("tool", "4", tool_call_id="c2"),
        ChatMessage("tool", "4", tool_call_id="c1"),
    ]
    assert request.conversation({}).effort == "low"


def test_a_guard_sees_every_text() -> None:
    request = parse(
        messages=[
            USER,
            assistant(call(arguments='{"a":"secret1"}'), reasoning="secret2"),
            {**result(), "content": "secret3"},
        ],
        tools=[tool(description="secret4", parameters={"type": "object", "title": "secret5"})],
    )
    passages = [passage for passage in request.texts() if isinstance(passage, Passage)]
    seen = " ".join(passage.text for passage in passages)
    assert all(f"secret{index}" in seen for index in range(1, 6))
    assert {passage.source for passage in passages} == {"user", "assistant", "tool", "tools"}


def test_the_most_that_is_allowed() -> None:
    names = [f"{'n' * 60}_{i:03}" for i in range(128)]
    assert len(parse(tools=[tool(name) for name in names]).tools) == 128
