"""POST /v1/responses, and what is kept of them."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.access.principal import Principal, Scope
from gateway.errors import responses_not_kept
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy
from gateway.kept.request import ResponseSurface
from gateway.kept.shelf import Shelf
from gateway.limits.reserve import LimitClass
from gateway.pipeline import Pipeline
from gateway.protocol.query import parse_query
from gateway.protocol.response.answers import DeletedResponse, InputItems, Response, ResponseEvent
from gateway.protocol.response.query import ItemsQuery, NoQuery, page
from gateway.protocol.response.request import ResponseRequest
from gateway.routing import Route


class _Responses:
    def __init__(self, pipeline: Pipeline, shelf: Shelf | None) -> None:
        self._pipeline = pipeline
        self._shelf = shelf

    async def create(self, exchange: Exchange) -> None:
        surface = ResponseSurface(self._shelf, exchange)
        await self._pipeline.generate(exchange, surface, surface.keep, recall=surface.recall)

    async def get(self, exchange: Exchange) -> None:
        principal, shelf = await self._enter(exchange)
        parse_query(exchange.scope["query_string"], NoQuery)
        kept = await shelf.find(principal.tenant, exchange.path_rest)
        exchange.respond(200, kept.document)

    async def input_items(self, exchange: Exchange) -> None:
        principal, shelf = await self._enter(exchange)
        query = parse_query(exchange.scope["query_string"], ItemsQuery)
        kept = await shelf.find(principal.tenant, exchange.path_rest)
        exchange.respond(200, orjson.dumps(page(orjson.loads(kept.items), query)))

    async def delete(self, exchange: Exchange) -> None:
        principal, shelf = await self._enter(exchange)
        parse_query(exchange.scope["query_string"], NoQuery)
        await shelf.forget(principal.tenant, exchange.path_rest)
        answer = {"id": exchange.path_rest, "object": "response", "deleted": True}
        exchange.respond(200, orjson.dumps(answer))

    async def _enter(self, exchange: Exchange) -> tuple[Principal, Shelf]:
        principal = await self._pipeline.enter(exchange)
        if self._shelf is None:
            raise responses_not_kept()
        return principal, self._shelf


def routes(pipeline: Pipeline, shelf: Shelf | None) -> list[Route]:
    """The routes of this resource. ``shelf`` None: the server keeps no responses."""
    responses = _Responses(pipeline, shelf)
    declared: dict[str, Any] = {"limit_class": LimitClass.REQUEST, "guard": GuardPolicy.NONE}
    one = "/v1/responses/{response_id}"
    return [
        Route(
            "POST",
            "/v1/responses",
            responses.create,
            "Answer an input",
            scope=Scope.INFERENCE,
            limit_class=LimitClass.GENERATION,
            guard=GuardPolicy.GENERATION,
            runs_model=True,
            request=ResponseRequest,
            response=Response,
            stream=ResponseEvent,
        ),
        Route("GET", one, responses.get, "A kept response", scope=Scope.READ_ONLY, response=Response, **declared),
        Route(
            "DELETE",
            one,
            responses.delete,
            "Forget a kept response",
            scope=Scope.INFERENCE,
            response=DeletedResponse,
            **declared,
        ),
        Route(
            "GET",
            f"{one}/input_items",
            responses.input_items,
            "What a kept response's model was told",
            scope=Scope.READ_ONLY,
            query=ItemsQuery,
            response=InputItems,
            **declared,
        ),
    ]
