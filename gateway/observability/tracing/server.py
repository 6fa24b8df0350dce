"""The span of a whole request, by OpenTelemetry's conventions for HTTP servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.observability.logs import MAX_FIELD_CHARS, printable
from gateway.observability.tracing.span import Attributes

if TYPE_CHECKING:
    from gateway.exchange import Exchange

#: Statuses from here on are our fault, and make the span a failed one.
SERVER_ERROR: Final = 500


def finish(exchange: Exchange, status: int, outcome: str, code: str | None) -> None:
    """Say what came of ``exchange``; with this its trace is complete. ``status`` is 499 where nobody was left."""
    span = exchange.span
    if not span.recording:
        return
    method = exchange.scope["method"]
    span.rename(method if exchange.route is None else f"{method} {exchange.route.path}")
    span.set(_attributes(exchange, status, outcome))
    if status >= SERVER_ERROR or outcome == "error":
        span.fail(code or str(status))
    elif code is not None:
        span.set({"error.type": code})  # the caller's fault: the server did what it is for
    span.end()


def _attributes(exchange: Exchange, status: int, outcome: str) -> Attributes:
    principal = exchange.principal
    return {
        "http.request.method": exchange.scope["method"],
        "http.route": exchange.route.path if exchange.route else None,
        "http.response.status_code": status,
        # Where no route is, a path can be anything, a prompt or a password too.
        "url.path": _path(exchange) if exchange.route else None,
        "url.scheme": "http",
        "network.protocol.version": exchange.scope["http_version"],
        "client.address": exchange.address or None,
        "sluice.request_id": exchange.request_id,
        "sluice.outcome": outcome,
        "sluice.principal": principal.id if principal else None,
        "sluice.tenant": principal.tenant if principal else None,
        "sluice.model": exchange.model,
        "sluice.adapter": exchange.adapter,
        "sluice.streaming": exchange.streaming,
    }


def _path(exchange: Exchange) -> str:
    """Callers write part of it: what looks like a key is masked, as in the log."""
    return printable(exchange.scope["raw_path"].decode("latin-1")[:MAX_FIELD_CHARS])
