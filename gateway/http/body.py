"""One request body on its way from the socket to the application."""

from __future__ import annotations

from gateway.errors import too_large
from gateway.http.bounds import HttpBounds
from gateway.http.chunked import ChunkedDecoder
from gateway.http.head import RequestHead


class RequestBody:
    """Counts, decodes and holds a body. Sizes in bytes.

    ``received`` is what came from the peer after decoding, ``unread`` what the application has not taken yet.
    ``limit`` is enforced from the moment the application first asks for the body (:meth:`open`), because it may
    set its own limit until then; before that, back pressure bounds what is held. A ``patient`` one is judged by what
    came since it was last ``marked``.
    """

    __slots__ = ("_decoder", "_length", "_opened", "_parts", "complete", "limit", "marked", "patient",
                 "received", "unread")  # fmt: skip

    def __init__(self, head: RequestHead, bounds: HttpBounds) -> None:
        self.complete = not head.has_body
        self.limit = bounds.max_body_bytes
        self.received = 0
        self.marked = 0
        self.patient = False
        self.unread = 0
        self._opened = False
        self._parts: list[bytes] = []
        self._length = head.content_length or 0
        self._decoder = ChunkedDecoder(bounds, self._append) if head.chunked else None

    @property
    def chunked(self) -> bool:
        """Whether the peer framed it by chunks, so that its end shows only when it is there."""
        return self._decoder is not None

    @property
    def announced(self) -> int:
        """How big the body will be at least."""
        return self._decoder.announced if self._decoder else self._length

    def discardable(self, limit: int) -> bool:
        """Whether the rest is known to be so small that reading it costs less than a new connection."""
        return self._decoder is None and self._length - self.received <= limit

    def open(self) -> None:
        """The application asks for the body. Raises 413 if it is known to be too big."""
        self._opened = True
        self._check_limit()

    def feed(self, data: bytes) -> bytes:
        """Take what belongs to the body and return the rest. Raises :class:`ApiError`."""
        if self._decoder:
            rest = self._decoder.feed(data)
            self.complete = self._decoder.complete
            self._check_limit()
            return rest
        missing = self._length - self.received
        self._append(data if len(data) <= missing else data[:missing])
        self.complete = self.received == self._length
        return data[missing:]

    def take(self) -> bytes:
        """Everything held, which is then no longer held."""
        parts, self._parts = self._parts, []
        self.unread = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def drop(self) -> None:
        """Forget what is held."""
        self._parts.clear()
        self.unread = 0

    def _append(self, data: bytes) -> None:
        self._parts.append(data)
        self.received += len(data)
        self.unread += len(data)

    def _check_limit(self) -> None:
        if self._opened and self.announced > self.limit:
            raise too_large(self.limit)
