"""What a request's stages see of tracing. Without it they share one object that does nothing.

Times are ``time.monotonic`` seconds. Attributes say what was asked and what came of it, never what was written: no
text of a prompt, an answer, a tool or a credential is put into a span.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from gateway.errors import ApiError

if TYPE_CHECKING:
    from gateway.observability.tracing.trace import Trace

Value: TypeAlias = str | bool | int | float | Sequence[str]
Attributes: TypeAlias = Mapping[str, Value | None]

NOTHING: Final[Attributes] = MappingProxyType({})
ERROR_TYPE: Final = "error.type"
CANCELLED: Final = "cancelled"
#: Waits that are shorter are not worth a span: most requests find their adapter where it should be.
LEAST_WAIT: Final = 0.001


class Kind(enum.Enum):
    """Of a span: a request from outside, or our own work."""

    SERVER = "server"
    INTERNAL = "internal"


class Span(Protocol):
    """A stretch of a request's time; as a context manager it ends with its block, and fails with its exception."""

    @property
    def recording(self) -> bool:
        """Whether anybody will see it: if not, nothing needs to be put together for it."""

    @property
    def trace_id(self) -> str | None:
        """The trace it belongs to, as 32 hexadecimal digits."""

    @property
    def exemplar(self) -> dict[str, str] | None:
        """Labels that lead from a sample of a metric to this span; None if it is not recorded."""

    def rename(self, name: str) -> None:
        """It is called ``name``, as is known only now."""

    def child(self, name: str, attributes: Attributes = NOTHING, *, least: float = 0.0) -> Span:
        """A span within this one that begins now; it is forgotten if it takes less than ``least`` seconds."""

    def took(self, name: str, begin: float, end: float, attributes: Attributes = NOTHING) -> None:
        """A span within this one whose times are known."""

    def set(self, attributes: Attributes) -> None:
        """Add ``attributes``; those that are None are left out."""

    def fail(self, error_type: str) -> None:
        """It did not do what it was for."""

    def end(self) -> None:
        """It ends now. Idempotent."""

    def __enter__(self) -> Span: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class NoSpan:
    """Nobody looks: everything is one and the same object, and nothing is kept."""

    __slots__ = ()
    recording = False
    trace_id: str | None = None
    exemplar: dict[str, str] | None = None

    def rename(self, name: str) -> None:
        """See :class:`Span`."""

    def child(self, name: str, attributes: Attributes = NOTHING, *, least: float = 0.0) -> Span:  # noqa: ARG002
        """See :class:`Span`."""
        return self

    def took(self, name: str, begin: float, end: float, attributes: Attributes = NOTHING) -> None:
        """See :class:`Span`."""

    def set(self, attributes: Attributes) -> None:
        """See :class:`Span`."""

    def fail(self, error_type: str) -> None:
        """See :class:`Span`."""

    def end(self) -> None:
        """See :class:`Span`."""

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


NO_SPAN: Final[Span] = NoSpan()


class UnsampledSpan(NoSpan):
    """Of a trace that is not kept: only its id is known, for the log."""

    __slots__ = ("trace_id",)

    def __init__(self, trace_id: int) -> None:
        self.trace_id = f"{trace_id:032x}"


class RecordedSpan:
    """See :class:`Span`. ``ended_at`` is None while it lasts."""

    __slots__ = (
        "_least",
        "_trace",
        "attributes",
        "began_at",
        "ended_at",
        "failed",
        "kind",
        "name",
        "parent_id",
        "span_id",
    )

    recording = True

    def __init__(
        self, trace: Trace, name: str, parent_id: int | None, kind: Kind, began_at: float, least: float = 0.0
    ) -> None:
        self._trace = trace
        self._least = least
        self.name = name
        self.parent_id = parent_id
        self.span_id = trace.new_span_id()
        self.kind = kind
        self.began_at = began_at
        self.ended_at: float | None = None
        self.failed = False
        self.attributes: dict[str, Value] = {}

    @property
    def trace_id(self) -> str | None:
        """See :class:`Span`."""
        return self._trace.id

    @property
    def exemplar(self) -> dict[str, str] | None:
        """See :class:`Span`."""
        return {"trace_id": self._trace.id, "span_id": f"{self.span_id:016x}"}

    def rename(self, name: str) -> None:
        """See :class:`Span`."""
        self.name = name

    def child(self, name: str, attributes: Attributes = NOTHING, *, least: float = 0.0) -> Span:
        """See :class:`Span`."""
        span = RecordedSpan(self._trace, name, self.span_id, Kind.INTERNAL, time.monotonic(), least)
        span.set(attributes)
        return span

    def took(self, name: str, begin: float, end: float, attributes: Attributes = NOTHING) -> None:
        """See :class:`Span`."""
        span = RecordedSpan(self._trace, name, self.span_id, Kind.INTERNAL, begin)
        span.set(attributes)
        span.ended_at = max(begin, end)
        self._trace.keep(span)

    def set(self, attributes: Attributes) -> None:
        """See :class:`Span`."""
        for name, value in attributes.items():
            if value is not None:
                self.attributes[name] = value

    def fail(self, error_type: str) -> None:
        """See :class:`Span`."""
        self.failed = True
        self.attributes[ERROR_TYPE] = error_type

    def end(self) -> None:
        """See :class:`Span`."""
        if self.ended_at is None:
            self.ended_at = time.monotonic()
            if self.failed or self.ended_at - self.began_at >= self._least:
                self._trace.keep(self)

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.fail(error_type_of(error))
        self.end()


def error_type_of(error: BaseException) -> str:
    """The word for ``error``: our code, or the name of its class; never its message."""
    if isinstance(error, ApiError):
        return error.code or str(error.status)
    return CANCELLED if isinstance(error, asyncio.CancelledError) else type(error).__name__
