"""/v1/admin/registry: public names, their versions and what traffic these get, for the scope ``admin``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from gateway.access.administration import Caller
from gateway.access.principal import Principal, Scope
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy
from gateway.limits.reserve import LimitClass
from gateway.protocol.registry import (
    MAX_BODY_BYTES,
    CanaryRequest,
    NameObject,
    NameObjects,
    Nothing,
    RemovedName,
    ShadowRequest,
    SplitRequest,
    VersionChoice,
    VersionCreate,
    parse_body,
)
from gateway.registry.administration import RegistryAdministration
from gateway.registry.names import split_id
from gateway.routes.admin_keys import OWNERS, has_body
from gateway.routing import Route

Enter = Callable[[Exchange], Awaitable[Principal]]


def routes(enter: Enter, acts: RegistryAdministration) -> list[Route]:
    """The routes of this resource."""
    names = _Names(enter, acts)
    declared: dict[str, Any] = {"scope": Scope.ADMIN, "limit_class": LimitClass.REQUEST, "guard": GuardPolicy.NONE}
    writes = {**declared, "response": NameObject, "errors": frozenset({404, 409})}
    base, one = "/v1/admin/registry", "/v1/admin/registry/{name}"
    return [
        Route("GET", base, names.list, "List the public names", response=NameObjects, **declared),
        Route("POST", base, names.add, "Add a version of a public name", request=VersionCreate, **writes),
        Route("GET", one, names.get, "Describe one public name", response=NameObject, **declared),
        Route(
            "DELETE",
            one,
            names.remove,
            "Remove a public name, or with @version one version of it",
            **{**writes, "response": RemovedName},
        ),
        Route(
            "POST",
            one + "/activate",
            names.activate,
            "Give all traffic to one version",
            request=VersionChoice,
            **writes,
        ),
        Route("POST", one + "/rollback", names.roll_back, "Go back to the version before", **writes),
        Route(
            "POST",
            one + "/reset",
            names.reset,
            "Let a version that failed be tried again",
            request=VersionChoice,
            **writes,
        ),
        Route("PUT", one + "/split", names.divide, "Divide traffic between versions", request=SplitRequest, **writes),
        Route("DELETE", one + "/split", names.undivide, "Give all traffic to the active version again", **writes),
        Route(
            "PUT",
            one + "/canary",
            names.begin_canary,
            "Replace the active version step by step",
            request=CanaryRequest,
            **writes,
        ),
        Route("PUT", one + "/shadow", names.shadow, "Ask a version unseen", request=ShadowRequest, **writes),
        Route("DELETE", one + "/shadow", names.unshadow, "Ask a version unseen no more", **writes),
        Route("DELETE", one + "/canary", names.stop_canary, "End a canary without a verdict", **writes),
    ]


class _Names:
    def __init__(self, enter: Enter, acts: RegistryAdministration) -> None:
        self._enter = enter
        self._acts = acts

    async def list(self, exchange: Exchange) -> None:
        await self._enter(exchange)
        _answer(exchange, {"object": "list", "data": await self._acts.all()})

    async def get(self, exchange: Exchange) -> None:
        await self._enter(exchange)
        _answer(exchange, await self._acts.get(exchange.path_rest))

    async def add(self, exchange: Exchange) -> None:
        caller = await self._caller(exchange)
        request = parse_body(VersionCreate, await exchange.json_body(MAX_BODY_BYTES))
        _answer(exchange, await self._acts.add(caller, request))

    async def activate(self, exchange: Exchange) -> None:
        caller = await self._caller(exchange)
        chosen = parse_body(VersionChoice, await exchange.json_body(MAX_BODY_BYTES))
        _answer(exchange, await self._acts.activate(caller, exchange.path_rest, chosen.version))

    async def roll_back(self, exchange: Exchange) -> None:
        caller = await self._caller(exchange)
        if has_body(exchange):
            parse_body(Nothing, await exchange.json_body(MAX_BODY_BYTES))
        _answer(exchange, await self._acts.roll_back(caller, exchange.path_rest))

    async def reset(self, exchange: Exchange) -> None:
        caller = await self._caller(exchange)
        chosen = parse_body(VersionChoice, await exchange.json_body(MAX_BODY_BYTES))
        _answer(exchange, await self._acts.reset(caller, exchange.path_rest, chosen.version))

    async def divide(self, exchange: Exchange) -> None:
        caller = await self._caller(exchange)
        request = parse_body(SplitRequest, await exchange.json_body(MAX_BODY_BYTES))
        _answer(exchange, await self._acts.divide(caller, exchange.path_rest, request))

    async def undivide(self, exchange: Exchange) -> None:
        caller = await self._caller(exchange)
        _answer(exchange, await self._acts.undivide(caller, exchange.path_rest))

    async def begin_canary(self, exchange: Exchange) -> None:
        caller = await self._caller(exchange)
        request = parse_body(CanaryRequest, await exchange.json_body(MAX_BODY_BYTES))
        _answer(exchange, await self._acts.begin_canary(caller, exchange.path_rest, request))

    async def stop_canary(self, exchange: Exchange) -> None:
        caller = await self._caller(exchange)
        _answer(exchange, await self._acts.stop_canary(caller, exchange.path_rest))

    async def shadow(self, exchange: Exchange) -> None:
        caller = await self._caller(exchange)
        request = parse_body(ShadowRequest, await exchange.json_body(MAX_BODY_BYTES))
        _answer(exchange, await self._acts.shadow(caller, exchange.path_rest, request))

    async def unshadow(self, exchange: Exchange) -> None:
        caller = await self._caller(exchange)
        _answer(exchange, await self._acts.unshadow(caller, exchange.path_rest))

    async def remove(self, exchange: Exchange) -> None:
        caller = await self._caller(exchange)
        await self._acts.remove(caller, *split_id(exchange.path_rest))
        _answer(exchange, {"id": exchange.path_rest, "object": "registry.name", "deleted": True})

    async def _caller(self, exchange: Exchange) -> Caller:
        principal = await self._enter(exchange)
        return Caller(principal, principal.id in OWNERS, exchange.address or None, exchange.request_id)


def _answer(exchange: Exchange, value: dict[str, Any]) -> None:
    exchange.respond(200, orjson.dumps(value))
