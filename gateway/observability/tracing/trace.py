"""What one request's trace collects until the request ends."""

from __future__ import annotations

import random
import time
from typing import Final

from gateway.observability.tracing.parent import Parent
from gateway.observability.tracing.span import RecordedSpan

#: An agent of many steps must not fill the queue by itself.
MAX_SPANS: Final = 512


class Trace:
    """Spans that have ended. ``left_out``: how many more there were. Use from one event loop until it is closed."""

    __slots__ = ("_closed", "_monotonic", "_wall", "id", "left_out", "number", "parent", "spans")

    def __init__(self, trace_id: int, parent: Parent | None) -> None:
        self.number = trace_id
        self.id = f"{trace_id:032x}"
        self.parent = parent
        self.spans: list[RecordedSpan] = []
        self.left_out = 0
        self._closed = False
        self._monotonic = time.monotonic()
        self._wall = time.time_ns()

    def new_span_id(self) -> int:
        """An id that is not 0."""
        return random.getrandbits(64) or 1

    def keep(self, span: RecordedSpan) -> None:
        """Take a span that has ended; after the end of the trace nobody would see it any more."""
        if self._closed:
            return
        if len(self.spans) < MAX_SPANS:
            self.spans.append(span)
        else:
            self.left_out += 1

    def close(self, root: RecordedSpan) -> None:
        """Take the last span, whatever the bound, and nothing any more."""
        self.spans.append(root)
        self._closed = True

    def nanoseconds(self, moment: float) -> int:
        """``moment`` (``time.monotonic``) as nanoseconds since 1970: one anchor per trace, so that no span is torn."""
        return self._wall + round((moment - self._monotonic) * 1e9)
