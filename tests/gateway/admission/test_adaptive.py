from __future__ import annotations

from gateway.admission.adaptive import AdaptiveBound


def test_the_adaptive_bound_keeps_its_bounds() -> None:
    bound = AdaptiveBound(3, 10, 1.0, 0)
    now = 0.0
    for _ in range(50):
        now += 10
        bound.observe(now - 5.0, now)
        bound.step(5, now)
    assert bound.value == 3
    for _ in range(50):
        now += 10
        bound.observe(now - 0.1, now)
        bound.step(5, now)
    assert bound.value == 10
    bound.observe(now, now)
    bound.step(0, now + 1)
    assert bound.value == 10


def test_with_a_short_queue_it_stays() -> None:
    bound = AdaptiveBound(1, 100, 1.0, target_queue=4)
    bound.observe(0.0, 9.0)
    for now in (10.0, 11.5):
        bound.step(4, now)
    assert bound.value == 90
    bound.observe(12.0, 12.5)
    bound.step(4, 13.0)
    assert bound.value == 90
    bound.step(5, 14.5)
    assert bound.value == 94


def test_one_cause_shrinks_it_once() -> None:
    """Requests that were dispatched before the last decrease cannot know of it, however late their tokens come."""
    bound = AdaptiveBound(1, 100, 1.0, 0)
    bound.step(50, 0.0)
    bound.observe(0.0, 5.0)
    bound.step(50, 5.0)
    assert bound.value == 90
    for now in range(6, 30):
        bound.observe(4.0, float(now))
        bound.step(50, float(now))
    assert bound.value == 90, "nothing is known of 90 yet: neither fewer nor more"
    bound.observe(20.0, 30.0)
    bound.step(50, 30.0)
    assert bound.value == 81
    bound.observe(31.0, 31.5)
    bound.step(50, 32.0)
    assert bound.value == 85


def test_low_is_never_above_high() -> None:
    bound = AdaptiveBound(8, 2, 1.0, 0)
    bound.observe(0.0, 9.0)
    bound.step(0, 10.0)
    bound.step(0, 12.0)
    assert bound.value == 2
