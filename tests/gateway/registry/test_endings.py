from __future__ import annotations

import pytest

from gateway.registry.endings import Ending, ending_of


@pytest.mark.parametrize(
    ("outcome", "status", "code", "ending"),
    [
        ("completed", 200, None, "succeeded"),
        ("cancelled", 499, None, "cancelled"),
        ("rejected", 400, "invalid_value", "refused"),
        ("error", 400, "content_policy_violation", "refused"),
        ("error", 200, "content_policy_violation", "refused"),
        ("error", 503, "engine_overloaded", "refused"),
        ("error", 503, "shutting_down", "refused"),
        ("error", 500, "generation_failed", "failed"),
        ("error", 200, "generation_failed", "failed"),
        ("error", 503, "version_unavailable", "failed"),
        ("error", 503, "engine_unavailable", "failed"),
        ("error", 504, "deadline_exceeded", "failed"),
    ],
)
def test_what_says_something_of_a_version(outcome: str, status: int, code: str | None, ending: Ending) -> None:
    assert ending_of(outcome, status, code) == ending


def test_a_deadline_of_the_callers_own_says_nothing() -> None:
    assert ending_of("error", 504, "deadline_exceeded", own_deadline=True) == "refused"
    assert ending_of("error", 500, "generation_failed", own_deadline=True) == "failed"
