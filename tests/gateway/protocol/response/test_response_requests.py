from __future__ import annotations

import json
from typing import Any

import pytest

from engine.types import ChatMessage, Image, Sampling, ToolCall
from gateway.errors import ApiError
from gateway.guardian.check import Passage
from gateway.guardian.substitute import substituted
from gateway.protocol.encode import Usage
from gateway.protocol.response.encode import ResponseEncoder
from gateway.protocol.response.items import read_input
from gateway.protocol.response.request import ResponseRequest, parse_response
from gateway.protocol.sampling import RequestBounds

TOOL: dict[str, Any] = {"type": "function", "name": "f", "parameters": {"type": "object"}}
FORMAT = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
IMAGE = {"type": "input_image", "image_url": "http://x/y.png"}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}


def parse(*, stores: bool = False, **fields: Any) -> ResponseRequest:
    body = {"model": "m", "input": "x", **fields}
    return parse_response(
        json.dumps(body).encode(), RequestBounds(max_tokens=100, max_messages=8, max_images=2), stores=stores
    )


def refusal(**fields: Any) -> tuple[str | None, str | None]:
    with pytest.raises(ApiError) as caught:
        parse(**fields)
    assert caught.value.status == 400
    return caught.value.body.param, caught.value.code


def message(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": list(parts)}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": 1}, "input", "invalid_type"),
        ({"input": []}, "input", "empty_array"),
        ({"input": [1]}, "input[0]", "invalid_type"),
        ({"input": [{"role": "user", "content": "x"}] * 9}, "input", "array_above_max_length"),
        ({"input": [{"type": "nonsense"}]}, "input[0].type", "invalid_value"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type", "unsupported_parameter"),
        ({"input": [{"id": "msg_1"}]}, "input[0].type", "unsupported_parameter"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
        ({"input": [{"role": "bot", "content": "x"}]}, "input[0].role", "invalid_value"),
        ({"input": [{"role": "user", "content": "x", "y": 1}]}, "input[0].y", "unknown_parameter"),
        ({"input": [{"role": "user", "content": "x", "phase": "p"}]}, "input[0].phase", "unsupported_parameter"),
        ({"input": [message({"type": "input_text"})]}, "input[0].content[0].text", "missing_required_parameter"),
        ({"input": [message({"type": "input_image"})]}, "input[0].content[0].image_url", "missing_required_parameter"),
        ({"input": [message({"type": "input_image", "file_id": "f"})]},
         "input[0].content[0].file_id", "unsupported_parameter"),
        ({"input": [message(*[IMAGE] * 3)]}, "input", "too_many_images"),
        ({"input": [message(IMAGE, role="system")]}, "input[0].content", "invalid_value"),
        ({"input": [CALL, {"type": "function_call_output", "call_id": "c1", "output": [IMAGE]}]},
         "input[1].output[0].type", "invalid_value"),
        ({"input": [message({"type": "input_file", "file_id": "u"})]}, "input[0].content[0]", "unsupported_modality"),
        ({"input": [message({"type": "refusal"})]}, "input[0].content[0].type", "unsupported_parameter"),
        ({"input": [message({"type": "text", "text": "u"})]}, "input[0].content[0].type", "invalid_value"),
        ({"input": [{"role": "user", "content": "x", "id": "a"}] * 2}, "input[1].id", "invalid_value"),
        ({"instructions": 1}, "instructions", "invalid_type"),
        ({"max_output_tokens": 0}, "max_output_tokens", "integer_below_min_value"),
        ({"max_tokens": 5}, "max_tokens", "unsupported_parameter"),
        ({"messages": []}, "messages", "unsupported_parameter"),
        ({"response_format": {"type": "text"}}, "response_format", "unsupported_parameter"),
        ({"seed": 1}, "seed", "unsupported_parameter"),
        ({"nonsense": 1}, "nonsense", "unknown_parameter"),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"truncation": "auto"}, "truncation", "unsupported_parameter"),
        ({"service_tier": "flex"}, "service_tier", "unsupported_parameter"),
        ({"conversation": "c"}, "conversation", "unsupported_parameter"),
        ({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
        ({"max_tool_calls": 3}, "max_tool_calls", "unsupported_parameter"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter"),
        ({"include": ["reasoning.encrypted_content"]}, "include[0]", "unsupported_parameter"),
        ({"include": ["nonsense"]}, "include[0]", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"include": ["message.output_text.logprobs"], "tools": [TOOL]}, "include", "invalid_value"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "unsupported_parameter"),
        ({"text": {"format": {}}}, "text.format.type", "missing_required_parameter"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}},
         "text.format.schema", "missing_required_parameter"),
        ({"text": {"format": {**FORMAT, "description": 1}}}, "text.format.description", "invalid_type"),
        ({"text": {"format": {**FORMAT, "name": "a b"}}}, "text.format.name", "invalid_value"),
        ({"text": {"format": FORMAT}, "tools": [TOOL]}, "text.format", "invalid_value"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].function", "unknown_parameter"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name", "invalid_value"),
        ({"tools": [{**TOOL, "parameters": {"type": "string"}}]}, "tools[0].parameters", "invalid_json_schema"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice.name", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice.type", "unsupported_parameter"),
        ({"tools": [TOOL], "tool_choice": "perhaps"}, "tool_choice", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary", "unsupported_parameter"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "invalid_value"),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}},
         "stream_options.include_obfuscation", "unsupported_parameter"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
    ],
)  # fmt: skip
def test_refused_by_name(fields: dict[str, Any], param: str, code: str) -> None:
    assert refusal(**fields) == (param, code)


