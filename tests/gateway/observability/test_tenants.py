"""Tenants' series: bounded, growing only, and together the whole."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.observability.tenants import OTHER, REVIEW_SECONDS, TenantMetrics


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def series(metrics: TenantMetrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in metrics.collect()
        for sample in family.samples
    }


def shown(metrics: TenantMetrics) -> set[str]:
    return {key[1] for key in series(metrics)}


def test_a_tenant_has_tokens_requests_and_cost() -> None:
    metrics = TenantMetrics()
    metrics.used("a", 10, 4, 7, 2_500_000_000)
    metrics.used("a", 1, 0, 1, None)
    metrics.finished("a", "completed")
    metrics.finished("a", "rejected")
    found = series(metrics)
    assert found["sluice_tenant_tokens_total", "a", "prompt"] == 11
    assert found["sluice_tenant_tokens_total", "a", "cached"] == 4
    assert found["sluice_tenant_tokens_total", "a", "completion"] == 8
    assert found["sluice_tenant_requests_total", "a", "completed"] == 1
    assert found["sluice_tenant_requests_total", "a", "rejected"] == 1
    assert found["sluice_tenant_cost_total", "a"] == 2.5


def test_more_tenants_than_places_share_one_series() -> None:
    metrics = TenantMetrics(shown=2)
    for number in range(100):
        metrics.used(f"t{number}", 1, 0, 0, None)
    assert shown(metrics) == {"t0", "t1", OTHER}
    assert series(metrics)["sluice_tenant_tokens_total", OTHER, "prompt"] == 98


def test_who_becomes_busy_rises_and_who_was_long_ago_falls() -> None:
    clock = Clock()
    metrics = TenantMetrics(shown=1, clock=clock)
    metrics.used("old", 1000, 0, 0, None)
    metrics.used("new", 900, 0, 0, None)
    assert shown(metrics) == {"old", OTHER}
    clock.now += 3600
    metrics.used("new", 100, 0, 0, None)
    clock.now += REVIEW_SECONDS
    metrics.used("new", 1, 0, 0, None)
    assert shown(metrics) == {"new", OTHER}, "what was used an hour ago counts half: 500 against 450 and 100"


def test_a_tenant_called_as_the_rest_is_among_the_rest() -> None:
    metrics = TenantMetrics()
    metrics.used(OTHER, 5, 0, 0, None)
    assert series(metrics)["sluice_tenant_tokens_total", OTHER, "prompt"] == 5


def test_the_forgotten_cost_no_memory() -> None:
    clock = Clock()
    metrics = TenantMetrics(shown=2, remembered=10, clock=clock)
    for number in range(1000):
        metrics.used(f"t{number}", number, 0, 0, None)
        clock.now += REVIEW_SECONDS
    assert len(metrics._scores) <= 11
    assert len(metrics._hidden) <= 11


uses = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 1000), st.integers(0, 1000), st.sampled_from([0.0, 30.0, 7200.0])),
    max_size=120,
)


@given(uses)
def test_no_series_falls_and_together_they_are_the_whole(history: list[tuple[int, int, int, float]]) -> None:
    clock = Clock()
    metrics = TenantMetrics(shown=3, remembered=100, clock=clock)
    whole: Counter[str] = Counter()
    last: dict[tuple[str, ...], float] = {}
    for tenant, prompt, completion, pause in history:
        clock.now += pause
        metrics.used(f"t{tenant}", prompt, 0, completion, None)
        metrics.finished(f"t{tenant}", "completed")
        whole.update(prompt=prompt, completion=completion, requests=1)
        now = series(metrics)
        assert all(now[key] >= value for key, value in last.items() if key in now)
        last |= now
        assert len(shown(metrics)) <= 4
    tokens = {kind: sum(value for key, value in last.items() if key[-1] == kind) for kind in ("prompt", "completion")}
    assert tokens == {"prompt": whole["prompt"], "completion": whole["completion"]}
    assert sum(value for key, value in last.items() if key[-1] == "completed") == whole["requests"]
