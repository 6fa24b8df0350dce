"""Health, metrics, version and documentation: what operators and their machines ask."""

from __future__ import annotations

import asyncio
import html
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from importlib import metadata
from typing import Any, Final

import orjson
import yaml
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from engine.types import ModelInfo, ModelState, Phase
from gateway.access.principal import Scope
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy
from gateway.limits.reserve import LimitClass
from gateway.observability.metrics import Metrics
from gateway.pipeline import Pipeline
from gateway.routing import Route

PUBLIC: dict[str, Any] = {"scope": None, "public": True, "limit_class": LimitClass.NONE, "guard": GuardPolicy.NONE}


_UNWELL: Final = frozenset({Phase.STALLED, Phase.RESTARTING, Phase.FAILED})


class Status(BaseModel):
    """One word on health."""

    status: str = Field(description="ok, ready, started, or what is missing.")


class Readiness(Status):
    """Whether the process takes work."""

    degraded: list[str] = Field([], description="What does not work all the same; left out if everything does.")


class Version(BaseModel):
    """What is running."""

    version: str = Field(description="Version of Sluice.")
    engine: str = Field(description="Version of vLLM.")


def health_routes(
    is_started: Callable[[], bool], is_ready: Callable[[], str | None], degraded: Callable[[], Sequence[str]]
) -> list[Route]:
    """The probes. ``is_ready`` returns None, or what readiness waits for; ``degraded`` what is away all the same."""

    async def healthz(exchange: Exchange) -> None:
        exchange.respond(200, b'{"status":"ok"}')

    async def readyz(exchange: Exchange) -> None:
        reason = is_ready()
        headers = [(b"content-type", b"application/json")]
        told: dict[str, Any] = {"status": "ready" if reason is None else "not ready"}
        if missing := degraded():
            told["degraded"] = list(missing)
            headers.append((b"x-degraded", ", ".join(missing).encode("ascii")))
        if reason is None:
            exchange.respond(200, orjson.dumps(told), headers)
        else:
            headers.append((b"retry-after", b"5"))
            exchange.respond(503, orjson.dumps(told), [*headers, (b"x-not-ready", reason.encode("ascii"))])

    async def startupz(exchange: Exchange) -> None:
        started = is_started()
        exchange.respond(200 if started else 503, b'{"status":"started"}' if started else b'{"status":"starting"}')

    return [
        Route("GET", "/healthz", healthz, "The process lives", response=Status, **PUBLIC),
        Route("GET", "/readyz", readyz, "The process takes work", response=Readiness, **PUBLIC),
        Route("GET", "/startupz", startupz, "The engine has been started once", response=Status, **PUBLIC),
    ]


def metrics_routes(
    pipeline: Pipeline,
    metrics: Metrics,
    refresh: Callable[[], None],
    worker: Executor,
    *,
    need_key: bool,
    scrape: Callable[[], Awaitable[bytes]] | None = None,
) -> list[Route]:
    """GET /metrics; ``refresh`` brings gauges up to date on the loop before a worker thread writes the text.

    ``scrape`` gets the text from elsewhere: that of all workers together.
    """

    async def show(exchange: Exchange) -> None:
        if need_key:
            await pipeline.enter(exchange)
        if scrape is not None:
            exchange.respond(200, await scrape(), [(b"content-type", CONTENT_TYPE_LATEST.encode())])
            return
        refresh()
        accept = (exchange.header(b"accept") or b"").decode("latin-1")
        content_type, text = await asyncio.get_running_loop().run_in_executor(worker, metrics.exposition, accept)
        exchange.respond(200, text, [(b"content-type", content_type)])

    access: dict[str, Any] = {**PUBLIC, "scope": Scope.READ_ONLY, "public": False} if need_key else PUBLIC
    return [Route("GET", "/metrics", show, "Prometheus metrics", media_type="text/plain", **access)]


def version_route(engine_version: str) -> Route:
    """GET /version."""
    body = orjson.dumps({"version": metadata.version("sluice"), "engine": engine_version})

    async def show(exchange: Exchange) -> None:
        exchange.respond(200, body)

    return Route("GET", "/version", show, "Versions", response=Version, **PUBLIC)


