"""What the gateway may do with the connection under a request, beyond ASGI."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, Final, Protocol

from gateway.errors import ApiError

Scope = MutableMapping[str, Any]

EXTENSION: Final = "sluice.connection"


class ResponseStream(Protocol):
    """The response of one request, written without awaiting: made for deltas pushed from the engine.

    Use either this or ASGI's ``send`` for one response. All methods are synchronous and must be called on the
    event loop. ``write``, ``flush``, ``finish`` and ``abort`` never raise and do nothing after the end.
    """

    body_limit: int
    """Bytes a request body may have; settable until the first ``receive()``."""

    body_patience: bool
    """The body has no time by which it must be whole, only a least rate; settable until the first ``receive()``."""

    close_after: bool
    """Close the connection after this response."""

    on_resume: Callable[[], None] | None
    """Called each time the send buffer has drained after ``paused`` was True."""

    on_disconnect: Callable[[], None] | None
    """Called once if the peer goes before the end of the response; at once if it is already gone when set."""

    error_body: Callable[[ApiError], bytes] | None
    """Writes the body of an error that the front answers by itself; None: as OpenAI does."""

    @property
    def request_id(self) -> str:
        """The id of this request, chosen once: the client's if it is acceptable, else a UUIDv4."""

    @property
    def paused(self) -> bool:
        """The send buffer is above its mark: hold back until ``on_resume``, or the peer may be cut."""

    @property
    def disconnected(self) -> bool:
        """The peer is gone or was cut; nothing written now is sent."""

    @property
    def rejection(self) -> ApiError | None:
        """What the front answered by itself instead of the application (408, 413, 400 in a body), for the log."""

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Set status and lower-case headers. They are sent with the first bytes of the body or by ``flush``.

        Framing, ``date`` and ``connection`` belong to the front: a ``content-length`` given here is kept to, without
        one the body is chunked, or gets its length if ``finish`` is the first to send. Raises ValueError for headers
        that are not valid, RuntimeError when called twice.
        """

    def flush(self) -> None:
        """Send the head now."""

    def write(self, data: bytes) -> None:
        """Send one piece of the body."""

    def finish(self, data: bytes = b"") -> None:
        """Send the last piece and end the response; the connection is ready for the next request."""

    def abort(self) -> None:
        """Drop the connection now, so that the peer can see that the response is not whole."""


def response_stream(scope: Scope) -> ResponseStream:
    """The response stream of the request with this ASGI scope. Raises KeyError under another server."""
    stream: ResponseStream = scope["extensions"][EXTENSION]
    return stream
