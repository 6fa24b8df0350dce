"""What the pieces of a splitter join to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hypothesis import strategies as st

from engine.parsing.piece import Piece, Splitter


@dataclass
class Joined:
    """Content, reasoning, and the calls as [name, arguments]."""

    content: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        self.content += piece.content
        self.reasoning += piece.reasoning
        for call in piece.calls:
            if call.name is not None:
                assert call.index == len(self.calls)
                self.calls.append([call.name, ""])
            assert call.index == len(self.calls) - 1
            self.calls[call.index][1] += call.arguments


def joined(splitter: Splitter, feeds: Iterable[str]) -> Joined:
    result = Joined()
    for text in feeds:
        result.add(splitter.feed(text))
    result.add(splitter.finish())
    return result


def cuts(text: str) -> st.SearchStrategy[list[str]]:
    """Every way to cut ``text`` into feeds."""
    places = st.lists(st.integers(0, len(text)), max_size=8).map(sorted)
    return places.map(lambda at: [text[i:j] for i, j in zip([0, *at], [*at, len(text)], strict=True)])
