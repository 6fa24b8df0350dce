"""Answers that are a row of items (thoughts, texts, calls), each opened, grown and closed in a stream.

The whole answer is made by the same steps as the stream, so both hold the same items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from engine.types import Delta, FinishReason, PositionLogprobs, ToolCallDelta
from gateway.protocol.encode import Choice

Kind = Literal["reasoning", "text", "call"]


class ItemisedEncoder(ABC):
    """Keeps track of the item that is open. One choice only."""

    def __init__(self) -> None:
        self._kind: Kind | None = None
        self._opened = False
        self._items = 0
        self._finish: FinishReason | None = None
        self._stop: str | None = None

    # -- what a surface says ----------------------------------------------------------------------------------------

    @abstractmethod
    def _begin(self) -> bytes:
        """What precedes the first item."""

    @abstractmethod
    def _start(self, kind: Kind, call: str) -> bytes:
        """An item opens; ``call`` is the name of what is called."""

    @abstractmethod
    def _grow(self, kind: Kind, text: str, logprobs: Sequence[PositionLogprobs]) -> bytes:
        """The open item gains ``text``."""

    @abstractmethod
    def _end(self, kind: Kind, *, cut: bool) -> bytes:
        """The open item is complete, or was ``cut`` short."""

    @abstractmethod
    def _nothing(self, *, cut: bool) -> bytes:
        """The answer is over, and nothing was thought, said or called."""

    @abstractmethod
    def text(self, text: str) -> bytes:
        """See :class:`~gateway.protocol.encode.Encoder`: the hot path."""

    # -- see gateway.protocol.encode.Encoder --------------------------------------------------------------------------

    def opening(self, index: int) -> bytes:  # noqa: ARG002 - there is one choice
        """See :class:`~gateway.protocol.encode.Encoder`."""
        self._opened = True
        return self._begin()

    def delta(self, delta: Delta) -> bytes:
        """See :class:`~gateway.protocol.encode.Encoder`: reasoning, text, calls, in this order."""
        out = b""
        if delta.reasoning:
            out += self._into("reasoning") + self._grow("reasoning", delta.reasoning, ())
        if delta.text or delta.logprobs:
            out += self._into("text") + self._grow("text", delta.text, delta.logprobs or ())
        for call in delta.tool_calls:
            out += self._call(call)
        if delta.finish_reason is not None:
            self._finish, self._stop = delta.finish_reason, delta.stop
            cut = delta.finish_reason in ("length", "content_filter")
            out += self._close(cut=cut) if self._items else self._nothing(cut=cut)
        return out

    def _whole(self, choice: Choice) -> None:
        """Take the steps of a stream that brought all of ``choice`` at once."""
        calls = tuple(ToolCallDelta(index, call.name, call.arguments) for index, call in enumerate(choice.tool_calls))
        self.delta(
            Delta(0, choice.text, 0, choice.finish_reason, choice.logprobs, choice.reasoning, calls, stop=choice.stop)
        )

    # -- the steps ------------------------------------------------------------------------------------------------

    def _into(self, kind: Kind) -> bytes:
        """Make ``kind`` the open item."""
        return b"" if self._kind == kind else self._close(cut=False) + self._open(kind)

    def _call(self, call: ToolCallDelta) -> bytes:
        out = b"" if call.name is None else self._close(cut=False) + self._open("call", call.name)
        return out + (self._grow("call", call.arguments, ()) if call.arguments else b"")

    def _open(self, kind: Kind, call: str = "") -> bytes:
        self._kind = kind
        self._items += 1
        return self._start(kind, call)

    def _close(self, *, cut: bool) -> bytes:
        if self._kind is None:
            return b""
        kind, self._kind = self._kind, None
        return self._end(kind, cut=cut)
