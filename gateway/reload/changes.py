"""Which settings differ, and which of them wait for a restart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from gateway.settings import Settings

#: What a running server takes over: each name and everything below it.
LIVE: Final = (
    "access.model_denied",
    "api_key",
    "api_key_file",
    "guard.keys",
    "guard.models",
    "guard.policy",
    "guard.routes",
    "limits.address",
    "limits.key",
    "limits.max_inputs",
    "limits.max_messages",
    "limits.max_n",
    "limits.max_prompts",
    "limits.max_tokens",
    "limits.model",
    "log.level",
    "pool.unloaded",
)
_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of settings, in order. ``restart``: those that are in the file and not in force."""

    live: tuple[str, ...]
    restart: tuple[str, ...]


def changes(running: Settings, started: Settings, wanted: Settings, *, new_key: bool) -> Changes:
    """What ``wanted`` changes: of what is live against ``running``, of the rest against what was ``started`` with.

    ``new_key``: the static key's file has another content, which its name does not tell.
    """
    live = {name for name in _differing(running, wanted) if is_live(name)}
    if new_key:
        live.add("api_key_file" if wanted.api_key_file is not None else "api_key")
    restart = (name for name in _differing(started, wanted) if not is_live(name))
    return Changes(tuple(sorted(live)), tuple(sorted(restart)))


def is_live(name: str) -> bool:
    """Whether the setting ``name`` can change while the server runs."""
    return any(name == each or name.startswith(f"{each}.") for each in LIVE)


def with_live(running: Settings, wanted: Settings) -> Settings:
    """``running`` with what is live of ``wanted``: what would be in force. The rest waits for a restart."""
    for name in LIVE:
        running = _with(running, name.split("."), wanted)
    return running


_M = TypeVar("_M", bound=BaseModel)


def _with(base: _M, path: Sequence[str], source: BaseModel) -> _M:
    head, *rest = path
    value = getattr(source, head)
    if rest:
        value = _with(getattr(base, head), rest, value)
    return base.model_copy(update={head: value})


def _differing(one: Settings, other: Settings) -> Iterator[str]:
    before, after = dict(_flat(one.model_dump(), "")), dict(_flat(other.model_dump(), ""))
    return (name for name in before | after if before.get(name, _MISSING) != after.get(name, _MISSING))


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
