"""Schemas in the words that xgrammar holds to: what it takes too loosely is said in another way.

xgrammar 0.2.8 lets control characters into strings whose length is bounded, and what is written then is no JSON; the
same bounds as a pattern leave them out. tests/engine/structured/test_keywords.py tells when it has learned better.
Patterns and formats are written anew (:mod:`engine.structured.patterns`, :mod:`engine.structured.formats`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from engine.structured import formats
from engine.structured.keywords import ANNOTATIONS, EXTENSION
from engine.structured.patterns import plain_pattern
from engine.structured.refusal import MAX_INTEGER

_BY_NAME: Final = ("properties", "$defs", "definitions", "patternProperties")
_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE: Final = ("items", "additionalProperties")
_OF_STRINGS: Final = ("minLength", "maxLength", "pattern", "format")


@lru_cache(maxsize=64)
def lowered_text(schema: str) -> str:
    """:func:`lowered` for a checked schema as JSON."""
    return json.dumps(lowered(json.loads(schema)), ensure_ascii=False, separators=(",", ":"))


def lowered(schema: Any) -> Any:
    """``schema``, which is checked, as xgrammar is given it. Nothing in it is changed in place."""
    if not isinstance(schema, Mapping):
        return schema
    # vLLM looks for what it cannot hold to in annotations, too.
    found = {key: _inside(key, value) for key, value in schema.items() if not _says_nothing(key)}
    types = found.get("type", ())
    types = [types] if isinstance(types, str) else types
    if "string" in types:
        least, most, pattern, form = (found.pop(word, None) for word in _OF_STRINGS)
        found.update(formats.held_by(form, pattern, least or 0, most) or {})
    elif "format" in found:
        found.update(_bounded(found, found.pop("format")))
    if "propertyNames" in found:
        found.update(_named(found, found.pop("propertyNames")))
    if "patternProperties" in found:
        found["additionalProperties"] = False
        found["patternProperties"] = {
            f"^{plain_pattern(pattern, inside_json=True)}$": each
            for pattern, each in found["patternProperties"].items()
        }
    return found


def _says_nothing(keyword: str) -> bool:
    return keyword in ANNOTATIONS or keyword.startswith(EXTENSION)


def any_name(names: Any) -> bool:
    """Whether ``propertyNames`` with this schema says nothing."""
    if not isinstance(names, Mapping):
        return names is True
    return names.keys() <= ANNOTATIONS | {"type"} and names.get("type", "string") == "string"


def _inside(key: str, value: Any) -> Any:
    if key in _BY_NAME and isinstance(value, Mapping):
        return {name: lowered(each) for name, each in value.items()}
    if key in _LISTS and isinstance(value, list):
        return [lowered(each) for each in value]
    if key == "propertyNames" and isinstance(value, Mapping):
        return lowered(value if {"$ref", "enum"} & value.keys() else {"type": "string", **value})
    return lowered(value) if key in _SINGLE else value


def _bounded(schema: Mapping[str, Any], form: str) -> dict[str, Any]:
    """The bounds of an integer's format, where ``schema`` has none that are closer."""
    if form not in formats.NUMBERS["integer"]:
        return {}
    low, high = formats.INT32 if form == "int32" else (-MAX_INTEGER, MAX_INTEGER)
    found: dict[str, Any] = {}
    if max(schema.get("minimum", low - 1), schema.get("exclusiveMinimum", low - 1)) < low:
        found["minimum"] = low
    if min(schema.get("maximum", high + 1), schema.get("exclusiveMaximum", high + 1)) > high:
        found["maximum"] = high
    return found


def _named(schema: Mapping[str, Any], names: Any) -> dict[str, Any]:
    """An object whose names are described: those that are listed become its properties, none of which is required."""
    if any_name(names):
        return {}
    if "enum" not in names:
        return {"propertyNames": names}
    each = schema.get("additionalProperties", True)
    return {"properties": dict.fromkeys(names["enum"], each), "additionalProperties": False}
