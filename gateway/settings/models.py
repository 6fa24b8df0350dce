"""Which models there are, and how they share the machine's memory."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import yaml
from pydantic import Field, field_validator

from engine.types import ModelKind
from gateway.settings.section import Section

_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY: Final = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]i?)?b?\s*", re.IGNORECASE)


def read_size(value: Any) -> Any:
    """Bytes from a number or from text such as ``12GiB``, ``800 MB``. Raises ValueError."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value)
    if match is None:
        raise ValueError("expected bytes, or a number with a unit: 12GiB, 800MB")
    return int(float(match[1]) * (_UNITS | _BINARY)[(match[2] or "").lower()])


def read_arguments(value: Any) -> Any:
    """Engine arguments: the environment gives text; vLLM wants numbers and booleans."""
    if not isinstance(value, dict):
        return value
    return {name: _read_text(name, each) if isinstance(each, str) else each for name, each in value.items()}


def _read_text(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"{name}: neither text nor YAML: {text[:64]!r}") from None


class ModelSettings(Section):
    """Models beside the first one, which `model` and `engine` describe. Without `model` the first of these is first."""

    name: str = Field(min_length=1, max_length=256, description="Its id on the wire.")
    model: str = Field(
        min_length=1,
        description="A local directory, a hub id, `sample:NAME` (embedded) or `repository:NAME` (uploaded).",
    )
    kind: ModelKind | None = Field(
        None,
        description="What it is for: generate, embed, classify, score or transcribe; default: what its directory says.",
    )
    engine: dict[str, Any] = Field({}, description="vLLM's engine arguments by their own names.")
    tool_parser: str = Field("auto", min_length=1, description="As the setting of the same name, for this model.")
    pin: bool = Field(False, description="Never evict it to make room for another.")
    preload: bool = Field(False, description="Load it at start and wait for it; otherwise its first request does.")
    memory: int | None = Field(
        None, gt=0, description="What it takes, in bytes or as `3GiB`; default: estimated, then measured."
    )

    @field_validator("memory", mode="before")
    @classmethod
    def _read_memory(cls, value: Any) -> Any:
        return read_size(value)

    @field_validator("engine", mode="before")
    @classmethod
    def _read_engine(cls, value: Any) -> Any:
        return read_arguments(value)


class PoolSettings(Section):
    """How the models share the machine's memory."""

    memory: int | None = Field(
        None, gt=0, description="Budget of all models, in bytes or as `16GiB`; default: 90 % of what is free at start."
    )
    cold: Literal["wait", "refuse"] = Field(
        "wait", description="A request for a model that is not in memory waits while it is loaded, or is answered 503."
    )
    cold_wait: float = Field(
        120.0, gt=0, description="Seconds that such a request waits at most, before it is answered 503."
    )
    unloaded: Literal["503", "404"] = Field(
        "503", description="The answer for a model that an administrator has unloaded; 404 also hides it from the list."
    )
    failed_pause: float = Field(
        60.0, gt=0, description="Seconds after a failed load in which requests do not try it again."
    )
    unload_timeout: float = Field(
        60.0, ge=0, description="Seconds that the running requests of a model get to end when it is unloaded."
    )

    @field_validator("memory", mode="before")
    @classmethod
    def _read_memory(cls, value: Any) -> Any:
        return read_size(value)


def check_names(models: list[ModelSettings]) -> list[ModelSettings]:
    """``models`` if no two of them have one name. Raises ValueError."""
    names = [model.name for model in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the name {twice[0]!r} is used twice")
    return models
