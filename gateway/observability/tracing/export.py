"""Takes finished traces to the collector, on a thread of its own: a collector that is away or slow holds nobody up.

What waits is bounded. What does not fit, what the collector does not take and what is left at the end is dropped and
counted.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final, Literal, Protocol

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from gateway.observability.tracing.span import Kind, RecordedSpan
from gateway.observability.tracing.trace import Trace

log = logging.getLogger("sluice.tracing")

Reason = Literal["queue_full", "export_failed", "trace_too_large", "shutdown"]

#: Seconds between batches that are not full.
INTERVAL: Final = 1.0
#: Spans of one request to the collector.
BATCH: Final = 512
_KINDS: Final = {Kind.SERVER: SpanKind.SERVER, Kind.INTERNAL: SpanKind.INTERNAL}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_UNSET: Final = Status(StatusCode.UNSET)
_FAILED: Final = Status(StatusCode.ERROR)


class ExportObserver(Protocol):
    """Told from any thread."""

    def spans_exported(self, count: int) -> None:
        """The collector took ``count`` spans."""

    def spans_dropped(self, count: int, reason: Reason) -> None:
        """``count`` spans are lost."""


class TraceExport:
    """``capacity``: spans that may wait. ``close`` before the process ends."""

    def __init__(
        self,
        exporter: SpanExporter,
        resource: Resource,
        scope: InstrumentationScope,
        observer: ExportObserver,
        *,
        capacity: int,
        interval: float = INTERVAL,
    ) -> None:
        self._exporter = exporter
        self._resource = resource
        self._scope = scope
        self._observer = observer
        self._capacity = capacity
        self._interval = interval
        self._queue: deque[Trace] = deque()
        self._waiting = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._closed = False
        self._away = False
        self._thread = threading.Thread(target=self._run, name="sluice-traces", daemon=True)

    def start(self) -> None:
        """Begin to export."""
        self._thread.start()

    def put(self, trace: Trace) -> None:
        """Queue a trace that is closed; never blocks."""
        if trace.left_out:
            self._observer.spans_dropped(trace.left_out, "trace_too_large")
        count = len(trace.spans)
        with self._lock:
            reason = self._refusal(count)
            if reason is None:
                self._queue.append(trace)
                self._waiting += count
        if reason is not None:
            self._observer.spans_dropped(count, reason)
        elif self._waiting >= BATCH:
            self._wake.set()

    def _refusal(self, count: int) -> Reason | None:
        if self._closing:
            return "shutdown"
        return "queue_full" if self._waiting + count > self._capacity else None

    def close(self, timeout: float) -> None:
        """Send what waits, for at most ``timeout`` seconds (blocks); the rest is dropped. Idempotent."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        with self._lock:
            self._closed = True  # what the collector says of a batch from now on comes too late
            left, self._waiting = self._waiting, 0
            self._queue.clear()
        if left:
            self._observer.spans_dropped(left, "shutdown")
        self._exporter.shutdown()

    # -- on the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(self._interval)
            self._wake.clear()
            self._send_all()
        self._send_all()

    def _send_all(self) -> None:
        while batch := self._next():
            self._settle(len(batch), taken=self._send(batch))

    def _next(self) -> Sequence[tuple[Trace, RecordedSpan]]:
        batch: list[tuple[Trace, RecordedSpan]] = []
        with self._lock:
            while self._queue and len(batch) < BATCH:
                trace = self._queue.popleft()
                batch += [(trace, span) for span in trace.spans]
        return batch

    def _send(self, batch: Sequence[tuple[Trace, RecordedSpan]]) -> bool:
        try:
            result = self._exporter.export([self._readable(trace, span) for trace, span in batch])
        except Exception as error:  # noqa: BLE001 - whatever it is, the next batch may go through
            log.debug("a batch of spans was not sent: %s", type(error).__name__)
            return False
        return result is SpanExportResult.SUCCESS

    def _settle(self, count: int, *, taken: bool) -> None:
        """What was on its way counted as waiting: a slow collector must not let more in than fits."""
        with self._lock:
            if self._closed:
                return
            self._waiting -= count
        if taken:
            self._observer.spans_exported(count)
        else:
            self._observer.spans_dropped(count, "export_failed")
        self._tell(away=not taken)

    def _tell(self, *, away: bool) -> None:
        if away and not self._away:
            log.warning("the trace collector does not take spans: they are dropped")
        elif self._away and not away:
            log.warning("the trace collector takes spans again")
        self._away = away

    def _readable(self, trace: Trace, span: RecordedSpan) -> ReadableSpan:
        end = span.began_at if span.ended_at is None else span.ended_at
        return ReadableSpan(
            name=span.name,
            context=SpanContext(trace.number, span.span_id, is_remote=False, trace_flags=_SAMPLED),
            parent=_parent(trace, span),
            resource=self._resource,
            attributes=span.attributes,
            kind=_KINDS[span.kind],
            status=_FAILED if span.failed else _UNSET,
            start_time=trace.nanoseconds(span.began_at),
            end_time=trace.nanoseconds(end),
            instrumentation_scope=self._scope,
        )


def _parent(trace: Trace, span: RecordedSpan) -> SpanContext | None:
    if span.parent_id is None:
        return None
    remote = trace.parent is not None and span.parent_id == trace.parent.span_id
    return SpanContext(trace.number, span.parent_id, is_remote=remote, trace_flags=_SAMPLED)
