"""Prints docs/configuration.md's tables from the settings themselves: `python scripts/settings_table.py`."""

from __future__ import annotations

from typing import Annotated, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from gateway.settings import Settings


def rows(model: type[BaseModel], prefix: str = "") -> list[str]:
    """One Markdown row per setting, sections after the plain ones."""
    plain, sections = [], []
    for name, field in model.model_fields.items():
        section, suffix = _section(field.annotation)
        path = f"{prefix}{name}{suffix}"
        if section is not None:
            sections += ["", f"## `{path}`", "", section.__doc__ or "", "", *HEAD, *rows(section, f"{path}.")]
        if section is None or suffix:
            default = "" if field.default in (None, PydanticUndefined) else f"`{field.default}`"
            plain.append(f"| `{prefix}{name}` | {default} | {field.description} |")
        for kind, each in _kinds(field.annotation):
            heading = f"## `{path}[]`, `kind: {kind}`"
            sections += ["", heading, "", each.__doc__ or "", "", *HEAD, *rows(each, f"{path}[].")]
    return plain + sections


def _section(kind: object) -> tuple[type[BaseModel] | None, str]:
    """The section behind a setting's type, and how its own settings are reached: directly, by index or by name."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind, ""
    inner = get_args(kind)
    if inner and isinstance(inner[-1], type) and issubclass(inner[-1], BaseModel):
        return inner[-1], "[]" if get_origin(kind) is list else ".NAME"
    return None, ""


def _kinds(annotation: object) -> list[tuple[str, type[BaseModel]]]:
    """The sections among which each entry of a list chooses by its ``kind``."""
    if get_origin(annotation) is not list:
        return []
    entry = get_args(annotation)[0]
    members = get_args(get_args(entry)[0]) if get_origin(entry) is Annotated else ()
    return [(get_args(each.model_fields["kind"].annotation)[0], each) for each in members]


HEAD = ["| setting | default | meaning |", "| --- | --- | --- |"]

if __name__ == "__main__":
    print("\n".join([*HEAD, *rows(Settings)]))
