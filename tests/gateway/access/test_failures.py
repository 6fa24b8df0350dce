from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.failures import MAX_ADDRESSES, WINDOW_SECONDS, FailedCredentials
from gateway.errors import ApiError


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_too_many_and_when_it_is_over() -> None:
    clock = Clock()
    failures = FailedCredentials(3, clock)
    for _ in range(3):
        failures.check("203.0.113.1")
        failures.failed("203.0.113.1")
        clock.now += 10
    with pytest.raises(ApiError) as refused:
        failures.check("203.0.113.1")
    assert (refused.value.status, refused.value.code, refused.value.body.type) == (
        429,
        "rate_limit_exceeded",
        "requests",
    )
    assert refused.value.retry_after == pytest.approx(30)
    failures.check("203.0.113.2")
    clock.now += 30
    failures.check("203.0.113.1")
    failures.failed("203.0.113.1")
    with pytest.raises(ApiError):
        failures.check("203.0.113.1")


def test_one_subscriber_is_one_address() -> None:
    failures = FailedCredentials(1)
    failures.failed("2001:db8::1")
    with pytest.raises(ApiError):
        failures.check("2001:db8::2")
    failures.check("2001:db8:0:1::1")


def test_memory_is_bounded_and_the_latest_stay() -> None:
    failures = FailedCredentials(1)
    for number in range(MAX_ADDRESSES + 10):
        failures.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    failures.check("10.0.0.0")
    with pytest.raises(ApiError):
        failures.check(f"10.0.{(MAX_ADDRESSES + 9) >> 8}.{(MAX_ADDRESSES + 9) & 255}")


def test_addresses_are_forgotten_when_their_minute_is_over() -> None:
    clock = Clock()
    failures = FailedCredentials(3, clock)
    for number in range(1000):
        failures.failed(f"10.0.{number >> 8}.{number & 255}")
    clock.now += WINDOW_SECONDS
    failures.failed("203.0.113.1")
    assert list(failures._failures) == ["203.0.113.1"]
    clock.now += WINDOW_SECONDS
    failures.check("203.0.113.2")
    assert not failures._failures


def test_u36_fifty_wrong_keys_a_second() -> None:
    clock = Clock()
    failures = FailedCredentials(300, clock)
    looked_at = 0
    for _ in range(50 * 20):
        try:
            failures.check("203.0.113.1")
        except ApiError as error:
            assert error.status == 429  # noqa: PT017 - most of them are refused
        else:
            looked_at += 1
            failures.failed("203.0.113.1")
        failures.check("203.0.113.2")
        clock.now += 0.02
    assert looked_at == 300


@given(st.lists(st.tuples(st.floats(0, 30), st.sampled_from(["203.0.113.1", "203.0.113.2"])), max_size=80))
def test_no_minute_has_more_failures_than_allowed_and_no_refusal_is_early(steps: list[tuple[float, str]]) -> None:
    clock = Clock()
    failures = FailedCredentials(4, clock)
    failed: dict[str, list[float]] = {"203.0.113.1": [], "203.0.113.2": []}
    for wait, address in steps:
        clock.now += wait
        recent = [at for at in failed[address] if at > clock.now - WINDOW_SECONDS]
        if len(recent) < 4:
            failures.check(address)
            failures.failed(address)
            failed[address].append(clock.now)
            continue
        with pytest.raises(ApiError) as refused:
            failures.check(address)
        # When it says so, and not before, there is room again.
        assert refused.value.retry_after == pytest.approx(recent[0] + WINDOW_SECONDS - clock.now)
