"""Prints docs/configuration.md's tables from the settings themselves: `python scripts/settings_table.py`."""

from __future__ import annotations

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from gateway.settings import Settings


def rows(model: type[BaseModel], prefix: str = "") -> list[str]:
    """One Markdown row per setting, sections after the plain ones."""
    plain, sections = [], []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            sections += ["", f"## `{prefix}{name}`", "", kind.__doc__ or "", "", *HEAD, *rows(kind, f"{prefix}{name}.")]
        else:
            default = "" if field.default in (None, PydanticUndefined) else f"`{field.default}`"
            plain.append(f"| `{prefix}{name}` | {default} | {field.description} |")
    return plain + sections


HEAD = ["| setting | default | meaning |", "| --- | --- | --- |"]

if __name__ == "__main__":
    print("\n".join([*HEAD, *rows(Settings)]))
