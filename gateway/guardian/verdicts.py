"""What is judged, and what evaluators say of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

GraniteFormat: TypeAlias = Literal["3.0", "3.2", "3.3"]


class GuardFailure(Exception):
    """An evaluator did not say whether something is safe; ``reason`` is one of a few fixed words."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Content:
    """What is judged: the assistant's text if there is one, else the user's. The rest says what it belongs to.

    ``format``: how a Granite Guardian is asked, None for the way it is configured; ``think``: whether it thinks first.
    """

    user: str = ""
    assistant: str | None = None
    context: str | None = None
    format: GraniteFormat | None = None
    think: bool = False

    @property
    def judged(self) -> str:
        """The text that the verdict is about."""
        return self.user if self.assistant is None else self.assistant

    def with_judged(self, text: str) -> Content:
        """The same with another text to judge."""
        return replace(self, user=text) if self.assistant is None else replace(self, assistant=text)


Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Finding:
    """What an evaluator thinks of one risk. ``score``: probability in 0 to 1 that it is there.

    ``spans``: where, as characters of the judged text, if the evaluator knows. ``confidence``: what it said itself of
    how sure it is.
    """

    score: float
    reasoning: str | None = None
    spans: tuple[Span, ...] = ()
    confidence: float | None = None

    def __post_init__(self) -> None:
        # NaN is neither safe nor unsafe.
        if not (math.isfinite(self.score) and 0.0 <= self.score <= 1.0):
            raise GuardFailure("nonsense", f"a score of {self.score}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A finding held against a threshold."""

    risk: str
    unsafe: bool
    score: float
    reasoning: str | None = None
    spans: tuple[Span, ...] = ()
    stated: float | None = None

    @property
    def confidence(self) -> float:
        """How sure the verdict is: as the evaluator stated it, or the probability of what the verdict says."""
        if self.stated is not None:
            return self.stated
        return self.score if self.unsafe else 1.0 - self.score


class Evaluator(Protocol):
    """Judges texts. ``window``: characters of the judged text that it reads at once; None: any number.

    ``learned``: costs a model's time, and reads no spelled-out encodings.
    """

    name: str
    risks: frozenset[str]
    window: int | None
    learned: bool

    async def evaluate(self, content: Content, risks: Sequence[str]) -> Mapping[str, Finding]:
        """One finding for each of ``risks``. Raises :class:`GuardFailure`; any other exception counts as one."""

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
