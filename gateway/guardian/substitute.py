"""Takes texts out of a request, wherever in it they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar, cast

from pydantic import BaseModel

T = TypeVar("T")


def substituted(value: T, texts: Mapping[str, str]) -> T:
    """``value`` with every string that is a key of ``texts`` replaced, at any depth of models, lists and mappings.

    Strings that only contain one are left alone: who redacts checks the result.
    """
    if isinstance(value, str):
        return cast(T, texts.get(value, value))
    if isinstance(value, BaseModel):
        changed = {
            name: new
            for name in type(value).model_fields
            if (new := substituted(old := getattr(value, name), texts)) is not old
        }
        return cast(T, value.model_copy(update=changed)) if changed else value
    if is_dataclass(value) and not isinstance(value, type):
        fresh = {each.name: substituted(getattr(value, each.name), texts) for each in fields(value) if each.init}
        same = all(new is getattr(value, name) for name, new in fresh.items())
        return value if same else cast(T, replace(value, **fresh))
    if isinstance(value, list | tuple):
        items = [substituted(each, texts) for each in value]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else cast(T, type(value)(items))
    if isinstance(value, dict):
        entries = {key: substituted(each, texts) for key, each in value.items()}
        return value if all(entries[key] is value[key] for key in value) else cast(T, entries)
    return value
