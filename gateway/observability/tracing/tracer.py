"""Begins a trace for each request and hands it on when the request ends."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from gateway.observability.tracing.parent import Parent, parent_of
from gateway.observability.tracing.span import NO_SPAN, Kind, RecordedSpan, Span, UnsampledSpan
from gateway.observability.tracing.trace import Trace

Headers = Iterable[tuple[bytes, bytes]]

#: Seconds that the last spans may take to leave.
LAST_SECONDS: Final = 2.0


class Export(Protocol):
    """Where finished traces go."""

    def start(self) -> None:
        """Begin."""

    def put(self, trace: Trace) -> None:
        """Take one; never blocks."""

    def close(self, timeout: float) -> None:
        """Send what waits; blocks for at most ``timeout`` seconds. Idempotent."""


class Tracer(Protocol):
    """See :class:`gateway.lifecycle.Service` for ``start``, ``stop`` and ``degraded``."""

    def begin(self, headers: Headers, received: float) -> Span:
        """The span of a request with ``headers`` that came at ``received`` (``time.monotonic``)."""

    async def start(self) -> None:
        """See :class:`gateway.lifecycle.Service`."""

    async def stop(self) -> None:
        """See :class:`gateway.lifecycle.Service`."""

    def degraded(self) -> Sequence[str]:
        """See :class:`gateway.lifecycle.Service`."""


class Untraced:
    """The deployment that names no collector."""

    def begin(self, headers: Headers, received: float) -> Span:  # noqa: ARG002 - the interface
        """See :class:`Tracer`."""
        return NO_SPAN

    async def start(self) -> None:
        """See :class:`gateway.lifecycle.Service`."""

    async def stop(self) -> None:
        """See :class:`gateway.lifecycle.Service`."""

    def degraded(self) -> Sequence[str]:
        """See :class:`gateway.lifecycle.Service`."""
        return ()


class RootSpan(RecordedSpan):
    """The span of the whole request: with it the trace is complete."""

    __slots__ = ("_hand_on",)

    def __init__(self, trace: Trace, parent: Parent | None, received: float, hand_on: Callable[[Trace], None]) -> None:
        super().__init__(trace, "request", parent.span_id if parent else None, Kind.SERVER, received)
        self._hand_on = hand_on

    def end(self) -> None:
        """See :class:`Span`."""
        if self.ended_at is None:
            self.ended_at = time.monotonic()
            self._trace.close(self)
            self._hand_on(self._trace)


class RecordingTracer:
    """``keeps(trace_id)`` decides on traces that begin here; others are kept if their parent is."""

    def __init__(self, keeps: Callable[[int], bool], export: Export) -> None:
        self._keeps = keeps
        self._export = export

    def begin(self, headers: Headers, received: float) -> Span:
        """See :class:`Tracer`."""
        parent = parent_of(headers)
        trace_id = parent.trace_id if parent else random.getrandbits(128) or 1
        if not (parent.sampled if parent else self._keeps(trace_id)):
            return UnsampledSpan(trace_id)
        return RootSpan(Trace(trace_id, parent), parent, received, self._export.put)

    async def start(self) -> None:
        """See :class:`gateway.lifecycle.Service`."""
        self._export.start()

    async def stop(self) -> None:
        """See :class:`gateway.lifecycle.Service`. What waits is sent, within :data:`LAST_SECONDS`."""
        await asyncio.get_running_loop().run_in_executor(None, self._export.close, LAST_SECONDS)

    def degraded(self) -> Sequence[str]:
        """A collector that is away costs traces, and nobody an answer."""
        return ()
