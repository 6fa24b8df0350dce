"""Listens to a generation without touching it."""

from __future__ import annotations

from engine.types import Delta
from gateway.guardian.check import Outlet


class Tap:
    """A :class:`engine.types.DeltaSink` that passes everything on and remembers what every choice said."""

    __slots__ = ("_said", "_sink")

    def __init__(self, outlet: Outlet) -> None:
        self._sink = outlet.sink
        self._said: dict[int, list[str]] = {}

    def text(self, text: str, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self._hear(0, text)
        self._sink.text(text, tokens)

    def delta(self, delta: Delta) -> None:
        """See :class:`engine.types.DeltaSink`."""
        calls = "".join((call.name or "") + call.arguments for call in delta.tool_calls)
        self._hear(delta.index, delta.reasoning + delta.text + calls)
        self._sink.delta(delta)

    def cached(self, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self._sink.cached(tokens)

    def heard(self) -> list[str]:
        """What every choice has said so far."""
        return [text for said in self._said.values() if (text := "".join(said))]

    def _hear(self, index: int, text: str) -> None:
        if text:
            self._said.setdefault(index, []).append(text)
