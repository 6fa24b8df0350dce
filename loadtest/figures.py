"""The few statistics of a comparison: percentiles of samples, medians over rounds, ratios paired by round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and the extremes it was taken from."""

    median: float
    low: float
    high: float


def percentile(samples: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: the smallest sample that at least ``share`` (0..1] of all do not exceed.

    Always a value that was seen. Raises ``ValueError`` without samples.
    """
    if not samples:
        raise ValueError("no samples")
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


def spread(samples: Sequence[float]) -> Spread:
    """Median, minimum and maximum."""
    return Spread(median(samples), min(samples), max(samples))


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """``ours / theirs``, round by round: what drifts on the machine between rounds cancels out."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """``ours - theirs``, round by round."""
    return spread([a - b for a, b in zip(ours, theirs, strict=True)])
