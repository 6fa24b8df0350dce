"""One request and its answer: what routes and pipeline hold in their hands."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

from gateway.access.principal import Principal
from gateway.dialect import OPENAI, Dialect
from gateway.errors import ApiError, invalid, too_large
from gateway.http.connection import Scope, response_stream
from gateway.http.headers import SECURITY_HEADERS
from gateway.observability.tracing.span import NO_SPAN, Span
from gateway.protocol.encode import sse
from gateway.routing import Route
from gateway.usage.life import Life

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

#: Says which version of a public name answered.
ARM_HEADER: Final = b"x-sluice-arm"

#: Milliseconds that a caller gives its request.
DEADLINE_HEADER: Final = b"x-request-deadline-ms"

_JSON: Final = re.compile(rb"application/json\s*(;\s*charset\s*=\s*\"?utf-8\"?\s*)?\Z", re.IGNORECASE)
_EVENT_STREAM: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),
]


class Exchange:
    """A received request whose route is known. Times are ``time.monotonic`` values in seconds."""

    __slots__ = (
        "_interruption",
        "_receive",
        "_task",
        "adapter",
        "address",
        "arm",
        "error_code",
        "failed",
        "labels",
        "life",
        "model",
        "on_admitted",
        "path_rest",
        "principal",
        "rate_headers",
        "received",
        "request_id",
        "route",
        "scope",
        "span",
        "started",
        "status",
        "stream",
        "streaming",
        "tokens",
    )

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self._receive = receive
        self.received = time.monotonic()
        self.stream = response_stream(scope)
        self.request_id = self.stream.request_id
        self.route: Route | None = None
        self.path_rest = ""
        self.address = ""
        self.principal: Principal | None = None
        self.rate_headers: Sequence[tuple[bytes, bytes]] = ()
        self.model: str | None = None
        self.adapter: str | None = None
        #: The version of a public name that answers.
        self.arm: str | None = None
        #: Called when the request was admitted.
        self.on_admitted: Callable[[], None] | None = None
        self.labels: Mapping[str, str] = {}
        self.life: Life | None = None
        self.span: Span = NO_SPAN
        self.tokens: tuple[int, int] = (0, 0)
        self.streaming = False
        self.started = False
        self.status = 0
        self.error_code: str | None = None
        #: How a stream that has begun says that it failed.
        self.failed: Callable[[ApiError], bytes] = lambda error: sse(error.payload())
        self._task: asyncio.Task[Any] | None = None
        self._interruption: ApiError | None = None

    # -- the request --------------------------------------------------------------------------------------------

    def header(self, name: bytes) -> bytes | None:
        """The header of that (lower-case) name, without blanks around it.

        Several of one name are one list (RFC 9110, section 5.2), whatever another reader would take for it: so what may
        be there once only is then no good value.
        """
        found = [value.strip(b" \t") for key, value in self.scope["headers"] if key == name]
        return b", ".join(found) if found else None

    async def json_body(self, limit: int) -> bytes:
        """The whole body. Raises :class:`ApiError` 415 for other media, 413 beyond ``limit`` bytes."""
        if not _JSON.match(self.header(b"content-type") or b""):
            self._require_plain()
            raise ApiError(415, "Content-Type must be application/json in UTF-8.", code="unsupported_media_type")
        chunks = [chunk async for chunk in self.body(limit)]
        return b"".join(chunks) if len(chunks) != 1 else chunks[0]

    async def body(self, limit: int, *, patient: bool = False) -> AsyncIterator[bytes]:
        """The body in pieces, as it comes. Raises :class:`ApiError` 415 for coded ones, 413 beyond ``limit`` bytes.

        ``patient``: it may take any time, if it comes at the least rate all the while.
        """
        self._require_plain()
        self.stream.body_limit = limit
        self.stream.body_patience = patient
        size = 0
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError
            size += len(message["body"])
            if size > limit:
                raise too_large(limit)
            yield message["body"]
            more = message["more_body"]

    def _require_plain(self) -> None:
        if (self.header(b"content-encoding") or b"identity").lower() != b"identity":
            raise ApiError(415, "Send the body without Content-Encoding.", code="unsupported_content_encoding")

    def deadline(self, default: float) -> float:
        """Seconds this request may take: the server's bound, or less if the client asks for less.

        Raises :class:`ApiError` 400 for an ``X-Request-Deadline-Ms`` that is no positive number of milliseconds.
        """
        wanted = self.header(DEADLINE_HEADER)
        if wanted is None:
            return default
        if not re.fullmatch(rb"[1-9][0-9]{0,9}", wanted):
            raise invalid("X-Request-Deadline-Ms must be a positive number of milliseconds.", code="invalid_deadline")
        return min(default, int(wanted) / 1000)

    # -- the answer ---------------------------------------------------------------------------------------------

    def _head(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        elapsed = (time.monotonic() - self.received) * 1000
        return [
            *headers,
            *self.rate_headers,
            *((name, self.request_id.encode("ascii")) for name in self._dialect.request_id_headers),
            (b"openai-processing-ms", b"%d" % elapsed),
            *(() if self.arm is None else ((ARM_HEADER, self.arm.encode("ascii")),)),
            *SECURITY_HEADERS,
        ]

    def respond(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        """Send a whole answer (JSON unless ``headers`` say otherwise)."""
        self.started = True
        self.status = status
        head = headers if headers is not None else [(b"content-type", b"application/json")]
        self.stream.start(status, self._head(head))
        self.stream.finish(body)

    def begin_stream(self) -> None:
        """Start an event stream; does nothing the second time."""
        if not self.started:
            self.started = True
            self.status = 200
            self.stream.start(200, self._head(_EVENT_STREAM))

    @property
    def _dialect(self) -> Dialect:
        return OPENAI if self.route is None else self.route.dialect

    def error_body(self, error: ApiError) -> bytes:
        """``error`` as the clients of this route read it."""
        return self._dialect.error_body(error, self.request_id)

    def fail(self, error: ApiError) -> None:
        """Answer with ``error``: as a plain HTTP error, or as the last event of a stream that has begun."""
        self.error_code = error.code
        if self.stream.disconnected:
            return
        if not self.started:
            headers = error.headers()
            own = {name for name, _ in headers}
            self.rate_headers = [header for header in self.rate_headers if header[0] not in own]
            self.respond(error.status, self.error_body(error), headers)
        else:
            self.stream.close_after = True
            self.stream.finish(self.failed(error))

    # -- its end from outside -----------------------------------------------------------------------------------

    def bind(self, task: asyncio.Task[Any]) -> None:
        """``task`` handles this exchange: it is cancelled when the client goes away."""
        self._task = task
        self.stream.on_disconnect = self._disconnected

    def unbind(self) -> None:
        """The exchange is over: nothing can cancel its task any more."""
        self._task = None
        self.stream.on_disconnect = None

    def _disconnected(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def interrupt(self, error: ApiError) -> None:
        """End the exchange with ``error`` from outside (shutdown, a revoked key)."""
        if self._task is not None:
            self._interruption = error
            self._task.cancel()

    @property
    def accounted(self) -> Life | None:
        """The life of an admitted request; None if it was never admitted."""
        return self.life if self.life is not None and self.life.admitted_at is not None else None

    @property
    def interruption(self) -> ApiError | None:
        """Why the task was cancelled, if it was by :meth:`interrupt` and the client is still there."""
        return None if self.stream.disconnected else self._interruption
