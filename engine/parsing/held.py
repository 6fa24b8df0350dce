"""Parsers that read only complete texts, used for streams too: text leaves up to the first sign of a call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Final

from engine.parsing.piece import NOTHING, Piece
from engine.types import ToolCallDelta

log = logging.getLogger("sluice.engine")

#: Longer replies are text: parsers run on the event loop, and not all of them take linear time.
MAX_CHARACTERS: Final = 32 * 1024

#: Reads a complete text: what of it is content, and the calls as (name, arguments).
Extract = Callable[[str], tuple[str, Sequence[tuple[str, str]]]]


class HeldBack:
    """Holds back everything from the first of ``marks`` on and lets ``extract`` read it at the end.

    A text that cannot be read, or that calls what is not among ``names``, is content. No marks: all is held back.
    """

    unfinished_call = False

    def __init__(self, marks: Sequence[str], extract: Extract, names: Collection[str], *, parallel: bool) -> None:
        self._marks = marks
        self._extract = extract
        self._names = frozenset(names)
        self._parallel = parallel
        self._held = ""
        self._marked = not marks

    def feed(self, text: str) -> Piece:
        """See :class:`engine.parsing.piece.Splitter`."""
        self._held += text
        if self._marked:
            return NOTHING
        at = min((place for mark in self._marks if (place := self._held.find(mark)) >= 0), default=-1)
        self._marked = at >= 0
        # White space in front of a call belongs to neither.
        sure = len(self._held[: at if self._marked else len(self._held) - self._possible()].rstrip())
        content, self._held = self._held[:sure], self._held[sure:]
        return Piece(content) if content else NOTHING

    def finish(self) -> Piece:
        """See :class:`engine.parsing.piece.Splitter`."""
        held, self._held = self._held, ""
        if not self._marked or len(held) > MAX_CHARACTERS:
            return Piece(held)
        try:
            content, calls = self._extract(held.lstrip())
        except Exception:  # noqa: BLE001 - whatever a parser thinks of a reply, the reply is still there to be sent
            log.warning("a tool parser failed on a reply, which is sent as text")
            return Piece(held)
        if not calls or any(name not in self._names for name, _ in calls):
            return Piece(held)
        kept = calls if self._parallel else calls[:1]
        return Piece(content, calls=tuple(ToolCallDelta(index, *call) for index, call in enumerate(kept)))

    def _possible(self) -> int:
        """How many of the last characters may begin a mark."""
        longest = max(map(len, self._marks)) - 1
        ends = (self._held[-size:] for size in range(min(longest, len(self._held)), 0, -1))
        return next((len(end) for end in ends if any(mark.startswith(end) for mark in self._marks)), 0)
