"""Wires everything, once: the only place where parts learn of each other."""

from __future__ import annotations

import ipaddress
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from engine.types import Engine
from gateway.access.identify import Identity, NoAuth, StaticKey
from gateway.admission import Admission
from gateway.front import Front
from gateway.guardian.check import Unguarded
from gateway.http.bounds import HttpBounds
from gateway.http.server import HttpServer
from gateway.lifecycle import Gateway
from gateway.limits.reserve import Unlimited
from gateway.observability.logs import AccessLog
from gateway.observability.memory import Sampled, read_fraction
from gateway.observability.metrics import Metrics
from gateway.openapi import document
from gateway.pipeline import Pipeline, Policy
from gateway.protocol.sampling import RequestBounds
from gateway.routes import chat, completions, models, system
from gateway.routing import RouteTable
from gateway.settings import Settings, SettingsError
from gateway.usage.ledger import Ledger


def create_app(
    settings: Settings,
    engine: Engine,
    *,
    ledger: Ledger,
    access_log: AccessLog,
    metrics: Metrics,
    engine_version: str = "none",
) -> Gateway:
    """The whole gateway around ``engine``; must be called on the event loop that will run it.

    Raises :class:`SettingsError` where settings contradict each other, ValueError for a route with a hole.
    """
    worker = ThreadPoolExecutor(2, thread_name_prefix="sluice-worker")
    admission = Admission(settings.limits.max_in_flight, settings.limits.max_memory_fraction, Sampled(read_fraction))
    pipeline = Pipeline(
        engine=engine,
        identity=identity(settings),
        admission=admission,
        limits=Unlimited(),
        guard=Unguarded(),
        ledger=ledger,
        metrics=metrics,
        policy=Policy(request_bounds(settings), settings.http.max_body_bytes, settings.request_timeout),
        decoder=worker,
    )
    gateway = Gateway(settings, engine, admission, pipeline, metrics, worker)
    describe = cache(lambda: _describe(table))
    table = RouteTable(
        [
            *chat.routes(pipeline),
            *completions.routes(pipeline),
            *models.routes(pipeline, engine),
            *system.health_routes(gateway.is_started, gateway.not_ready_reason),
            *system.metrics_routes(
                pipeline, metrics, gateway.refresh_metrics, worker, need_key=settings.metrics_need_key
            ),
            system.version_route(engine_version),
            *system.document_routes(describe, worker, page=settings.dev),
        ]
    )
    front = Front(table, access_log, metrics)
    gateway.attach(front, HttpServer(front, http_bounds(settings), on_reject=metrics.front_rejected))
    return gateway


def _describe(table: RouteTable) -> dict[str, Any]:
    return document(table.routes)


def identity(settings: Settings) -> Identity:
    """Who may come in. Raises :class:`SettingsError` if nobody said so."""
    key = settings.static_key()
    if key is not None:
        return StaticKey(key)
    if settings.allow_no_auth:
        return NoAuth()
    raise SettingsError(
        "no authentication is configured: set SLUICE_API_KEY or api_key_file, use --dev to have a key made, "
        "or --allow-no-auth to serve everyone"
    )


def request_bounds(settings: Settings) -> RequestBounds:
    """What one request may ask for."""
    limits = settings.limits
    return RequestBounds(
        max_n=limits.max_n,
        max_tokens=limits.max_tokens,
        max_messages=limits.max_messages,
        max_prompts=limits.max_prompts,
    )


def http_bounds(settings: Settings) -> HttpBounds:
    """The bounds of the HTTP front."""
    return HttpBounds(**settings.http.model_dump(), allowed_hosts=_allowed_hosts(settings))


def _allowed_hosts(settings: Settings) -> tuple[str, ...] | None:
    """Loopback answers to loopback names only, or a web page could reach it by a name of its own (DNS rebinding)."""
    if settings.allowed_hosts is not None:
        return tuple(settings.allowed_hosts)
    try:
        loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        loopback = settings.host == "localhost"
    return ("localhost", "127.0.0.1", "[::1]", settings.host) if loopback else None
