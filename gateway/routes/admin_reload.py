"""POST /v1/admin/reload: the settings are read anew; audited."""

from __future__ import annotations

import orjson
from pydantic import BaseModel, ConfigDict, Field

from gateway.access.principal import Scope
from gateway.errors import SERVER, ApiError, invalid
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy
from gateway.limits.reserve import LimitClass
from gateway.pipeline import Pipeline
from gateway.reload.reloader import Cause, InvalidConfig, Reloads
from gateway.routing import Route


class ReloadObject(BaseModel):
    """What became of a reload."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generation: int = Field(description="Of the settings in force; counts from 1 at the start.")
    changed: list[str] = Field(description="Settings that are in force now and were not before.")
    needs_restart: list[str] = Field(description="Settings that were read, differ, and wait for a restart.")
    workers_behind: int = Field(description="Workers that have not said in time that they took them; 0: all have.")


def routes(pipeline: Pipeline, reloads: Reloads | None) -> list[Route]:
    """The routes of this resource; where settings cannot be read again they answer 501."""

    async def reload(exchange: Exchange) -> None:
        principal = await pipeline.enter(exchange)
        if reloads is None:
            raise ApiError(501, "This server's settings cannot be read again.", code="not_implemented", type=SERVER)
        try:
            outcome = await reloads.reload(Cause(principal.id, exchange.address or None, exchange.request_id))
        except InvalidConfig as error:
            raise invalid(
                f"The new settings are refused: {error.reason}", code="invalid_config", param=error.path
            ) from None
        answer = ReloadObject(
            generation=outcome.generation,
            changed=list(outcome.changes.live),
            needs_restart=list(outcome.changes.restart),
            workers_behind=outcome.behind,
        )
        exchange.respond(200, orjson.dumps(answer.model_dump()))

    return [
        Route(
            "POST",
            "/v1/admin/reload",
            reload,
            "Read the settings anew",
            scope=Scope.ADMIN,
            limit_class=LimitClass.REQUEST,
            guard=GuardPolicy.NONE,
            response=ReloadObject,
            errors=frozenset({501}),
        )
    ]