def test_what_asks_for_nothing_is_let_through() -> None:
    neutral = parse(
        background=False,
        truncation="disabled",
        service_tier="auto",
        store=False,
        previous_response_id=None,
        include=[],
        tools=[],
        tool_choice="auto",
        parallel_tool_calls=True,
        text={"format": {"type": "text"}, "verbosity": "medium"},
        reasoning={"summary": None},
        stream_options=None,
        conversation=None,
    )
    assert neutral.conversation().messages == [ChatMessage("user", "x")]
    assert neutral.tool_use() is None
    assert neutral.constraint() is None


def test_items_become_a_conversation() -> None:
    request = parse(
        instructions="be brief",
        input=[
            message({"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}),
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "let me see", "annotations": [], "logprobs": []}],
            },
            CALL,
            {**CALL, "call_id": "c2"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
            {"type": "function_call_output", "call_id": "c1", "output": "one"},
            {"role": "assistant", "content": "done"},
        ],
    )
    calls = (ToolCall("c1", "f", '{"a":1}'), ToolCall("c2", "f", '{"a":1}'))
    assert request.conversation().messages == [
        ChatMessage("system", "be brief"),
        ChatMessage("user", "a\nb"),
        ChatMessage("assistant", "let me see", None, calls, None, "hm"),
        ChatMessage("tool", "two", tool_call_id="c2"),
        ChatMessage("tool", "one", tool_call_id="c1"),
        ChatMessage("assistant", "done"),
    ]


