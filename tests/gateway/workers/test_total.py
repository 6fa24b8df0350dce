from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from engine.types import EngineState, Phase
from gateway.observability.metrics import Metrics
from gateway.workers.messages import Counted
from gateway.workers.total import Total


def shown(total: Total) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(total.text().decode())
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def value(total: Total, name: str, **labels: str) -> float:
    return shown(total)[name, frozenset(labels.items())]


class Process:
    """What one worker counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("sluice_requests", "x", ["route"], registry=self.registry)
        self.seconds = Histogram("sluice_queue_seconds", "x", buckets=(1, 2), registry=self.registry)
        self.waiting = Gauge("sluice_engine_waiting", "x", registry=self.registry)
        self.connections = Gauge("sluice_connections", "x", registry=self.registry)
        self.store = Gauge("sluice_store_available", "x", registry=self.registry)
        self.keys = Gauge("sluice_keys_known", "x", registry=self.registry)

    def counted(self, told_at: float = 0.0) -> Counted:
        return Counted(list(self.registry.collect()), told_at)


def test_what_is_counted_adds_up_and_what_is_seen_alike_does_not() -> None:
    one, two, total = Process(), Process(), Total()
    for process, count in ((one, 2), (two, 3)):
        process.requests.labels("/chat").inc(count)
        process.seconds.observe(count)
        process.connections.set(count)
        process.keys.set(7)
    one.waiting.set(5)
    two.waiting.set(1)
    one.store.set(1)
    total.told(0, one.counted(told_at=1.0))
    total.told(1, two.counted(told_at=2.0))
    assert value(total, "sluice_requests_total", route="/chat") == 5
    assert value(total, "sluice_queue_seconds_bucket", le="2.0") == 1
    assert value(total, "sluice_queue_seconds_bucket", le="+Inf") == 2
    assert value(total, "sluice_queue_seconds_sum") == 5
    assert value(total, "sluice_connections") == 5
    assert value(total, "sluice_engine_waiting") == 1, "the engine's last word"
    assert value(total, "sluice_store_available") == 0
    assert value(total, "sluice_keys_known") == 7


@given(st.lists(st.tuples(st.sampled_from(("count", "told", "die")), st.integers(0, 2)), max_size=60))
def test_no_counter_that_was_seen_ever_falls(story: list[tuple[str, int]]) -> None:
    workers, total, seen = {index: Process() for index in range(3)}, Total(), 0.0
    for what, index in story:
        if what == "count":
            workers[index].requests.labels("/chat").inc()
        elif what == "told":
            total.told(index, workers[index].counted())
        else:
            total.died(index)
            workers[index] = Process()
        now = shown(total).get(("sluice_requests_total", frozenset({("route", "/chat")})), 0.0)
        assert now >= seen
        seen = now


def test_a_dead_worker_leaves_its_counts_and_takes_its_gauges() -> None:
    one, total = Process(), Total()
    one.requests.labels("/chat").inc(4)
    one.connections.set(9)
    total.told(0, one.counted())
    total.died(0)
    total.told(0, Process().counted())
    assert value(total, "sluice_requests_total", route="/chat") == 4
    assert value(total, "sluice_connections") == 0


def test_a_real_processs_metrics_keep_their_names_and_labels() -> None:
    metrics, total = Metrics(), Total()
    metrics.request_finished("/v1/chat/completions", 200, "completed", None, 0.1)
    metrics.engine_state(EngineState(Phase.READY, 1, 2, 3, 0.5, 0))
    total.told(0, Counted(metrics.families(), 1.0))
    alone = {line.split(" ")[0] for line in metrics.exposition()[1].decode().splitlines()}
    assert {line.split(" ")[0] for line in total.text().decode().splitlines()} == alone
