"""GET and PUT /v1/admin/guard: the guard's policies, seen and changed while the server runs; changes are audited."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.access.principal import Scope
from gateway.errors import SERVER, ApiError, invalid
from gateway.exchange import Exchange
from gateway.guardian.build import check_risks
from gateway.guardian.check import GuardPolicy
from gateway.guardian.guardian import Guardian
from gateway.limits.reserve import LimitClass
from gateway.pipeline import Pipeline
from gateway.protocol import strictjson
from gateway.protocol.validation import first_problem
from gateway.routing import Route
from gateway.settings.guard import GuardPolicies, GuardPolicySettings
from gateway.settings.section import SettingsError
from gateway.store.audit import AuditEntry

log = logging.getLogger("sluice.guardian")

MAX_BODY_BYTES: Final = 256 * 1024
CHANGED: Final = "guard.policy"


class EvaluatorObject(BaseModel):
    """Who judges."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Its name.")
    risks: list[str] = Field(description="What it judges.")
    available: bool = Field(description="Whether it is asked; false while it fails.")


class GuardObject(BaseModel):
    """The guard as it is now."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: GuardPolicySettings = Field(description="Of the deployment.")
    models: dict[str, GuardPolicySettings] = Field(description="What differs for a model.")
    routes: dict[str, GuardPolicySettings] = Field(description="What differs for a route.")
    keys: dict[str, GuardPolicySettings] = Field(description="What differs for keys that name this policy.")
    evaluators: list[EvaluatorObject] = Field(description="Who judges.")


def routes(pipeline: Pipeline, guardian: Guardian | None, audit: Callable[[AuditEntry], None]) -> list[Route]:
    """The routes of this resource; without a ``guardian`` they answer 501."""

    def configured() -> Guardian:
        if guardian is None:
            raise ApiError(
                501, "This server has no guard. Its operator can configure one.", code="not_implemented", type=SERVER
            )
        return guardian

    async def show(exchange: Exchange) -> None:
        await pipeline.enter(exchange)
        _answer(exchange, configured())

    async def change(exchange: Exchange) -> None:
        principal = await pipeline.enter(exchange)
        guard = configured()
        wanted = _read(await exchange.json_body(MAX_BODY_BYTES))
        policies = wanted.policies()
        try:
            check_risks(policies, guard.court.panel)
        except SettingsError as error:
            raise invalid(str(error), code="invalid_value", param="policy") from None
        before, guard.policies = guard.policies, policies
        guard.declared = wanted
        log.warning("the guard's policies were changed", extra={"fields": {"by": principal.id}})
        audit(
            AuditEntry(
                ts=time.time(),
                actor=principal.id,
                act=CHANGED,
                allowed=True,
                detail={"changed": before != policies, "policy": wanted.model_dump(mode="json", exclude_unset=True)},
                client_ip=exchange.address or None,
                request_id=exchange.request_id,
            )
        )
        _answer(exchange, guard)

    declared: dict[str, Any] = {
        "scope": Scope.ADMIN,
        "limit_class": LimitClass.REQUEST,
        "guard": GuardPolicy.NONE,
        "response": GuardObject,
        "errors": frozenset({501}),
    }
    return [
        Route("GET", "/v1/admin/guard", show, "See the guard's policies", **declared),
        Route("PUT", "/v1/admin/guard", change, "Change the guard's policies", request=GuardPolicies, **declared),
    ]


def _read(body: bytes) -> GuardPolicies:
    try:
        return GuardPolicies.model_validate(strictjson.loads(body))
    except ValidationError as error:
        raise first_problem(error) from None


def _answer(exchange: Exchange, guard: Guardian) -> None:
    panel = guard.court.panel
    resting = panel.resting()
    evaluators = [
        {"name": name, "risks": sorted(panel.judged_by(name)), "available": name not in resting}
        for name in sorted(panel.names)
    ]
    exchange.respond(200, orjson.dumps({**guard.declared.model_dump(mode="json"), "evaluators": evaluators}))
