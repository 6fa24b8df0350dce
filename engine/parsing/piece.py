"""What the splitters of this package have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from engine.types import ToolCallDelta


@dataclass(frozen=True, slots=True)
class Piece:
    """What one more bit of text turned out to be."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[ToolCallDelta, ...] = ()


NOTHING = Piece()


class Splitter(Protocol):
    """Takes one choice's text apart as it comes.

    Law: what the pieces join to does not depend on where the text was cut into feeds. Streams and whole answers use
    the same splitter, so they agree by construction.
    """

    def feed(self, text: str) -> Piece:
        """What is certain after ``text``; the rest is held back."""

    def finish(self) -> Piece:
        """What was held back; the text is over."""

    @property
    def unfinished_call(self) -> bool:
        """Whether a call was begun whose arguments are not complete. Asked after :meth:`finish`."""


class PlainText:
    """All of it is content."""

    unfinished_call = False

    def feed(self, text: str) -> Piece:
        """See :class:`Splitter`."""
        return Piece(text)

    def finish(self) -> Piece:
        """See :class:`Splitter`."""
        return NOTHING
