"""/v1/adapters: which there are, and for the scope ``training`` registering and removing them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from gateway.access.administration import Caller
from gateway.access.principal import Principal, Scope
from gateway.adapters.administration import AdapterAdministration
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy
from gateway.limits.reserve import LimitClass
from gateway.protocol.adapters import (
    MAX_BODY_BYTES,
    AdapterChange,
    AdapterCreate,
    AdapterObject,
    AdapterObjects,
    AdapterRemoval,
    parse_adapter_change,
    parse_adapter_create,
)
from gateway.protocol.query import parse_query
from gateway.routes.admin_keys import OWNERS
from gateway.routing import Route

Enter = Callable[[Exchange], Awaitable[Principal]]


def routes(enter: Enter, acts: AdapterAdministration) -> list[Route]:
    """The routes of this resource."""

    async def caller(exchange: Exchange) -> Caller:
        principal = await enter(exchange)
        return Caller(principal, principal.id in OWNERS, exchange.address or None, exchange.request_id)

    async def create(exchange: Exchange) -> None:
        who = await caller(exchange)
        request = parse_adapter_create(await exchange.json_body(MAX_BODY_BYTES))
        exchange.respond(200, orjson.dumps(await acts.create(who, request)))

    async def list_all(exchange: Exchange) -> None:
        principal = await enter(exchange)
        exchange.respond(200, orjson.dumps({"object": "list", "data": await acts.visible(principal)}))

    async def get(exchange: Exchange) -> None:
        principal = await enter(exchange)
        exchange.respond(200, orjson.dumps(await acts.described(principal, exchange.path_rest)))

    async def change(exchange: Exchange) -> None:
        who = await caller(exchange)
        request = parse_adapter_change(await exchange.json_body(MAX_BODY_BYTES))
        exchange.respond(200, orjson.dumps(await acts.change(who, exchange.path_rest, request)))

    async def remove(exchange: Exchange) -> None:
        who = await caller(exchange)
        query = parse_query(exchange.scope["query_string"], AdapterRemoval)
        described = await acts.described(who.principal, exchange.path_rest)
        gone = await acts.remove(who, exchange.path_rest, drain=query.drain)
        exchange.respond(200 if gone else 202, orjson.dumps(described))

    kept: dict[str, Any] = {"limit_class": LimitClass.REQUEST, "guard": GuardPolicy.NONE}
    errors = frozenset({409, 422, 502})
    writes = kept | {"scope": Scope.TRAINING, "response": AdapterObject, "errors": errors}
    reads = kept | {"scope": Scope.READ_ONLY}
    one = "/v1/adapters/{name}"
    return [
        Route("POST", "/v1/adapters", create, "Register an adapter", request=AdapterCreate, **writes),
        Route("GET", "/v1/adapters", list_all, "List the adapters", response=AdapterObjects, **reads),
        Route("GET", one, get, "Describe one adapter", response=AdapterObject, **reads),
        Route("PATCH", one, change, "Pin an adapter, or switch it off", request=AdapterChange, **writes),
        Route("DELETE", one, remove, "Remove an adapter", query=AdapterRemoval, **writes),
    ]
