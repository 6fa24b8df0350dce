"""The errors the front itself answers with, before or instead of the application."""

from __future__ import annotations

from gateway.errors import SERVER, ApiError


def malformed(message: str) -> ApiError:
    """The bytes are not an HTTP/1.1 request; nothing after them on this connection can be trusted."""
    return ApiError(400, message, code="malformed_request", close=True)


def invalid_host() -> ApiError:
    """Host is missing, repeated, not a host, or not one of ours (RFC 9112 section 3.2)."""
    return ApiError(400, "The request needs exactly one valid Host header.", code="invalid_host", close=True)


def uri_too_long(limit: int) -> ApiError:
    """The target is over ``limit`` bytes."""
    return ApiError(414, f"The request target is longer than {limit} bytes.", code="uri_too_long", close=True)


def header_too_large(message: str) -> ApiError:
    """RFC 6585 section 5; ``message`` says which bound."""
    return ApiError(431, message, code="header_too_large", close=True)


def upgrade_not_supported() -> ApiError:
    """A WebSocket client would wait for 101 for ever if the header were ignored."""
    return ApiError(400, "WebSocket upgrades are not supported.", code="upgrade_not_supported", close=True)


def expectation_failed() -> ApiError:
    """RFC 9110 section 10.1.1."""
    return ApiError(417, "The only supported Expect is 100-continue.", code="expectation_failed", close=True)


def head_timeout() -> ApiError:
    """Part of a head came, then not the rest in time."""
    return ApiError(408, "The request header arrived too slowly.", code="request_timeout", close=True)


def too_many_connections() -> ApiError:
    """The connection limit is reached."""
    return ApiError(
        503,
        "The server has too many open connections. Try again later.",
        code="too_many_connections",
        type=SERVER,
        retry_after=1.0,
        close=True,
    )
