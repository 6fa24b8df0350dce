import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.figures import paired_difference, paired_ratio, percentile, spread

samples = st.lists(st.floats(min_value=0.001, max_value=1e6), min_size=1, max_size=200)
shares = st.floats(min_value=0.01, max_value=1.0)


@given(samples, shares)
def test_a_percentile_is_the_smallest_sample_that_covers_the_share(values: list[float], share: float) -> None:
    found = percentile(values, share)
    needed = math.ceil(share * len(values))
    assert found in values
    assert sum(value <= found for value in values) >= needed
    assert sum(value < found for value in values) < needed


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_percentiles_of_one_to_a_hundred(share: float, expected: int) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], share) == expected


def test_no_samples_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 0.5)


@given(samples)
def test_a_spread_encloses_its_median(values: list[float]) -> None:
    found = spread(values)
    assert found.low == min(values) <= found.median <= max(values) == found.high


@given(samples, st.floats(min_value=0.1, max_value=10))
def test_drift_that_touches_both_systems_of_a_round_cancels(values: list[float], factor: float) -> None:
    found = paired_ratio([value * factor for value in values], values)
    assert found.low == pytest.approx(factor)
    assert found.high == pytest.approx(factor)


def test_ratios_are_taken_within_a_round() -> None:
    found = paired_ratio([1.0, 20.0, 3.0], [2.0, 10.0, 3.0])
    assert (found.median, found.low, found.high) == (1.0, 0.5, 2.0)


def test_differences_are_taken_within_a_round() -> None:
    found = paired_difference([5.0, 9.0, 7.0], [4.0, 10.0, 4.0])
    assert (found.median, found.low, found.high) == (1.0, -1.0, 3.0)


def test_rounds_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        paired_ratio([1.0], [1.0, 2.0])
