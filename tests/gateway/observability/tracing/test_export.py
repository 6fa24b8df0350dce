"""What becomes of spans where the collector does not do its part: bounded, counted, and nobody waits."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from gateway.observability.tracing.export import TraceExport
from gateway.observability.tracing.trace import MAX_SPANS, Trace
from gateway.observability.tracing.tracer import RecordingTracer


class Counts:
    def __init__(self) -> None:
        self.exported = 0
        self.dropped: Counter[str] = Counter()

    def spans_exported(self, count: int) -> None:
        self.exported += count

    def spans_dropped(self, count: int, reason: str) -> None:
        self.dropped[reason] += count


class Exporter(SpanExporter):
    """Holds each batch until it is told to go on, if it is told to hold."""

    def __init__(self, *, hold: bool = False) -> None:
        self.result = SpanExportResult.SUCCESS
        self.error: Exception | None = None
        self.batches: list[int] = []
        self.holding = threading.Event()
        self.go_on = threading.Event()
        if not hold:
            self.go_on.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.batches.append(len(spans))
        self.holding.set()
        self.go_on.wait(60.0)
        if self.error is not None:
            raise self.error
        return self.result


Make = Callable[[Exporter, int], TraceExport]


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture
def make(counts: Counts) -> Iterator[Make]:
    made: list[tuple[Exporter, TraceExport]] = []

    def build(exporter: Exporter, capacity: int) -> TraceExport:
        scope = InstrumentationScope("test", "1")
        export = TraceExport(exporter, Resource({}), scope, counts, capacity=capacity, interval=0.01)
        made.append((exporter, export))
        export.start()
        return export

    yield build
    for exporter, export in made:
        exporter.go_on.set()
        export.close(10.0)


def request(export: TraceExport, spans: int = 4) -> None:
    """A trace of ``spans`` spans, the request's own among them."""
    root = RecordingTracer(lambda _: True, export).begin([], time.monotonic())
    for _ in range(spans - 1):
        root.child("step").end()
    root.end()


def test_all_that_comes_is_sent_once(make: Make, counts: Counts) -> None:
    export = make(Exporter(), 8192)
    for _ in range(100):
        request(export)
    export.close(10.0)
    assert (counts.exported, counts.dropped) == (400, {})


def test_what_does_not_fit_is_dropped_and_counted(make: Make, counts: Counts) -> None:
    exporter = Exporter(hold=True)
    export = make(exporter, 40)
    request(export)
    assert exporter.holding.wait(10.0)
    for _ in range(100):
        request(export)
    assert counts.dropped == {"queue_full": 404 - 40}  # what is on its way counts as waiting
    exporter.go_on.set()
    export.close(10.0)
    assert counts.exported == 40


@pytest.mark.parametrize("error", [None, RuntimeError("no route")])
def test_what_is_not_taken_is_dropped_and_counted(make: Make, counts: Counts, error: Exception | None) -> None:
    exporter = Exporter()
    exporter.result, exporter.error = SpanExportResult.FAILURE, error
    export = make(exporter, 8192)
    for _ in range(10):
        request(export)
    export.close(10.0)
    assert (counts.exported, counts.dropped) == (0, {"export_failed": 40})


def test_the_end_does_not_wait_for_a_collector_that_hangs(make: Make, counts: Counts) -> None:
    exporter = Exporter(hold=True)
    export = make(exporter, 8192)
    request(export)
    assert exporter.holding.wait(10.0)
    request(export)
    export.close(0.05)
    assert counts.dropped == {"shutdown": 8}
    request(export)
    assert counts.dropped == {"shutdown": 12}
    exporter.go_on.set()
    export.close(10.0)
    assert counts.exported == 0


def test_one_request_has_a_bound(make: Make, counts: Counts) -> None:
    export = make(Exporter(), 8192)
    request(export, MAX_SPANS + 10)
    export.close(10.0)
    assert (counts.exported, counts.dropped) == (MAX_SPANS + 1, {"trace_too_large": 9})


def test_never_started_is_closed_all_the_same(counts: Counts) -> None:
    export = TraceExport(Exporter(), Resource({}), InstrumentationScope("test", "1"), counts, capacity=600)
    request(export)
    export.close(10.0)
    assert counts.dropped == {"shutdown": 4}


def test_times_of_a_trace_have_one_anchor() -> None:
    trace = Trace(1, None)
    now = time.monotonic()
    assert abs(trace.nanoseconds(now) - time.time_ns()) < 5_000_000_000
    assert trace.nanoseconds(now + 1.5) - trace.nanoseconds(now) == pytest.approx(1_500_000_000, abs=1000)
