"""The rules of timestamps on a vocabulary of ten: 0-3 text, 4 the end, 5 special, 6-9 timestamps."""

from __future__ import annotations

import math

import pytest
import torch

from engine.speech.rules import confine

FIRST, END = 6, 4


def allowed(written: list[int], logits: list[float] | None = None) -> set[int]:
    confined = confine(torch.tensor(logits or [1.0] * 4 + [1.0, -9.0] + [-9.0] * 4), written, FIRST, END)
    return {token for token, value in enumerate(confined.tolist()) if not math.isinf(value)}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([6], {0, 1, 2, 3, 4, 5}),  # after the first: text
        ([6, 0, 1], {0, 1, 2, 3, 4, 5, 7, 8, 9}),  # in the text: anything, but no time that is over
        ([6, 0, 8], {4, 5, 8, 9}),  # a time that ends a segment: its twin, or the end
        ([6, 0, 8, 8], {0, 1, 2, 3, 4, 5}),  # a pair: text
        ([6, 0, 8, 8, 1], {0, 1, 2, 3, 4, 5, 9}),  # times never fall
    ],
)
def test_what_may_follow(written: list[int], expected: set[int]) -> None:
    assert allowed(written) == expected


def test_likely_times_are_written() -> None:
    """Each of three is less likely than the text, together they are likelier."""
    assert allowed([6, 0], [1.0] * 6 + [0.5] * 4) == {7, 8, 9}
    assert allowed([6, 0], [1.0] * 6 + [-2.0] * 4) == {0, 1, 2, 3, 4, 5, 7, 8, 9}
