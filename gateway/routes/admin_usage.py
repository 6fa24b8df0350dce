"""/v1/admin/usage for operators, and /v1/usage for callers who want to know what they have used."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.access.principal import Scope
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy
from gateway.limits.reserve import LimitClass
from gateway.protocol.query import parse_query
from gateway.protocol.usage import OwnUsageQuery, UsageQuery, UsageRows
from gateway.routes.admin_keys import AdminStore, Enter
from gateway.routing import Route
from gateway.store.usage import UsageFilter, UsageRepository
from gateway.usage.described import usage_object


def routes(enter: Enter, store: AdminStore) -> list[Route]:
    """The routes of this resource."""
    repository = UsageRepository(store.database)

    async def answer(
        exchange: Exchange, query: UsageQuery | OwnUsageQuery, key: str | None, tenant: str | None
    ) -> None:
        wanted = UsageFilter(_day(query.first_day), _day(query.last_day), key, tenant, query.model)
        totals, has_more = await store.call(
            lambda: repository.totals(query.group_by, wanted, limit=query.limit, offset=query.offset)
        )
        data = [usage_object(total) for total in totals]
        exchange.respond(200, orjson.dumps({"object": "list", "data": data, "has_more": has_more}))

    async def everybody(exchange: Exchange) -> None:
        await enter(exchange)
        query = parse_query(exchange.scope["query_string"], UsageQuery)
        await answer(exchange, query, query.key, query.tenant)

    async def own(exchange: Exchange) -> None:
        principal = await enter(exchange)
        query = parse_query(exchange.scope["query_string"], OwnUsageQuery)
        await answer(exchange, query, principal.id, None)

    declared: dict[str, Any] = {"limit_class": LimitClass.REQUEST, "guard": GuardPolicy.NONE, "response": UsageRows}
    return [
        Route("GET", "/v1/admin/usage", everybody, "Sum up usage", Scope.ADMIN, query=UsageQuery, **declared),
        Route("GET", "/v1/usage", own, "Sum up your own usage", Scope.READ_ONLY, query=OwnUsageQuery, **declared),
    ]


def _day(day: Any) -> str | None:
    return None if day is None else day.isoformat()
