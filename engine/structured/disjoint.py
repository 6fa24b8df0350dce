"""Whether alternatives exclude each other, so that "exactly one of them" is the same as "one of them"."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from engine.structured.keywords import JSON_TYPES

Schema = Mapping[str, Any]
Resolve = Callable[[Schema], Schema]


def all_disjoint(branches: Sequence[Schema], resolve: Resolve) -> bool:
    """True only if no value is valid for two of ``branches``. ``resolve`` follows references."""
    resolved = [resolve(branch) for branch in branches]
    return all(_disjoint(left, right, resolve) for left, right in combinations(resolved, 2))


def _disjoint(left: Schema, right: Schema, resolve: Resolve) -> bool:
    left_values, right_values = _values(left), _values(right)
    if left_values is not None and right_values is not None:
        return not left_values & right_values
    left_types, right_types = _types(left), _types(right)
    if left_types and right_types and not left_types & right_types:
        return {"integer", "number"} not in ({a, b} for a in left_types for b in right_types)
    return left_types == right_types == {"object"} and _told_apart(left, right, resolve)


def _told_apart(left: Schema, right: Schema, resolve: Resolve) -> bool:
    """By a property that both require and whose values differ."""
    for name in set(left.get("required", ())) & set(right.get("required", ())):
        values = [_values(resolve(side.get("properties", {}).get(name, {}))) for side in (left, right)]
        if values[0] is not None and values[1] is not None and not values[0] & values[1]:
            return True
    return False


def _types(schema: Schema) -> set[str]:
    if (values := [schema["const"]] if "const" in schema else schema.get("enum")) is not None:
        return {JSON_TYPES[type(value)] for value in values}
    found = schema.get("type", ())
    return {found} if isinstance(found, str) else set(found)


def _values(schema: Schema) -> frozenset[str] | None:
    """The only valid values as JSON; numbers are left out, as 1 and 1.0 are the same value."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is None or any(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return None
    return frozenset(json.dumps(value, sort_keys=True) for value in values)
