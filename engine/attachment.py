"""How a front-end worker finds the engine that it shares with others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Attachment:
    """One client's place at a running engine; it is given to one process, once.

    ``arguments`` are those the engine was started with, ``pids`` its processes. ``client`` is one of many, of which
    ``clients`` are there at a time. ``stats_address`` is there if the engine consists of several copies.
    """

    arguments: Mapping[str, Any]
    input_address: str
    output_address: str
    stats_address: str | None
    pids: tuple[int, ...]
    client: int
    clients: int


class Attachments(Protocol):
    """Where a worker gets its place at the engine, from whoever holds the engine."""

    def attach(self) -> Attachment:
        """Wait for an engine and take a place at it. Blocks.

        Raises :class:`engine.types.EngineUnavailable` if there will be none, or after :meth:`cancel`.
        """

    def lost(self, attachment: Attachment) -> bool:
        """Whether the engine behind ``attachment`` is known to be gone."""

    def cancel(self) -> None:
        """Let nobody wait any more."""
