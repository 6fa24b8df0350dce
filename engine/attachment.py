"""How a front-end worker finds the engine that it shares with others, and what it asks who keeps the account of its
adapters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.types import AdapterSpec


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


@dataclass(frozen=True, slots=True)
class Load:
    """Answered with an :class:`engine.types.AdapterInfo`."""

    spec: AdapterSpec


@dataclass(frozen=True, slots=True)
class Unload:
    """Answered with None."""

    name: str
    drain: bool


@dataclass(frozen=True, slots=True)
class HoldWanted:
    """Answered with a :class:`engine.adapters.residency.Lora`, which is held until the question is withdrawn."""

    name: str


@dataclass(frozen=True, slots=True)
class Look:
    """Answered with a list of :class:`engine.types.AdapterInfo`."""


Question = Load | Unload | HoldWanted | Look


class AccountLine(Protocol):
    """From a process to the one that keeps the account. On the event loop's thread."""

    def number(self) -> int:
        """A number that no question had yet."""

    async def ask(self, number: int, question: Question) -> Any:
        """The answer. Raises the :class:`engine.types.EngineError` that it is."""

    def withdraw(self, numbers: Sequence[int]) -> None:
        """Nobody waits for these any more; what was given as their answer is given back."""


class Attachments(AccountLine, Protocol):
    """Where a worker gets its place at the engine, from whoever holds the engine; and asks for its adapters."""

    def attach(self) -> Attachment:
        """Wait for an engine and take a place at it. Blocks.

        Raises :class:`engine.types.EngineUnavailable` if there will be none, or after :meth:`cancel`.
        """

    def lost(self, attachment: Attachment) -> bool:
        """Whether the engine behind ``attachment`` is known to be gone."""

    def cancel(self) -> None:
        """Let nobody wait any more."""
