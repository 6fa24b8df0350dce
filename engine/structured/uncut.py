"""Output that was held to something and then cut by a stop string is not what was asked for: it ran out early."""

from __future__ import annotations

import json as jsonlib

from engine.types import Delta, DeltaSink


class UncutSink:
    """A :class:`engine.types.DeltaSink` that ends a choice with ``length`` instead of ``stop`` if its text was cut.

    A grammar ends only where the text is complete, so nothing but a stop string can cut it. ``json``: look at the
    whole text once more.
    """

    __slots__ = ("_json", "_sink", "_texts")

    def __init__(self, sink: DeltaSink, *, json: bool) -> None:
        self._sink = sink
        self._json = json
        self._texts: dict[int, list[str]] = {}

    def text(self, text: str, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        if self._json:
            self._texts.setdefault(0, []).append(text)
        self._sink.text(text, tokens)

    def delta(self, delta: Delta) -> None:
        """See :class:`engine.types.DeltaSink`."""
        if self._json:
            self._texts.setdefault(delta.index, []).append(delta.text)
        if delta.finish_reason == "stop" and (delta.stop is not None or not self._is_whole(delta.index)):
            delta.finish_reason = "length"
        self._sink.delta(delta)

    def cached(self, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self._sink.cached(tokens)

    def _is_whole(self, index: int) -> bool:
        if not self._json:
            return True
        try:
            jsonlib.loads("".join(self._texts.pop(index, [])))
        except (ValueError, RecursionError):
            return False
        return True
