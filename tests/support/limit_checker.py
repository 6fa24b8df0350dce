"""Judges a history of decisions on one limit, in the manner of Jepsen: what was granted, and what was refused.

Every attempt has the moments it was made and answered at; the decision was taken somewhere in between. Law 1: no window
holds more than the limit (and a declared slack). Law 2: nobody is refused while there certainly was room.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attempt:
    """Times in seconds; ``granted`` None: no answer, so it may have been either. ``used`` is what it cost in the end.

    ``settled`` is when what it did not use was given back, None: never.
    """

    begun: float
    ended: float
    cost: int
    granted: bool | None
    used: int | None = None
    settled: float | None = None

    @property
    def final(self) -> int:
        return self.cost if self.used is None else self.used


def over_limit(history: Sequence[Attempt], limit: int, window: float, slack: int = 0) -> Iterator[str]:
    """Windows that certainly hold more than ``limit + slack``: even if every grant was made when it hurts least."""
    granted = sorted((each for each in history if each.granted), key=lambda each: each.ended)
    for index, last in enumerate(granted):
        # All of these were certainly granted within one window that ends with `last`.
        inside = [each for each in granted[: index + 1] if each.begun >= last.ended - window]
        total = sum(each.final for each in inside)
        if total > limit + slack:
            yield f"{total} granted within {window} s up to {last.ended:.3f}, limit {limit} (+{slack})"


def refused_with_room(history: Sequence[Attempt], limit: int, window: float, resolution: float) -> Iterator[str]:
    """Refusals that were certainly wrong: even if everything that may count did count."""
    for refusal in (each for each in history if each.granted is False and each.cost <= limit):
        # Whatever may have been granted before the refusal was answered, and may still be in its window.
        others = [
            each
            for each in history
            if each is not refusal
            and each.granted is not False
            and each.begun <= refusal.ended
            and each.ended >= refusal.begun - window - resolution
        ]
        most = sum(
            each.final if each.settled is not None and each.settled < refusal.begun else each.cost for each in others
        )
        if most + refusal.cost <= limit:
            yield f"{refusal.cost} refused at {refusal.begun:.3f} though at most {most} of {limit} were used"


def check(
    history: Sequence[Attempt], *, limit: int, window: float, resolution: float = 2.0, slack: int = 0
) -> list[str]:
    """Everything that is wrong with ``history``."""
    return [*over_limit(history, limit, window, slack), *refused_with_room(history, limit, window, resolution)]
