from __future__ import annotations

import pytest

from gateway.limits.breaker import FAILURES, Breaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_opens_it_once_and_a_success_of_the_prober_closes_it() -> None:
    breaker = Breaker(Clock())
    opened = [breaker.failed() for _ in range(FAILURES + 2)]
    assert opened == [False] * (FAILURES - 1) + [True, False, False]
    assert not breaker.closed
    breaker.close()
    assert breaker.closed
    assert not breaker.failed(), "what was before counts no longer"


@pytest.mark.parametrize(("pause", "closed"), [(0.25, False), (0.26, True)])
def test_failures_now_and_then_do_not(pause: float, closed: bool) -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(FAILURES):
        breaker.failed()
        clock.now += pause
    assert breaker.closed is closed


@pytest.mark.parametrize("patience", [0.05, 0.25, 5.0])
def test_requests_that_time_out_one_after_another_are_a_burst(patience: float) -> None:
    clock = Clock()
    breaker = Breaker(clock, patience=patience)
    for _ in range(FAILURES):
        clock.now += 1.1 * patience
        breaker.failed()
    assert not breaker.closed


def test_a_store_that_says_itself_that_it_cannot_is_believed_at_once() -> None:
    breaker = Breaker(Clock())
    assert breaker.failed(fatal=True)
    assert not breaker.closed
