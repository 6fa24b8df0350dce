"""The last minute: exact at rest, bounded under load, forgotten in time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.observability.recent import KEPT_PER_SECOND, WINDOW_SECONDS, LastMinute, Spread


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_happened_is_told_and_forgotten_after_a_minute() -> None:
    clock = Clock()
    recent = LastMinute(clock)
    assert recent.ttft() == Spread(0, None, None)
    for hundredths in range(1, 21):
        recent.first_token(hundredths / 100)
    recent.waited(0.5)
    recent.finished("completed", None)
    clock.now += 59
    recent.finished("rejected", "rate_limit_exceeded")
    assert recent.ttft() == Spread(20, 0.11, 0.2)
    assert recent.waits() == Spread(1, 0.5, 0.5)
    assert recent.outcomes() == {"completed": 1, "rejected": 1}
    assert recent.refusals() == {"rate_limit_exceeded": 1}
    by_second = recent.ttft_by_second()
    assert (len(by_second), by_second[0], set(by_second[1:])) == (WINDOW_SECONDS, 0.11, {None})
    clock.now += 1
    assert recent.ttft() == recent.waits() == Spread(0, None, None)
    assert recent.outcomes() == {"rejected": 1}
    clock.now += 3600
    assert not recent.outcomes()
    assert set(recent.ttft_by_second()) == {None}


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 100)), max_size=300))
def test_no_load_makes_it_larger_than_a_minute_of_slots(events: list[tuple[float, float]]) -> None:
    clock = Clock()
    recent = LastMinute(clock)
    for pause, ttft in events:
        clock.now += pause
        recent.first_token(ttft)
        recent.finished("completed", None)
    seen = recent.ttft()
    assert seen.count <= recent.outcomes()["completed"]
    assert len(recent._seconds) <= WINDOW_SECONDS
    assert all(len(second.ttft) <= KEPT_PER_SECOND for second in recent._seconds)
    assert seen.p50 is None or (seen.p95 is not None and seen.p50 <= seen.p95)
