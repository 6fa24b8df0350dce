from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.support.limit_checker import Attempt, check

LIMIT = 10


def history() -> list[Attempt]:
    """Ten grants of one, then refusals, then room again when the first window is over."""
    granted = [Attempt(t, t + 0.01, 1, True) for t in range(10)]
    refused = [Attempt(20 + t, 20.01 + t, 1, False) for t in range(5)]
    later = [Attempt(63 + t, 63.01 + t, 1, True) for t in range(2)]
    return [*granted, *refused, *later]


def test_a_true_history_is_not_accused() -> None:
    assert check(history(), limit=LIMIT, window=60) == []


@given(index=st.integers(10, 14))
def test_one_grant_too_many_is_seen(index: int) -> None:
    forged = history()
    forged[index] = replace(forged[index], granted=True)
    assert any("granted within" in each for each in check(forged, limit=LIMIT, window=60))
    assert check(forged, limit=LIMIT, window=60, slack=1) == []


@given(index=st.integers(0, 9))
def test_a_refusal_without_a_reason_is_seen(index: int) -> None:
    forged = history()
    forged[index] = replace(forged[index], granted=False)
    assert any("refused" in each for each in check(forged, limit=LIMIT, window=60))


def test_a_grant_that_nobody_heard_of_excuses_a_refusal_but_no_grant() -> None:
    silent = [*history()[:9], Attempt(9, 9.05, 1, None), Attempt(10, 10.01, 1, False)]
    assert check(silent, limit=LIMIT, window=60) == []
    assert check([*silent, Attempt(11, 11.01, 1, True)], limit=LIMIT, window=60) == []
    assert check([*silent, *(Attempt(11, 11.01, 1, True) for _ in range(2))], limit=LIMIT, window=60)


def test_what_was_given_back_counts_no_longer() -> None:
    first = Attempt(0, 0.01, 10, True, used=4, settled=1.0)
    assert check([first, Attempt(2, 2.01, 6, True)], limit=LIMIT, window=60) == []
    assert check([first, Attempt(2, 2.01, 7, True)], limit=LIMIT, window=60)
    assert check([first, Attempt(2, 2.01, 6, False)], limit=LIMIT, window=60)
    assert check([first, Attempt(0.5, 0.51, 6, False)], limit=LIMIT, window=60) == []
