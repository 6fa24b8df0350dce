"""What a request asks of the engine: defaults, clamping, and what the OpenAPI schema says of the fields."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from engine.types import Sampling
from gateway.protocol.chat import ChatCompletionRequest, parse_chat
from gateway.protocol.completions import CompletionRequest, parse_completion
from gateway.protocol.sampling import RequestBounds

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def chat_sampling(max_tokens_bound: int = 8192, /, **fields: object) -> Sampling:
    bounds = RequestBounds(max_tokens=max_tokens_bound)
    return parse_chat(json.dumps({**CHAT, **fields}).encode(), bounds).to_sampling(bounds)


def test_defaults_are_the_engines_own() -> None:
    assert chat_sampling() == Sampling(max_tokens=8192)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_is_clamped_to_the_servers_bound(field: str) -> None:
    assert chat_sampling(**{field: 8193}).max_tokens == 8192
    assert chat_sampling(**{field: 2**63 - 1}).max_tokens == 8192
    assert chat_sampling(**{field: 7}).max_tokens == 7
    assert chat_sampling(5).max_tokens == 5


def test_what_was_asked_for_is_told_apart_from_the_servers_bound() -> None:
    parsed = parse_chat(json.dumps(CHAT).encode(), RequestBounds())
    asked = parse_chat(json.dumps({**CHAT, "max_completion_tokens": 9}).encode(), RequestBounds())
    assert (parsed.requested_max_tokens, asked.requested_max_tokens) == (None, 9)


def test_completions_default_to_sixteen_tokens_as_at_openai() -> None:
    request = parse_completion(b'{"model":"m","prompt":"x"}', RequestBounds())
    assert request.to_sampling(RequestBounds()).max_tokens == 16
    assert request.to_sampling(RequestBounds(max_tokens=4)).max_tokens == 4


@pytest.mark.parametrize(("top_k", "engine"), [(-1, 0), (0, 0), (1, 1), (50, 50)])
def test_top_k_off(top_k: int, engine: int) -> None:
    assert chat_sampling(top_k=top_k).top_k == engine


@pytest.mark.parametrize(
    ("fields", "count"),
    [({}, None), ({"logprobs": False}, None), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 3}, 3)],
)
def test_logprobs(fields: dict[str, object], count: int | None) -> None:
    assert chat_sampling(**fields).logprobs == count


@pytest.mark.parametrize(("stop", "engine"), [("a", ("a",)), (["a", "b"], ("a", "b")), ([], ()), (None, ())])
def test_stop(stop: object, engine: tuple[str, ...]) -> None:
    assert chat_sampling(stop=stop).stop == engine


def schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema(mode="validation")


@pytest.mark.parametrize("model", [ChatCompletionRequest, CompletionRequest])
def test_every_field_is_documented(model: type[BaseModel]) -> None:
    document = schema(model)
    every = [document, *document.get("$defs", {}).values()]
    assert all(field.get("description") for each in every for field in each["properties"].values())
    assert all(each["additionalProperties"] is False for each in every if each["title"] != "TextFormat")


@pytest.mark.parametrize("model", [ChatCompletionRequest, CompletionRequest])
def test_null_is_documented_for_every_optional_field(model: type[BaseModel]) -> None:
    document = schema(model)
    for name, field in document["properties"].items():
        optional = name not in document["required"]
        assert field.get("anyOf", []).count({"type": "null"}) == optional, name


def test_labels_say_that_they_only_reach_the_logs() -> None:
    fields = schema(ChatCompletionRequest)["properties"]
    assert all(
        "kept for logs only" in fields[name]["description"] for name in ("user", "metadata", "safety_identifier")
    )
