"""Registering, changing and removing adapters: who may, that it is written down, and that it is done."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from engine.types import AdapterInfo, AdapterRefused, Engine, EngineError
from gateway.access.administration import Caller
from gateway.access.principal import Principal, Scope
from gateway.adapters.desired import AdapterRecords, Desired
from gateway.adapters.service import AdapterService
from gateway.adapters.sources import Source, SourceRefused, Sources
from gateway.claims import Claims
from gateway.errors import (
    ApiError,
    adapter_in_use,
    adapter_not_found,
    beyond_own_powers,
    conflict,
    from_engine,
    model_not_found,
    store_unavailable,
)
from gateway.protocol.adapters import AdapterChange, AdapterCreate
from gateway.store.audit import AuditEntry
from gateway.store.database import StoreUnavailable

log = logging.getLogger("sluice.adapters")

#: Seconds to wait before another try when the store is away.
RETRY_SECONDS: Final = 2.0

Call = Callable[[Callable[[], Any]], Awaitable[Any]]


async def _alone() -> None:
    """There are no other workers."""


class AdapterAdministration:
    """Every act and every denial goes to ``record``; ``call`` runs what blocks on the store; ``taken``: whether a name
    means something else; ``everywhere`` has all other workers look at what there should be.
    """

    def __init__(
        self,
        engine: Engine,
        service: AdapterService,
        sources: Sources,
        records: AdapterRecords,
        call: Call,
        record: Callable[[AuditEntry], None],
        wall: Callable[[], float] = time.time,
        taken: Callable[[str], bool] = lambda _name: False,
        claims: Claims | None = None,
        everywhere: Callable[[], Awaitable[object]] = _alone,
    ) -> None:
        self._engine = engine
        self._taken = taken
        self._claims = claims or Claims()
        self._service = service
        self._sources = sources
        self._records = records
        self._call = call
        self._record = record
        self._wall = wall
        self._everywhere = everywhere

    async def visible(self, principal: Principal) -> list[dict[str, Any]]:
        """What ``principal`` may know of, as it goes out."""
        await self._engine.look_at_adapters()
        infos = {info.name: info for info in self._engine.adapters()}
        return [
            self._object(desired, infos.get(desired.name))
            for desired in self._service.all()
            if _sees(principal, desired)
        ]

    async def described(self, principal: Principal, name: str) -> dict[str, Any]:
        """One of them. Raises :class:`ApiError` 404."""
        await self._engine.look_at_adapters()
        desired = self._found(principal, name)
        return self._object(desired, self._info(name))

    async def create(self, caller: Caller, request: AdapterCreate) -> dict[str, Any]:
        """Fetch, check and serve an adapter. Raises :class:`ApiError` 400, 403, 409, 422, 503."""
        param = "path" if request.path is not None else "source"
        with (
            self._told(caller, "adapter.create", request.name, param),
            self._claims.claimed(request.name, "adapter"),
            self._service.registering(request.name),
        ):
            desired = self._wanted(caller, request)
            self._require_free(caller, desired)
            self._sources.check(desired.source)
            info = await self._service.apply(desired)
            # From here on this content and no other is meant, on every replica.
            desired = replace(desired, sha256=info.sha256)
            await self._keep(desired)
            await self._everywhere()
        self._note(caller, "adapter.create", request.name, {"sha256": info.sha256, "model": desired.model})
        return self._object(desired, self._info(request.name))

    async def change(self, caller: Caller, name: str, request: AdapterChange) -> dict[str, Any]:
        """Pin, unpin, switch on and off. Raises :class:`ApiError` 404, 409, 503."""
        with self._told(caller, "adapter.update", name, "pinned"), self._service.registering(name):
            before = self._registered(caller.principal, name)
            given = {field: value for field, value in request.model_dump().items() if value is not None}
            desired = replace(before, **given)
            await self._keep(desired)
            await self._everywhere()
        self._note(caller, "adapter.update", name, given)
        return self._object(desired, self._info(name))

    async def remove(self, caller: Caller, name: str, *, drain: bool) -> bool:
        """Remove one; whether it is gone already. Raises :class:`ApiError` 404, 409, 503."""
        with self._told(caller, "adapter.delete", name, "name"):
            self._registered(caller.principal, name)
            running = await self._running(name)
            if running and not drain:
                raise adapter_in_use(running)
            await self._call(lambda: self._records.remove(name))
            await self._service.remove(name)
            await self._everywhere()
        self._note(caller, "adapter.delete", name, {"drain": drain})
        return not running

    async def _running(self, name: str) -> int:
        await self._engine.look_at_adapters()
        if self._service.running(name):
            # Another worker may not have said yet that they have ended: it does when it looks.
            await self._everywhere()
            await self._engine.look_at_adapters()
        return self._service.running(name)

    # -- who may ------------------------------------------------------------------------------------------------

    def _wanted(self, caller: Caller, request: AdapterCreate) -> Desired:
        if request.shared and not caller.principal.may(Scope.ADMIN):
            raise beyond_own_powers("shared")
        model = request.model or self._service.default_model()
        if model not in {each.id for each in self._engine.models()} or not caller.principal.may_use(model):
            raise model_not_found()
        if not caller.principal.may_use_adapter(request.name):
            raise beyond_own_powers("name")
        return Desired(
            request.name,
            model,
            Source(request.path or request.source or "", request.sha256, request.revision),
            "registered",
            request.sha256 if request.source is None or request.source.startswith("hub:") else None,
            None if request.shared else caller.principal.tenant,
            request.pinned,
            created=self._wall(),
            created_by=caller.principal.id,
        )

    def _require_free(self, caller: Caller, desired: Desired) -> None:
        """A name belongs to whoever has it: models, aliases, other tenants, the configuration."""
        if any(each.id == desired.name for each in self._engine.models()):
            raise conflict("A model has this name.", code="already_exists", param="name")
        if self._taken(desired.name):
            raise conflict("The name is taken.", code="already_exists", param="name")
        before = self._service.desired(desired.name)
        if before is None:
            return
        ours = _sees(caller.principal, before) and before.tenant == desired.tenant and before.model == desired.model
        if before.origin != "registered" or not ours:
            raise conflict("The name is taken.", code="already_exists", param="name")

    def _found(self, principal: Principal, name: str) -> Desired:
        desired = self._service.desired(name)
        if desired is None or not _sees(principal, desired):
            raise adapter_not_found()
        return desired

    def _registered(self, principal: Principal, name: str) -> Desired:
        desired = self._found(principal, name)
        if desired.tenant is None and not principal.may(Scope.ADMIN):
            raise adapter_not_found()
        if desired.origin != "registered":
            raise conflict("The adapter comes from the configuration.", code="configured", param="name")
        return desired

    # -- doing it -----------------------------------------------------------------------------------------------

    async def _keep(self, desired: Desired) -> None:
        await self._call(lambda: self._records.put(desired))
        await self._service.apply(desired)

    def _info(self, name: str) -> AdapterInfo | None:
        return next((info for info in self._engine.adapters() if info.name == name), None)

    def _object(self, desired: Desired, info: AdapterInfo | None) -> dict[str, Any]:
        fault = self._service.fault(desired.name) or (info.broken if info else None)
        status = info.state if info else "broken" if fault else "pending"
        return {
            "id": f"{desired.model}:{desired.name}",
            "object": "adapter",
            "name": desired.name,
            "model": desired.model,
            "status": status if desired.enabled else "disabled",
            "sha256": info.sha256 if info else desired.sha256,
            "rank": info.rank if info else None,
            "size": info.size if info else None,
            "pinned": desired.pinned,
            "running": info.running if info else 0,
            "tenant": desired.tenant,
            "origin": desired.origin,
            "fault": fault,
            "created_at": int(desired.created) or (info.created if info else 0),
            "created_by": desired.created_by or None,
        }

    @contextmanager
    def _told(self, caller: Caller, act: str, name: str, param: str) -> Iterator[None]:
        """Faults as answers; denials recorded."""
        try:
            yield
        except SourceRefused as error:
            status = {"source_unavailable": 502, "invalid_adapter": 422}.get(error.code, 400)
            at = "sha256" if error.code == "sha256_required" else param
            raise ApiError(status, str(error), code=error.code, param=at) from None
        except AdapterRefused as error:
            raise _refused(error, param) from None
        except StoreUnavailable as error:
            log.error("store unavailable: %s", error)
            raise store_unavailable(RETRY_SECONDS) from None
        except EngineError as error:
            raise from_engine(error, prompt_param=param) from None
        except ApiError as error:
            if error.status == 403:
                self._note(caller, act, name, {"code": error.code, "param": error.body.param}, allowed=False)
            raise

    def _note(self, caller: Caller, act: str, name: str, detail: dict[str, Any], *, allowed: bool = True) -> None:
        self._record(caller.entry(self._wall(), act, name, detail, allowed=allowed))


def _sees(principal: Principal, desired: Desired) -> bool:
    if principal.may(Scope.ADMIN):
        return True
    allowed = principal.may_use(desired.model) and principal.may_use_adapter(desired.name)
    return allowed and desired.tenant in (None, principal.tenant)


def _refused(error: AdapterRefused, param: str) -> ApiError:
    status = {"unsafe_artifact": 400, "invalid_adapter": 422, "too_many": 409}[error.code]
    return ApiError(status, str(error), code=error.code, param="pinned" if error.code == "too_many" else param)
