"""GET /v1/status: what the console shows of the process, made from what is in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Final

import orjson
from prometheus_client import CollectorRegistry

from engine.types import Engine, ModelInfo
from gateway.access.principal import Principal, Scope
from gateway.admission import Gates
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy
from gateway.lifecycle import ProcessFacts
from gateway.limits.reserve import LimitClass
from gateway.observability.live import LiveFigures
from gateway.observability.metrics import Metrics
from gateway.pipeline import Pipeline
from gateway.protocol.status import StatusObject
from gateway.routing import Route

_VERDICTS: Final = "sluice_guard_verdicts_total"
_ACTIONS: Final = "sluice_guard_actions_total"


@dataclass(frozen=True, slots=True)
class StatusSources:
    """What the answer is put together from. ``guarded``: whether there is a guard."""

    engine: Engine
    gates: Gates
    figures: LiveFigures
    metrics: Metrics
    facts: Callable[[], ProcessFacts]
    engine_version: str
    guarded: bool


def routes(pipeline: Pipeline, sources: StatusSources) -> list[Route]:
    """The routes of this resource."""

    async def show(exchange: Exchange) -> None:
        principal = await pipeline.enter(exchange)
        exchange.respond(200, orjson.dumps(_status(sources, principal)))

    return [
        Route(
            "GET",
            "/v1/status",
            show,
            "Live figures of this process",
            Scope.READ_ONLY,
            # It is asked every other second, and answered from memory: it must not eat up the caller's requests.
            LimitClass.NONE,
            GuardPolicy.NONE,
            response=StatusObject,
        )
    ]


def _status(sources: StatusSources, principal: Principal) -> dict[str, Any]:
    recent = sources.metrics.recent
    return {
        "object": "status",
        "ts": time.time(),
        "caller": {
            "id": principal.id,
            "tenant": principal.tenant,
            "scopes": sorted(scope.value for scope in principal.scopes),
        },
        "process": {
            "version": metadata.version("sluice"),
            "engine": sources.engine_version,
            **asdict(sources.facts()),
        },
        "load": _load(sources),
        "ttft": asdict(recent.ttft()),
        "queue_delay": asdict(recent.waits()),
        "requests": dict(recent.outcomes()),
        "refusals": dict(recent.refusals()),
        "guard": _guard(sources.metrics.registry) if sources.guarded else None,
        "models": [_model(model) for model in sources.engine.models() if principal.may_use(model.id)],
        "history": _history(sources),
    }


def _load(sources: StatusSources) -> dict[str, Any]:
    now = asdict(sources.figures.now())
    return {**now, "in_flight": sources.gates.in_flight, "bound": sources.gates.bound}


def _history(sources: StatusSources) -> dict[str, Any]:
    samples = sources.figures.history
    return {
        "tokens_per_second": [round(sample.tokens_per_second, 1) for sample in samples],
        "running": [sample.running for sample in samples],
        "waiting": [sample.waiting for sample in samples],
        "queued": [sample.queued for sample in samples],
        "kv_usage": [round(sample.kv_usage, 4) for sample in samples],
        "ttft": sources.metrics.recent.ttft_by_second(),
    }


def _model(model: ModelInfo) -> dict[str, Any]:
    return {
        "id": model.id,
        "kind": model.kind,
        "state": model.state.value,
        "phase": None if model.phase is None else model.phase.value,
        "users": model.users,
        "running": model.running,
        "waiting": model.waiting,
        "kv_usage": model.kv_usage,
        "memory_bytes": model.size_bytes,
        "pinned": model.pinned,
    }


def _guard(registry: CollectorRegistry) -> dict[str, Any]:
    return {
        "verdicts": [{**labels, "count": count} for labels, count in _counted(registry, _VERDICTS)],
        "actions": [{**labels, "count": count} for labels, count in _counted(registry, _ACTIONS)],
    }


def _counted(registry: CollectorRegistry, name: str) -> Iterator[tuple[Mapping[str, str], int]]:
    """The series of one counter; no other collector is asked."""
    for metric in registry.restricted_registry([name]).collect():
        for sample in metric.samples:
            yield sample.labels, int(sample.value)
