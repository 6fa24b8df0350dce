"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from typing import Any

import orjson

from engine.types import ModelInfo
from gateway.access.principal import Scope
from gateway.errors import model_not_found
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy
from gateway.limits.reserve import LimitClass
from gateway.pipeline import Pipeline
from gateway.protocol.responses import Model, ModelList
from gateway.routing import Route


def routes(pipeline: Pipeline) -> list[Route]:
    """The routes of this resource."""

    async def list_models(exchange: Exchange) -> None:
        principal = await pipeline.enter(exchange)
        data = [_wire(model) for model in pipeline.visible(principal)]
        exchange.respond(200, orjson.dumps({"object": "list", "data": data}))

    async def get_model(exchange: Exchange) -> None:
        principal = await pipeline.enter(exchange)
        for model in pipeline.visible(principal):
            if exchange.path_rest in (model.id, model.adapter):
                exchange.respond(200, orjson.dumps(_wire(model)))
                return
        raise model_not_found()

    declared: dict[str, Any] = {
        "scope": Scope.READ_ONLY,
        "limit_class": LimitClass.REQUEST,
        "guard": GuardPolicy.NONE,
    }
    return [
        Route("GET", "/v1/models", list_models, "List the models", response=ModelList, **declared),
        Route("GET", "/v1/models/{model}", get_model, "Describe one model", response=Model, **declared),
    ]


def _wire(model: ModelInfo) -> dict[str, Any]:
    wire = {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "sluice",
        "max_model_len": model.context_length,
    }
    if model.adapter is not None:
        wire |= {"parent": model.id.removesuffix(f":{model.adapter}"), "adapter": model.adapter}
    return wire
