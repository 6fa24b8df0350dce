"""What becomes of a canary: a state machine over what was seen. Pure, so that every path is tested without a cluster.

``Starting`` (pods are not ready) -> ``Progressing`` (step by step) -> ``Passed`` (waits for its user). From each of
them to ``RolledBack``, which is final for this version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Literal

from sluice_operator.service import CanaryPlan
from sluice_operator.spec import Canary, Rules, Step

Phase = Literal["Starting", "Progressing", "Passed", "RolledBack"]


class Pods(Enum):
    """The canary's pods, as its Deployment sees them."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class Seen:
    """What the metrics say about the canary in the window. A rate or ratio of nothing is None."""

    requests: float
    success_rate: float | None
    latency_ratio: float | None


@dataclass(frozen=True)
class State:
    """Where the canary is. ``since`` is when its step, or the roll-back, began."""

    version: str
    phase: Phase
    since: datetime
    step: int = 0
    reason: str = "Starting"
    message: str = ""

    @classmethod
    def read(cls, status: Mapping[str, Any]) -> State | None:
        """From ``status.canary``; None when there is none, or not one of ours."""
        raw = status.get("canary") or {}
        try:
            return cls(
                raw["version"], raw["phase"], datetime.fromisoformat(raw["since"]), int(raw["step"]),
                raw["reason"], raw["message"],
            )  # fmt: skip
        except (KeyError, ValueError):
            return None

    def write(self) -> dict[str, Any]:
        """As ``status.canary``."""
        since = self.since.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return {
            "version": self.version, "phase": self.phase, "since": since, "step": self.step,
            "reason": self.reason, "message": self.message,
        }  # fmt: skip


def steps(canary: Canary) -> list[Step]:
    """Its weights in turn; one when none are listed."""
    return canary.steps or [Step(weight=canary.weight)]


def broken(rules: Rules, seen: Seen) -> str | None:
    """Which rule the canary breaks, with figures; None for none, or too few requests to say."""
    if seen.requests < rules.min_requests:
        return None
    if seen.success_rate is not None and seen.success_rate < rules.min_success_rate:
        return f"success rate {seen.success_rate:.4f} of {seen.requests:.0f} requests is below {rules.min_success_rate}"
    limit = rules.max_latency_ratio
    if limit is not None and seen.latency_ratio is not None and seen.latency_ratio > limit:
        return f"{rules.latency} is {seen.latency_ratio:.2f} times that of the stable pods, above {limit}"
    return None


def advance(canary: Canary, state: State | None, pods: Pods, seen: Seen | None, now: datetime) -> State:
    """The next state. ``seen`` is None when the metrics could not be asked: then nothing is concluded."""
    if state is None or state.version != canary.version:
        return State(canary.version, "Starting", now, message="its pods are starting")
    if state.phase == "RolledBack":
        return state
    if pods is Pods.FAILED:
        return State(canary.version, "RolledBack", now, state.step, "NotReady", "its pods did not become ready in time")
    if state.phase == "Starting":
        if pods is not Pods.READY:
            return state
        return State(canary.version, "Progressing", now, 0, "Judged", "its pods are ready")
    if seen is None:
        return replace(state, reason="MetricsUnavailable", message="the metrics could not be asked: it stays as it is")
    wrong = broken(canary.rules, seen)
    if wrong is not None:
        return State(canary.version, "RolledBack", now, state.step, "RuleBroken", wrong)
    message = f"{seen.requests:.0f} requests in the window"
    if seen.requests < canary.rules.min_requests:
        return replace(state, reason="TooFewRequests", message=f"{message}, {canary.rules.min_requests} are needed")
    held = replace(state, reason="Judged", message=message)
    # The list may have become shorter meanwhile.
    step = min(state.step, len(steps(canary)) - 1)
    if state.phase == "Passed" or (now - state.since).total_seconds() < steps(canary)[step].seconds:
        return held
    if step + 1 < len(steps(canary)):
        return replace(held, step=step + 1, since=now)
    return replace(held, phase="Passed", step=step, since=now)


def plan(canary: Canary, state: State, stable: int) -> CanaryPlan | None:
    """What the canary is to have beside ``stable`` pods; None for nothing any more.

    Its pods come on top of the stable ones, so that those keep their capacity (and their autoscaler its say).
    """
    if state.phase == "RolledBack":
        return None
    weight = steps(canary)[min(state.step, len(steps(canary)) - 1)].weight
    # The whole number of pods whose share is nearest; half is rounded up.
    replicas = max(1, int(stable * weight / (100 - weight) + 0.5))
    return CanaryPlan(0 if state.phase == "Starting" else weight, replicas)
