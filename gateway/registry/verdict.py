"""What becomes of a canary's step, from what is known of both versions. Nothing here reads a clock or a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.registry.names import Canary
from gateway.registry.outcomes import Tally

#: Requests of the champion that a comparison of latencies needs; with fewer, those of the step before count.
COMPARED: Final = 10
#: So that 1 - 0.9 of 10 requests is one.
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be said yet."""


@dataclass(frozen=True, slots=True)
class Pass:
    """On to the next step. ``champion_seconds``: the champion's median, for steps in which it gets too few requests."""

    champion_seconds: float | None


@dataclass(frozen=True, slots=True)
class Fail:
    """Back to the champion."""

    reason: str


Verdict = Wait | Pass | Fail


def judge(canary: Canary, champion: Tally, challenger: Tally, elapsed: float) -> Verdict:
    """``elapsed``: seconds since the step began.

    Too many failures end it at once: as soon as ``min_requests`` could not have the success rate any more.
    """
    rules = canary.rules
    allowed = (1 - rules.min_success_rate) * max(challenger.total, rules.min_requests) + _ROUNDING
    if challenger.failed > allowed:
        wanted = f"at least {rules.min_success_rate:.4g} must succeed"
        return Fail(f"{challenger.failed} of {challenger.total} requests failed, {wanted}")
    if challenger.total < rules.min_requests:
        return Wait()
    base = champion.median() if champion.succeeded >= COMPARED else canary.champion_seconds
    ours = challenger.median()
    if rules.max_latency_ratio is not None and base and ours and ours > rules.max_latency_ratio * base:
        bound = f"at most {rules.max_latency_ratio:.4g} times as long is allowed"
        return Fail(f"the median request takes {ours:.2g} s, that of the active version {base:.2g} s; {bound}")
    return Wait() if elapsed < rules.min_seconds else Pass(base)