@pytest.mark.parametrize(
    ("items", "param"),
    [
        ([{"type": "function_call_output", "call_id": "c", "output": "x"}], "input[0].call_id"),
        ([CALL, CALL], "input[1].call_id"),
    ],
)
def test_calls_and_results_belong_together(items: Any, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(input=items).conversation()
    assert (caught.value.status, caught.value.body.param) == (400, param)


def test_earlier_turns_come_first_but_for_the_instructions() -> None:
    before = parse(input=[{"role": "user", "content": "then"}, CALL]).input
    result = {"type": "function_call_output", "call_id": "c1", "output": "r"}
    request = parse(stores=True, instructions="now", input=[result]).after(before)
    assert [message.role for message in request.conversation().messages] == ["system", "user", "assistant", "tool"]
    assert request.texts() == [
        Passage("now", "system"),
        Passage("then", "user"),
        Passage("f", "assistant"),
        Passage('{"a":1}', "assistant"),
        Passage("c1", "assistant", label=True),
        Passage("r", "tool"),
        Passage("c1", "tool", label=True),
    ]
    assert request.model == "m"


def test_images_of_earlier_turns_are_seen_again() -> None:
    before = parse(input=[message(IMAGE)]).input
    again = read_input([item.wire() for item in before])
    low = {"type": "input_image", "image_url": "data:x", "detail": "low"}
    request = parse(stores=True, input=[message({"type": "input_text", "text": "and?"}, low)]).after(again)
    references = request.images()
    assert [(each.url, each.detail) for each in references] == [("http://x/y.png", "auto"), ("data:x", "low")]
    assert references[1].param == "input[0].content[1].image_url"
    pictures = {each.key: Image(1, 1, bytes([place] * 3)) for place, each in enumerate(references)}
    first, second = request.conversation(pictures).messages
    assert first.content == (Image(1, 1, bytes(3)),)
    assert second.content == ("and?", Image(1, 1, b"\x01\x01\x01"))


def test_a_guard_can_take_pieces_out() -> None:
    before = parse(input="an old secret").input
    parts = [{"type": "input_text", "text": text} for text in ("a secret", "nothing")]
    request = parse(stores=True, instructions="my secret", input=[{"role": "user", "content": parts}]).after(before)
    texts = {"my secret": "1", "an old secret": "2", "a secret": "3"}
    assert [each.content for each in substituted(request, texts).conversation().messages] == ["1", "2", "3\nnothing"]


def test_sampling() -> None:
    request = parse(max_output_tokens=1000, temperature=0.5, top_p=0.5)
    bounds = RequestBounds(max_tokens=100)
    assert request.to_sampling(bounds) == Sampling(100, temperature=0.5, top_p=0.5)
    wanted = parse(include=["message.output_text.logprobs"], top_logprobs=3)
    assert wanted.to_sampling(bounds).logprobs == 3
    assert parse(include=["message.output_text.logprobs"]).to_sampling(bounds).logprobs == 0


@pytest.mark.parametrize(
    ("form", "kind", "param"),
    [(FORMAT, "json_schema", "text.format.schema"), ({"type": "json_object"}, "json_object", "text.format")],
)
def test_formats(form: Any, kind: str, param: str) -> None:
    request = parse(text={"format": form})
    constraint = request.constraint()
    assert constraint is not None
    assert (constraint.kind, constraint.param) == (kind, param)
    assert request.echo()["text"] == {"format": form}


@pytest.mark.parametrize(
    ("choice", "mode", "only"),
    [
        (None, "auto", ()),
        ("required", "required", ()),
        ({"type": "function", "name": "f"}, "required", ("f",)),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}, "auto", ("f",)),
    ],
)
def test_tools(choice: Any, mode: str, only: tuple[str, ...]) -> None:
    request = parse(tools=[TOOL], tool_choice=choice, parallel_tool_calls=False)
    use = request.tool_use()
    assert use is not None
    assert (use.choice, use.only, use.parallel) == (mode, only, False)
    assert use.tools[0].param == "tools[0].parameters"
    assert request.echo()["tool_choice"] == (choice or "auto")
    assert request.echo()["tools"] == [{**TOOL, "description": None, "strict": False}]
    assert request.texts()[-1] == Passage('["f",null,{"type":"object"}]', "tools")


def test_labels() -> None:
    request = parse(metadata={"a": "b"}, user="u", safety_identifier="s")
    assert request.labels() == {"user": "u", "safety_identifier": "s", "metadata.a": "b"}


def test_numbers_of_schemas_keep_their_digits_or_are_refused() -> None:
    def body(number: str) -> bytes:
        schema = b'{"type": "object", "x": %b}' % number.encode()
        return b'{"model": "m", "input": "x", "tools": [{"type": "function", "name": "f", "parameters": %b}]}' % schema

    request = parse_response(body("36893488147419103232"), RequestBounds(), stores=False)
    encoder = ResponseEncoder("resp_1", "m", request.echo(), store=False)
    assert json.loads(encoder.whole((), Usage(1, 1)))["tools"][0]["parameters"]["x"] == 2**65
    assert "36893488147419103232" in str(request.texts())
    with pytest.raises(ApiError) as caught:
        parse_response(body("1e999"), RequestBounds(), stores=False)
    assert caught.value.body.param == "tools[0].parameters"