def document_routes(describe: Callable[[], dict[str, Any]], worker: Executor, *, page: bool) -> list[Route]:
    """GET /openapi.yaml, and in development GET /docs: one page without scripts or outside resources."""

    written, drawn = _Once(lambda: _yaml(describe)), _Once(lambda: _page(describe))

    async def show_yaml(exchange: Exchange) -> None:
        text = await asyncio.get_running_loop().run_in_executor(worker, written.text)
        exchange.respond(200, text, [(b"content-type", b"application/yaml")])

    async def show_page(exchange: Exchange) -> None:
        text = await asyncio.get_running_loop().run_in_executor(worker, drawn.text)
        policy = b"default-src 'none'; style-src 'unsafe-inline'"
        headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-security-policy", policy)]
        exchange.respond(200, text, headers)

    routes = [
        Route("GET", "/openapi.yaml", show_yaml, "This document", media_type="application/yaml", **PUBLIC),
    ]
    if page:
        routes.append(Route("GET", "/docs", show_page, "This document for people", media_type="text/html", **PUBLIC))
    return routes


class _Once:
    """A text that is costly to make and never changes: whoever asks, with a key or without, costs nothing more."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._text: bytes | None = None

    def text(self) -> bytes:
        """The text. Blocks while another thread makes it."""
        with self._lock:
            if self._text is None:
                self._text = self._make()
            return self._text


def unwell(models: Sequence[ModelInfo]) -> list[str]:
    """The models that cannot serve though they should, in words fit for a header."""
    bad = [model for model in models if model.state is ModelState.FAILED or model.phase in _UNWELL]
    return [f"model {model.id.encode('ascii', 'replace').decode()}" for model in bad]


def ready_reason(phase: Phase) -> str | None:
    """None if an engine in ``phase`` takes work, else what to tell a probe."""
    return None if phase is Phase.READY else f"engine {phase.value}"


def _yaml(describe: Callable[[], dict[str, Any]]) -> bytes:
    return yaml.safe_dump(describe(), sort_keys=False, allow_unicode=True, width=120).encode()


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2733;background:#fff}
h1{margin-bottom:0}h2{margin:2.5rem 0 .25rem;font-size:1.1rem;font-family:ui-monospace,monospace}
h2 b{color:#fff;background:#1a6b8f;border-radius:.3rem;padding:.1rem .5rem;margin-right:.5rem;font-size:.9rem}
table{border-collapse:collapse;width:100%;margin:.5rem 0}td,th{text-align:left;padding:.3rem .6rem;vertical-align:top}
tr{border-top:1px solid #dde5ea}td:first-child{font-family:ui-monospace,monospace;white-space:nowrap}
.muted{color:#5b6b78}
"""


def _page(describe: Callable[[], dict[str, Any]]) -> bytes:
    document = describe()
    sections = [
        _operation(method, path, operation, document)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    title = html.escape(f"{document['info']['title']} {document['info']['version']}")
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
    intro = f"<h1>{title}</h1><p class=muted>Machine-readable: /openapi.yaml</p>"
    return (head + intro + "".join(sections)).encode()


def _operation(method: str, path: str, operation: dict[str, Any], document: dict[str, Any]) -> str:
    scope = operation.get("x-required-scope")
    access = f"Scope: {scope}." if scope else "No key needed."
    head = f"<h2><b>{method.upper()}</b>{html.escape(path)}</h2>"
    return f"{head}<div>{html.escape(operation['summary'])}. <span class=muted>{access}</span></div>" + _fields(
        operation, document
    )


def _fields(operation: dict[str, Any], document: dict[str, Any]) -> str:
    if "requestBody" not in operation:
        return ""
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = document["components"]["schemas"][reference.rsplit("/", 1)[1]]
    required = set(schema.get("required", ()))
    rows = "".join(
        f"<tr><td>{html.escape(name)}{' *' if name in required else ''}<td>{html.escape(field.get('description', ''))}"
        for name, field in schema["properties"].items()
    )
    return f"<table><tr><th>Field<th>Meaning (* required){rows}</table>"
