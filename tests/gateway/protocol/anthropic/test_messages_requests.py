from __future__ import annotations

import json
from typing import Any

import pytest

from engine.types import ChatMessage, Image, Sampling, ToolCall
from gateway.errors import ApiError
from gateway.guardian.check import Passage
from gateway.protocol.anthropic.request import MessagesRequest, parse_count, parse_messages
from gateway.protocol.sampling import RequestBounds

BOUNDS = RequestBounds(max_tokens=100, max_messages=8, max_images=2)
HELLO: dict[str, Any] = {"role": "user", "content": "hello"}
TOOL: dict[str, Any] = {"name": "f", "input_schema": {"type": "object"}}
SCHEMA = {"type": "json_schema", "schema": {"type": "object"}}
IMAGE = {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}
USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}


def parse(**fields: Any) -> MessagesRequest:
    body = {"model": "m", "max_tokens": 50, "messages": [HELLO], **fields}
    return parse_messages(json.dumps(body).encode(), BOUNDS)


def user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"max_tokens": None}, "max_tokens", "missing_required_parameter"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": [HELLO] * 9}, "messages", "array_above_max_length"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [HELLO, {"role": "assistant", "content": "I"}]}, "messages[1].role", "invalid_value"),
        ({"messages": [{**HELLO, "name": "n"}]}, "messages[0].name", "unknown_parameter"),
        (user(), "messages[0].content", "empty_array"),
        (user({"text": "x"}), "messages[0].content[0].type", "missing_required_parameter"),
        (user({"type": "image", "source": {}}), "messages[0].content[0].source.type", "missing_required_parameter"),
        (user({"type": "image", "source": {"type": "file", "file_id": "f"}}),
         "messages[0].content[0].source.type", "unsupported_parameter"),
        (user({"type": "image", "source": {"type": "base64", "media_type": "image/tiff", "data": ""}}),
         "messages[0].content[0].source.media_type", "invalid_value"),
        (user(*[IMAGE] * 3), "messages", "too_many_images"),
        ({"messages": [{"role": "system", "content": [IMAGE]}, HELLO]}, "messages[0].content", "invalid_value"),
        (user({"type": "document", "source": {}}), "messages[0].content[0]", "unsupported_modality"),
        (user({"type": "server_tool_use"}), "messages[0].content[0].type", "unsupported_parameter"),
        (user({"type": "nonsense"}), "messages[0].content[0].type", "invalid_value"),
        (user({"type": "text", "text": "x", "z": 1}), "messages[0].content[0].z", "unknown_parameter"),
        (user({"type": "text", "text": "x", "citations": [{}]}),
         "messages[0].content[0].citations", "unsupported_parameter"),
        (user({"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}),
         "messages[0].content[0].cache_control", "unsupported_parameter"),
        (user(USE), "messages[0].content[0]", "invalid_value"),
        (user({"type": "thinking", "thinking": "x", "signature": ""}), "messages[0].content[0]", "invalid_value"),
        (user({"type": "tool_result", "tool_use_id": "t"}), "messages[0].content[0].tool_use_id", "invalid_value"),
        (user({"type": "tool_result", "tool_use_id": "t", "content": [USE]}),
         "messages[0].content[0].content[0].type", "unsupported_parameter"),
        ({"system": [IMAGE]}, "system[0].type", "unsupported_parameter"),
        ({"system": 1}, "system", "invalid_type"),
        ({"temperature": 1.5}, "temperature", "decimal_above_max_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_k": -1}, "top_k", "integer_below_min_value"),
        ({"stop_sequences": ["a", ""]}, "stop_sequences[1]", "invalid_value"),
        ({"stop_sequences": ["a"] * 33}, "stop_sequences", "array_above_max_length"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, "thinking.type", "unsupported_parameter"),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, "thinking.display", "unsupported_parameter"),
        ({"output_config": {"effort": "max"}}, "output_config.effort", "invalid_value"),
        ({"output_config": {"format": SCHEMA}, "tools": [TOOL]}, "output_config.format", "invalid_value"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type", "unsupported_parameter"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema", "missing_required_parameter"),
        ({"tools": [{**TOOL, "input_examples": [{}]}]}, "tools[0].input_examples", "unsupported_parameter"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": {"type": "required"}}, "tool_choice.type", "invalid_value"),
        ({"tool_choice": {"type": "any"}}, "tool_choice", "invalid_value"),
        ({"metadata": {"x": 1}}, "metadata.x", "unknown_parameter"),
        ({"service_tier": "priority"}, "service_tier", "unsupported_parameter"),
        ({"container": "c"}, "container", "unsupported_parameter"),
        ({"mcp_servers": [{}]}, "mcp_servers", "unsupported_parameter"),
        ({"stop": "x"}, "stop", "unsupported_parameter"),
        ({"nonsense": 1}, "nonsense", "unknown_parameter"),
    ],
)  # fmt: skip
def test_refused_by_name(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(**fields)
    assert (caught.value.status, caught.value.body.param, caught.value.code) == (400, param, code)
    assert param in caught.value.body.message  # its own body has no param


def test_blocks_become_a_conversation() -> None:
    request = parse(
        system=[{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}],
        messages=[
            HELLO,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "text", "text": "let me", "cache_control": {"type": "ephemeral"}},
                    {"type": "text", "text": "see"},
                    {**USE, "caller": {"type": "direct"}},
                    {**USE, "id": "t2", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "r"}]},
                    {"type": "tool_result", "tool_use_id": "t1", "content": "no", "is_error": True},
                    {"type": "text", "text": "go on"},
                ],
            },
            {"role": "system", "content": "in French"},
        ],
    )
    calls = (ToolCall("t1", "f", '{"a":1}'), ToolCall("t2", "f", "{}"))
    assert request.conversation({}).messages == [
        ChatMessage("system", "be\nbrief"),
        ChatMessage("user", "hello"),
        ChatMessage("assistant", "let me\nsee", None, calls, None, "hm"),
        ChatMessage("tool", "r", tool_call_id="t2"),
        ChatMessage("tool", "Error: no", tool_call_id="t1"),
        ChatMessage("user", "go on"),
        ChatMessage("system", "in French"),
    ]
    assert request.texts() == [
        Passage("be\nbrief", "system"),
        Passage("hello", "user"),
        *(Passage(text, "assistant") for text in ("hm", "let me", "see", "f", '{"a":1}')),
        Passage("t1", "assistant", label=True),
        *(Passage(text, "assistant") for text in ("f", "{}")),
        Passage("t2", "assistant", label=True),
        Passage("r", "tool"),
        Passage("t2", "tool", label=True),
        Passage("no", "tool"),
        Passage("t1", "tool", label=True),
        Passage("go on", "user"),
        Passage("in French", "system"),
    ]


