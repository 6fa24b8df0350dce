"""Holds a generation back until its input has passed."""

from __future__ import annotations

from engine.types import Delta, DeltaSink
from gateway.guardian.check import TokenMeter


class Curtain:
    """A :class:`engine.types.DeltaSink`. Tokens are counted at once, what they say waits until :meth:`lift`."""

    __slots__ = ("_held", "_lifted", "_meter", "_sink")

    def __init__(self, sink: DeltaSink, meter: TokenMeter) -> None:
        self._sink = sink
        self._meter = meter
        self._held: list[Delta] = []
        self._lifted = False

    def text(self, text: str, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        if self._lifted:
            self._sink.text(text, tokens)
        else:
            self.delta(Delta(0, text, tokens))

    def delta(self, delta: Delta) -> None:
        """See :class:`engine.types.DeltaSink`."""
        if self._lifted:
            self._sink.delta(delta)
            return
        self._meter.count(delta.tokens)
        self._meter.reasoning += delta.reasoning_tokens
        delta.tokens = delta.reasoning_tokens = 0
        self._held.append(delta)

    def cached(self, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self._sink.cached(tokens)

    def lift(self) -> None:
        """The input has passed: send what is held, and everything else at once."""
        self._lifted = True
        held, self._held = self._held, []
        for delta in held:
            self._sink.delta(delta)
