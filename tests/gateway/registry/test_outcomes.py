from __future__ import annotations

import statistics

from hypothesis import given
from hypothesis import strategies as st

from gateway.registry import acts
from gateway.registry.names import Name, Rules, Version
from gateway.registry.outcomes import BOUNDS, Counted, Outcomes, Tally
from gateway.registry.table import RoutingTable

durations = st.floats(BOUNDS[0], BOUNDS[-1])


def counted(seconds: list[float]) -> Tally:
    made = Counted()
    for each in seconds:
        made.add("succeeded", each)
    return made.tally()


@given(st.lists(durations, min_size=1, max_size=50))
def test_the_median_is_true_to_a_tenth(seconds: list[float]) -> None:
    median = counted(seconds).median()
    assert median is not None
    assert 0.9 <= median / statistics.median_low(seconds) <= 1.11


@given(st.lists(durations, max_size=20), st.lists(durations, max_size=20))
def test_sums_over_replicas_are_what_one_would_have_counted(here: list[float], there: list[float]) -> None:
    assert counted(here).plus(counted(there)) == counted(here + there)


def test_nothing_has_no_median() -> None:
    assert Tally().median() is None
    assert Tally(failed=3).total == 3


def canary(name: str) -> Name:
    made = Name(name, "00" * 32)
    for _ in range(2):
        made, _version = acts.added(made, Version(0, "m"))
    rules = Rules((50.0,), min_requests=1, min_seconds=0, min_success_rate=1)
    return acts.canary_begun(acts.activated(made, 1), 2, rules, "user", 0.0)


def test_only_canaries_are_counted_and_forgotten_when_they_end() -> None:
    table = RoutingTable()
    name = canary("chat")
    table.replace([name, Name("idle", "00" * 32)], 1)
    outcomes = Outcomes(table)
    for ending in ("succeeded", "failed", "refused", "cancelled"):
        outcomes.ended("chat@2", ending, 0.2)
    outcomes.ended("idle@1", "failed", 0.2)
    outcomes.ended("nobody@1", "failed", 0.2)
    ((key, arms),) = outcomes.tallies().items()
    assert (key, arms[2].succeeded, arms[2].failed) == (("chat", 1), 1, 1)
    outcomes.forget_all_but([name])
    assert outcomes.tallies()
    outcomes.forget_all_but([acts.canary_stopped(name)])
    assert not outcomes.tallies()
