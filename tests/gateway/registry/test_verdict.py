"""When a canary goes on, and when it goes back."""

from __future__ import annotations

from msgspec.structs import replace

from gateway.registry.names import Canary, Rules
from gateway.registry.outcomes import Counted, Tally
from gateway.registry.verdict import COMPARED, Fail, Pass, Wait, judge

RULES = Rules((10.0, 100.0), min_requests=20, min_seconds=60, min_success_rate=0.9, max_latency_ratio=1.5)
CANARY = Canary(2, RULES, epoch=1, since=0.0)
LONG = 1000.0


def tally(succeeded: int = 0, failed: int = 0, seconds: float = 0.1) -> Tally:
    counted = Counted()
    for _ in range(succeeded):
        counted.add("succeeded", seconds)
    for _ in range(failed):
        counted.add("failed", seconds)
    return counted.tally()


def test_it_waits_for_enough_requests_and_enough_time() -> None:
    assert judge(CANARY, tally(100), tally(19), LONG) == Wait()
    assert judge(CANARY, tally(100), tally(20), 59.0) == Wait()
    assert isinstance(judge(CANARY, tally(100), tally(20), 60.0), Pass)


def test_too_many_failures_end_it_as_soon_as_they_are_too_many() -> None:
    assert judge(CANARY, tally(100), tally(0, 2), 0.0) == Wait()
    assert isinstance(judge(CANARY, tally(100), tally(0, 3), 0.0), Fail)
    assert isinstance(judge(CANARY, tally(100), tally(18, 2), LONG), Pass)
    assert isinstance(judge(CANARY, tally(100), tally(900, 100), LONG), Pass)
    verdict = judge(CANARY, tally(100), tally(899, 101), LONG)
    assert isinstance(verdict, Fail)
    assert verdict.reason == "101 of 1000 requests failed, at least 0.9 must succeed"


def test_what_is_much_slower_than_the_active_version_goes_back() -> None:
    assert isinstance(judge(CANARY, tally(100, seconds=1.0), tally(20, seconds=1.2), LONG), Pass)
    verdict = judge(CANARY, tally(100, seconds=1.0), tally(20, seconds=2.0), 0.0)
    assert isinstance(verdict, Fail)
    assert "median" in verdict.reason
    careless = replace(CANARY, rules=replace(RULES, max_latency_ratio=None))
    assert isinstance(judge(careless, tally(100, seconds=1.0), tally(20, seconds=60.0), LONG), Pass)


def test_a_champion_without_requests_is_remembered_from_the_step_before() -> None:
    few = tally(COMPARED - 1, seconds=1.0)
    assert judge(CANARY, few, tally(20, seconds=60.0), LONG) == Pass(None)
    remembered = replace(CANARY, champion_seconds=1.0)
    assert isinstance(judge(remembered, few, tally(20, seconds=60.0), LONG), Fail)
    assert judge(remembered, few, tally(20, seconds=1.0), LONG) == Pass(1.0)
