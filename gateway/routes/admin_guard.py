"""GET, PUT and DELETE /v1/admin/guard: the guard's policies, seen and changed on all replicas; changes are audited."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.access.administration import Caller
from gateway.access.principal import Scope
from gateway.errors import SERVER, ApiError, invalid, store_unavailable
from gateway.exchange import Exchange
from gateway.guardian.build import check_policies
from gateway.guardian.check import GuardPolicy
from gateway.guardian.decreed import PolicyDecrees
from gateway.guardian.guardian import Guardian
from gateway.limits.reserve import LimitClass
from gateway.pipeline import Pipeline
from gateway.protocol import strictjson
from gateway.protocol.validation import first_problem
from gateway.routes.admin_keys import OWNERS
from gateway.routing import Route
from gateway.settings.guard import GuardPolicies, GuardPolicySettings
from gateway.settings.section import SettingsError
from gateway.store.audit import AuditEntry
from gateway.store.database import StoreUnavailable

log = logging.getLogger("sluice.guardian")

MAX_BODY_BYTES: Final = 256 * 1024
CHANGED: Final = "guard.policy"
#: Seconds to wait before another try when the store is away.
RETRY_SECONDS: Final = 2.0


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
    source: Literal["configuration", "administrator"] = Field(description="Who set the policies that apply.")


def routes(
    pipeline: Pipeline,
    guardian: Guardian | None,
    decrees: PolicyDecrees | None,
    audit: Callable[[AuditEntry], None],
) -> list[Route]:
    """The routes of this resource; without a ``guardian`` they answer 501."""

    def configured() -> tuple[Guardian, PolicyDecrees]:
        if guardian is None or decrees is None:
            raise ApiError(
                501, "This server has no guard. Its operator can configure one.", code="not_implemented", type=SERVER
            )
        return guardian, decrees

    async def show(exchange: Exchange) -> None:
        await pipeline.enter(exchange)
        _answer(exchange, *configured())

    async def change(exchange: Exchange) -> None:
        caller = await entered(exchange)
        guard, _ = configured()
        wanted = _read(await exchange.json_body(MAX_BODY_BYTES))
        try:
            check_policies(wanted.policies(), guard)
        except SettingsError as error:
            raise invalid(str(error), code="invalid_value", param="policy") from None
        await decree(exchange, caller, wanted)

    async def forget(exchange: Exchange) -> None:
        await decree(exchange, await entered(exchange), None)

    async def entered(exchange: Exchange) -> Caller:
        principal = await pipeline.enter(exchange)
        return Caller(principal, principal.id in OWNERS, exchange.address or None, exchange.request_id)

    async def decree(exchange: Exchange, caller: Caller, wanted: GuardPolicies | None) -> None:
        guard, decreed = configured()
        before = guard.declared
        try:
            await decreed.set(wanted)
        except StoreUnavailable as error:
            log.error("store unavailable: %s", error)
            raise store_unavailable(RETRY_SECONDS) from None
        log.warning("the guard's policies were changed", extra={"fields": {"by": caller.principal.id}})
        after = guard.declared
        detail = {"changed": before.policies() != after.policies(), "before": _told(before), "policy": _told(after)}
        audit(caller.entry(time.time(), CHANGED, None, detail, allowed=True))
        _answer(exchange, guard, decreed)

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
        Route("DELETE", "/v1/admin/guard", forget, "Go back to the configuration's policies", **declared),
    ]


def _read(body: bytes) -> GuardPolicies:
    try:
        return GuardPolicies.model_validate(strictjson.loads(body))
    except ValidationError as error:
        raise first_problem(error) from None


def _told(policies: GuardPolicies) -> dict[str, Any]:
    return policies.model_dump(mode="json", exclude_unset=True)


def _answer(exchange: Exchange, guard: Guardian, decreed: PolicyDecrees) -> None:
    panel = guard.court.panel
    resting = panel.resting()
    evaluators = [
        {"name": name, "risks": sorted(panel.judged_by(name)), "available": name not in resting}
        for name in sorted(panel.names)
    ]
    source = "administrator" if decreed.in_force else "configuration"
    told = {**guard.declared.model_dump(mode="json"), "evaluators": evaluators, "source": source}
    exchange.respond(200, orjson.dumps(told))
