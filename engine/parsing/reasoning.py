"""Reasoning that stands between two marks at the beginning of an answer: ``<think>...</think>``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.parsing.piece import NOTHING, Piece, Splitter


@dataclass(frozen=True, slots=True)
class Marks:
    """What a model puts around its reasoning, as text and as the one token each is."""

    start: str
    end: str
    start_id: int
    end_id: int

    def open_at_end_of(self, prompt: Sequence[int]) -> bool:
        """Whether the chat template has begun the reasoning already: the answer's first token belongs to it."""
        for token_id in reversed(prompt):
            if token_id in (self.start_id, self.end_id):
                return token_id == self.start_id
        return False


class Thinking:
    """Splits reasoning from the answer, which goes on to ``answer``. White space next to the marks is dropped.

    ``begun``: the prompt ends inside of reasoning. A model that repeats the start mark nevertheless is understood.
    """

    def __init__(self, marks: Marks, answer: Splitter, *, begun: bool) -> None:
        self._marks = marks
        self._answer = answer
        self._begun = begun
        self._held = ""
        self._step = self._starting
        self._fresh = True

    @property
    def unfinished_call(self) -> bool:
        """See :class:`engine.parsing.piece.Splitter`."""
        return self._answer.unfinished_call

    def feed(self, text: str) -> Piece:
        """See :class:`engine.parsing.piece.Splitter`."""
        return self._step(text)

    def finish(self) -> Piece:
        """See :class:`engine.parsing.piece.Splitter`."""
        held, self._held = self._held, ""
        last = NOTHING
        if self._step == self._starting:
            last = Piece(reasoning=held.lstrip()) if self._begun else self._answer.feed(held)
        elif self._step == self._thinking:
            last = Piece(reasoning=held)
        return _both(last, self._answer.finish())

    def _starting(self, text: str) -> Piece:
        self._held += text
        start = self._held.lstrip()
        if start != self._marks.start and self._marks.start.startswith(start):
            return NOTHING
        held, self._held = self._held, ""
        if start.startswith(self._marks.start):
            self._step = self._thinking
            return self._thinking(start[len(self._marks.start) :])
        self._step = self._thinking if self._begun else self._answering
        self._fresh = self._begun
        return self._step(held)

    def _thinking(self, text: str) -> Piece:
        text = self._held + (text.lstrip() if self._fresh and not self._held else text)
        reasoning, end, answer = text.partition(self._marks.end)
        if end:
            self._held = ""
            self._fresh = True
            self._step = self._answering
            return _both(Piece(reasoning=reasoning), self._answering(answer))
        kept = _overlap(text, self._marks.end)
        self._held = text[len(text) - kept :]
        self._fresh = self._fresh and not text
        return Piece(reasoning=text[: len(text) - kept])

    def _answering(self, text: str) -> Piece:
        if self._fresh:
            text = text.lstrip()
            self._fresh = not text
        return self._answer.feed(text) if text else NOTHING


def _overlap(text: str, mark: str) -> int:
    """How many of the last characters of ``text`` may begin ``mark``."""
    return next((size for size in range(min(len(text), len(mark) - 1), 0, -1) if text.endswith(mark[:size])), 0)


def _both(first: Piece, second: Piece) -> Piece:
    if second is NOTHING:
        return first
    return Piece(first.content + second.content, first.reasoning + second.reasoning, first.calls + second.calls)


class ThoughtCounter:
    """Counts tokens between the marks, by their ids: exact however the tokens are grouped into outputs."""

    __slots__ = ("_begun", "_marks", "_open")

    def __init__(self, marks: Marks, *, begun: bool) -> None:
        self._marks = marks
        self._begun = begun
        self._open: dict[int, bool] = {}

    def count(self, choice: int, token_ids: Sequence[int]) -> int:
        """Those of ``token_ids``, the next tokens of ``choice``, that are reasoning; the marks themselves are not."""
        thinking, count = self._open.get(choice, self._begun), 0
        for token_id in token_ids:
            if token_id == self._marks.start_id:
                thinking = True
            elif token_id == self._marks.end_id:
                thinking = False
            else:
                count += thinking
        self._open[choice] = thinking
        return count
