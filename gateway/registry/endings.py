"""How a request of an arm ended, as far as it says something of the version that answered it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

Ending = Literal["succeeded", "failed", "refused", "cancelled"]
"""``refused``: for a reason that is the caller's or the deployment's, not the version's."""

ArmEnded = Callable[[str, Ending, float], None]
"""Told of every request of an arm: the arm, the ending, and the seconds that it took."""

#: Faults that would have met any version: nobody's queue, guard or shutdown is a version's fault.
_NOT_THE_VERSIONS: Final = frozenset(
    {
        "shutting_down",
        "engine_overloaded",
        "queue_timeout",
        "guardian_unavailable",
        "content_policy_violation",
        "store_unavailable",
        "auth_unavailable",
        "limits_unavailable",
        # In the middle of a stream:
        "invalid_api_key",
    }
)


def ending_of(outcome: str, status: int, code: str | None, *, own_deadline: bool = False) -> Ending:
    """``outcome``, ``status`` and ``code`` are those of the access log. A stream that broke has status 200.

    ``own_deadline``: the caller set one, so that it passed says nothing.
    """
    if outcome == "completed":
        return "succeeded"
    if outcome == "cancelled":
        return "cancelled"
    if 400 <= status < 500 or code in _NOT_THE_VERSIONS or (own_deadline and code == "deadline_exceeded"):
        return "refused"
    return "failed"
