"""GET /v1/models and /v1/models/{id}; DELETE and POST .../load: out of memory, and into it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import orjson

from engine.types import Engine, EngineError, ModelInfo
from gateway.access.principal import Principal, Scope
from gateway.errors import ApiError, from_engine, model_not_found
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy
from gateway.limits.reserve import LimitClass
from gateway.pipeline import Pipeline
from gateway.protocol.registry import MAX_BODY_BYTES, Nothing, parse_body
from gateway.protocol.responses import DeletedModel, Model, ModelList
from gateway.routes.admin_keys import has_body
from gateway.routing import Route
from gateway.store.audit import AuditEntry

log = logging.getLogger("sluice.models")


def routes(pipeline: Pipeline, engine: Engine, audit: Callable[[AuditEntry], None]) -> list[Route]:
    """The routes of this resource; loading and unloading are written down by ``audit``."""

    async def list_models(exchange: Exchange) -> None:
        principal = await pipeline.enter(exchange)
        data = [_wire(model, principal) for model in pipeline.visible(principal)]
        exchange.respond(200, orjson.dumps({"object": "list", "data": data}))

    async def get_model(exchange: Exchange) -> None:
        principal = await pipeline.enter(exchange)
        for model in pipeline.visible(principal):
            if exchange.path_rest in (model.id, model.adapter):
                exchange.respond(200, orjson.dumps(_wire(model, principal)))
                return
        raise model_not_found()

    async def unload(exchange: Exchange) -> None:
        principal = await pipeline.enter(exchange)
        model = _named(exchange, principal, engine)
        log.info("model %s is unloaded by %s", model.id, principal.id)
        audit(_act(exchange, principal, "model.unload", model.id))
        await engine.unload(model.id)
        exchange.respond(200, orjson.dumps({"id": model.id, "object": "model", "deleted": True}))

    async def load(exchange: Exchange) -> None:
        principal = await pipeline.enter(exchange)
        model = _named(exchange, principal, engine)
        if has_body(exchange):
            parse_body(Nothing, await exchange.json_body(MAX_BODY_BYTES))
        log.info("model %s is loaded by %s", model.id, principal.id)
        audit(_act(exchange, principal, "model.load", model.id))
        try:
            await engine.load(model.id)
        except EngineError as error:
            raise _told(from_engine(error, prompt_param="model"), error) from error
        now = next(each for each in engine.models() if each.id == model.id)
        exchange.respond(200, orjson.dumps(_wire(now, principal)))

    declared: dict[str, Any] = {"limit_class": LimitClass.REQUEST, "guard": GuardPolicy.NONE}
    reading: dict[str, Any] = {**declared, "scope": Scope.READ_ONLY}
    ruling: dict[str, Any] = {**declared, "scope": Scope.ADMIN}
    return [
        Route("GET", "/v1/models", list_models, "List the models", response=ModelList, **reading),
        Route("GET", "/v1/models/{model}", get_model, "Describe one model", response=Model, **reading),
        Route(
            "DELETE",
            "/v1/models/{model}",
            unload,
            "Take a model out of memory when its requests have ended",
            response=DeletedModel,
            **ruling,
        ),
        Route("POST", "/v1/models/{model}/load", load, "Load a model", response=Model, slashes=True, **ruling),
    ]


def _named(exchange: Exchange, principal: Principal, engine: Engine) -> ModelInfo:
    """The model in the path, also an unloaded one that requests are told nothing of."""
    model = engine.model(exchange.path_rest)
    if model is None or not principal.may_use(model.id):
        raise model_not_found()
    exchange.model = model.id
    return model


def _act(exchange: Exchange, principal: Principal, act: str, model: str) -> AuditEntry:
    """Written when it is ordered: it is done also if whoever asked does not wait for it."""
    return AuditEntry(
        ts=time.time(),
        actor=principal.id,
        act=act,
        allowed=True,
        target=model,
        client_ip=exchange.address or None,
        request_id=exchange.request_id,
    )


def _told(answer: ApiError, error: EngineError) -> ApiError:
    """``answer`` with the reason: whoever may load models may know why one cannot be."""
    return ApiError(
        answer.status,
        f"The model could not be loaded: {error}",
        code=answer.code,
        param=answer.body.param,
        type=answer.body.type,
        retry_after=answer.retry_after,
    )


def _wire(model: ModelInfo, principal: Principal) -> dict[str, Any]:
    wire: dict[str, Any] = {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "sluice",
        "max_model_len": model.context_length,
        "kind": model.kind,
        "state": model.state.value,
        "pinned": model.pinned,
        "memory_bytes": model.size_bytes,
        "load_seconds": model.load_seconds,
    }
    if model.labels:
        wire["labels"] = model.labels
    if model.width:
        wire["dimensions"] = model.width
    if model.detail is not None and principal.may(Scope.ADMIN):
        wire["detail"] = model.detail
    if model.adapter is not None:
        wire |= {"parent": model.id.removesuffix(f":{model.adapter}"), "adapter": model.adapter}
    return wire