def test_images_and_texts_keep_their_order() -> None:
    inline = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    text = {"type": "text", "text": "what is it?"}
    request = parse(**user(IMAGE, text, text, inline))
    references = request.images()
    assert [(each.url, each.param) for each in references] == [
        ("http://x/y.png", "messages[0].content[0].source"),
        ("data:image/png;base64,AAAA", "messages[0].content[3].source"),
    ]
    pictures = {each.key: Image(1, 1, bytes([place] * 3)) for place, each in enumerate(references)}
    (message,) = request.conversation(pictures).messages
    assert message.content == (Image(1, 1, bytes(3)), "what is it?", "what is it?", Image(1, 1, b"\x01\x01\x01"))


def test_sampling() -> None:
    request = parse(max_tokens=1000, temperature=0, top_k=5, top_p=0.5, stop_sequences=["a"])
    assert request.to_sampling(BOUNDS) == Sampling(100, temperature=0.0, top_k=5, top_p=0.5, stop=("a",))


@pytest.mark.parametrize(
    ("choice", "mode", "only", "parallel"),
    [
        (None, "auto", (), True),
        ({"type": "auto", "disable_parallel_tool_use": True}, "auto", (), False),
        ({"type": "any"}, "required", (), True),
        ({"type": "tool", "name": "f", "disable_parallel_tool_use": True}, "required", ("f",), False),
        ({"type": "none"}, "none", (), True),
    ],
)
def test_tools(choice: Any, mode: str, only: tuple[str, ...], parallel: bool) -> None:
    request = parse(tools=[{**TOOL, "description": "d", "strict": True}], tool_choice=choice)
    use = request.tool_use()
    assert use is not None
    assert (use.choice, use.only, use.parallel) == (mode, only, parallel)
    assert (use.tools[0].strict, use.tools[0].param) == (True, "tools[0].input_schema")
    assert request.texts()[-1] == Passage('["f","d",{"type":"object"}]', "tools")


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({}, None),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "disabled"}}, "none"),
        ({"output_config": {"effort": "low"}}, "low"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, "none"),
    ],
)
def test_thinking(fields: dict[str, Any], effort: str | None) -> None:
    assert parse(**fields).conversation({}).effort == effort


def test_a_schema() -> None:
    constraint = parse(output_config={"format": SCHEMA}).constraint()
    assert constraint is not None
    assert (constraint.kind, constraint.param) == ("json_schema", "output_config.format.schema")


def test_counting_takes_no_sampling() -> None:
    assert parse_count(json.dumps({"model": "m", "messages": [HELLO]}).encode(), BOUNDS).texts() == [
        Passage("hello", "user")
    ]
    with pytest.raises(ApiError) as caught:
        parse_count(json.dumps({"model": "m", "messages": [HELLO], "max_tokens": 5}).encode(), BOUNDS)
    assert (caught.value.body.param, caught.value.code) == ("max_tokens", "unknown_parameter")


def test_labels() -> None:
    assert parse(metadata={"user_id": "u"}).labels() == {"metadata.user_id": "u"}
    assert parse().labels() == {}
