"""The ASGI application: finds the route, calls its endpoint, turns every ending into one answer and one log line."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.access.door import Door
from gateway.access.principal import Scope
from gateway.dialect import OPENAI
from gateway.errors import ApiError, internal
from gateway.exchange import DEADLINE_HEADER, Exchange, Receive
from gateway.http.connection import Scope as AsgiScope
from gateway.observability.logs import AccessEntry, AccessLog
from gateway.observability.metrics import Metrics
from gateway.observability.tracing.server import finish
from gateway.observability.tracing.tracer import Tracer
from gateway.registry.endings import ArmEnded, ending_of
from gateway.reload.generation import Generations
from gateway.routing import Route, RouteTable

log = logging.getLogger("sluice.front")

UNKNOWN_ROUTE = "(none)"
API_PREFIX = b"/v1/"


class Front:
    """Pure ASGI. Knows every exchange that is running."""

    def __init__(
        self,
        routes: RouteTable,
        door: Door,
        access_log: AccessLog,
        metrics: Metrics,
        tracer: Tracer,
        arm_ended: ArmEnded = lambda _arm, _ending, _seconds: None,
        generations: Generations | None = None,
    ) -> None:
        self._routes = routes
        self._door = door
        self._access_log = access_log
        self._metrics = metrics
        self._tracer = tracer
        self._arm_ended = arm_ended
        self._generations = generations
        self.running: set[Exchange] = set()

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Callable[[Any], Awaitable[None]]) -> None:  # noqa: ARG002
        """Serve one request."""
        exchange = Exchange(scope, receive)
        exchange.span = self._tracer.begin(scope["headers"], exchange.received)
        if self._generations is not None:
            self._generations.pin()
        self.running.add(exchange)
        exchange.bind(_current_task())
        outcome = "error"
        try:
            route = self._find(exchange)
            await route.endpoint(exchange)
            outcome = "completed"
        except ApiError as error:
            outcome = self._fail(exchange, error)
        except asyncio.CancelledError:
            outcome = self._cancelled(exchange)
        except Exception:
            log.exception("unhandled error", extra={"request_id": exchange.request_id})
            outcome = self._fail(exchange, internal())
        finally:
            exchange.unbind()
            self.running.discard(exchange)
            life = exchange.accounted
            self._account(exchange, life.outcome or outcome if life else outcome)

    def _find(self, exchange: Exchange) -> Route:
        scope = exchange.scope
        try:
            exchange.route, exchange.path_rest = self._routes.find(scope["method"], scope["raw_path"])
        except ApiError as error:
            # Whoever shows credentials below /v1/ must be one who may read there, also where nothing is.
            if error.status == 404 and scope["raw_path"].startswith(API_PREFIX) and exchange.header(b"authorization"):
                self._door.enter(exchange, Scope.READ_ONLY)
            raise
        if exchange.route.dialect is not OPENAI:
            exchange.stream.error_body = exchange.error_body
        return exchange.route

    def _fail(self, exchange: Exchange, error: ApiError) -> str:
        exchange.fail(error)
        life = exchange.accounted
        if life is not None and not life.ended:
            life.failed(error.code or "error", completion_tokens=exchange.tokens[1])
        return "error" if life is not None or error.status >= 500 else "rejected"

    def _cancelled(self, exchange: Exchange) -> str:
        if exchange.interruption is not None:
            return self._fail(exchange, exchange.interruption)
        life = exchange.accounted
        if life is not None and not life.ended:
            life.cancelled(completion_tokens=exchange.tokens[1])
        if not exchange.stream.disconnected:
            exchange.stream.abort()
        return "cancelled"

    def _account(self, exchange: Exchange, outcome: str) -> None:
        route = exchange.route.path if exchange.route else UNKNOWN_ROUTE
        seconds = time.monotonic() - exchange.received
        rejection = exchange.stream.rejection
        status = exchange.status or (rejection.status if rejection else 499)
        code = exchange.error_code or (rejection.code if rejection else None)
        # Probes, scrapes and peers' looks would drown the rest, as lines and as traces.
        quiet = exchange.route is not None and exchange.route.quiet and outcome == "completed"
        exemplar = None if quiet else exchange.span.exemplar
        self._metrics.request_finished(route, status, outcome, code, seconds, exemplar)
        if exchange.route is not None and exchange.route.runs_model:
            self._metrics.recent.finished(outcome, code)
        if exchange.arm is not None:
            hurried = exchange.header(DEADLINE_HEADER) is not None
            self._arm_ended(exchange.arm, ending_of(outcome, status, code, own_deadline=hurried), seconds)
        if exchange.principal is not None:
            self._metrics.tenants.finished(exchange.principal.tenant, outcome)
        if quiet:
            return
        finish(exchange, status, outcome, code)
        self._access_log.record(_entry(exchange, route, status, outcome, code, seconds))


def _entry(exchange: Exchange, route: str, status: int, outcome: str, code: str | None, seconds: float) -> AccessEntry:
    life = exchange.accounted
    ttft = life.ttft() if life else None
    client = exchange.scope.get("client")
    return AccessEntry(
        ts=time.time(),
        request_id=exchange.request_id,
        method=exchange.scope["method"],
        route=route,
        status=status,
        outcome=outcome,
        duration_ms=seconds * 1000,
        principal=exchange.principal.id if exchange.principal else None,
        model=exchange.model,
        adapter=exchange.adapter,
        arm=exchange.arm,
        stream=exchange.streaming,
        prompt_tokens=exchange.tokens[0] if life else None,
        completion_tokens=exchange.tokens[1] if life else None,
        ttft_ms=None if ttft is None else ttft * 1000,
        client_ip=exchange.address or (client[0] if client else None),
        code=code,
        labels=exchange.labels or None,
        tenant=exchange.principal.tenant if exchange.principal else None,
        trace_id=exchange.span.trace_id,
    )


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
