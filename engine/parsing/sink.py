"""Puts splitters between the engine and a request's sink."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from engine.parsing.piece import Splitter
from engine.types import Delta, DeltaSink, FinishReason


class ParsingSink:
    """A :class:`engine.types.DeltaSink` that takes every choice's text apart with a splitter of its own.

    Tokens and log-probabilities pass at once, also of text that is held back.
    """

    __slots__ = ("_called", "_new_splitter", "_sink", "_splitters")

    def __init__(self, sink: DeltaSink, new_splitter: Callable[[], Splitter]) -> None:
        self._sink = sink
        self._new_splitter = new_splitter
        self._splitters: dict[int, Splitter] = {}
        self._called: set[int] = set()

    def text(self, text: str, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self.delta(Delta(0, text, tokens))

    def delta(self, delta: Delta) -> None:
        """See :class:`engine.types.DeltaSink`."""
        splitter = self._splitters.get(delta.index)
        if splitter is None:
            splitter = self._splitters[delta.index] = self._new_splitter()
        piece = splitter.feed(delta.text)
        content, reasoning, calls = piece.content, piece.reasoning, piece.calls
        if delta.finish_reason is not None:
            last = splitter.finish()
            content, reasoning, calls = content + last.content, reasoning + last.reasoning, calls + last.calls
        if calls:
            self._called.add(delta.index)
        reason = self._reason(delta, splitter)
        self._sink.delta(replace(delta, text=content, reasoning=reasoning, tool_calls=calls, finish_reason=reason))

    def cached(self, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self._sink.cached(tokens)

    def _reason(self, delta: Delta, splitter: Splitter) -> FinishReason | None:
        if delta.finish_reason != "stop" or delta.index not in self._called:
            return delta.finish_reason
        # Only a stop string ends arguments early: the call is as incomplete as one that ran out of tokens.
        return "length" if splitter.unfinished_call else "tool_calls"
