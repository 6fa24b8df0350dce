"""Changing public names: who may, that it is written down, and that every replica learns of it."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from engine.types import Engine
from gateway.access.administration import Caller
from gateway.adapters.catalog import AdapterCatalog
from gateway.claims import Claims
from gateway.errors import ApiError, beyond_own_powers, conflict, invalid, store_unavailable
from gateway.protocol.registry import CanaryRequest, ShadowRequest, SplitRequest, VersionCreate
from gateway.registry import acts
from gateway.registry.acts import Refused
from gateway.registry.described import name_object
from gateway.registry.names import Name, Rules, Shadow, Split, Version, Weighted
from gateway.registry.outcomes import Tally
from gateway.store.audit import AuditEntry
from gateway.store.database import StoreUnavailable
from gateway.store.registry import RegistryRepository, TooManyNames

log = logging.getLogger("sluice.registry")

#: Seconds to wait before another try when the store is away.
RETRY_SECONDS: Final = 2.0

Call = Callable[[Callable[[], Any]], Awaitable[Any]]
Change = Callable[[Name], Name]


class RegistryAdministration:
    """Every act and every denial goes to ``record``; ``call`` runs what blocks on the store; ``changed`` is awaited
    after every change. Methods raise :class:`ApiError` 400, 403, 404, 409 and 503.
    """

    def __init__(
        self,
        engine: Engine,
        adapters: AdapterCatalog,
        repository: RegistryRepository,
        call: Call,
        record: Callable[[AuditEntry], None],
        changed: Callable[[], Awaitable[None]],
        wall: Callable[[], float] = time.time,
        claims: Claims | None = None,
    ) -> None:
        self._engine = engine
        self._adapters = adapters
        self._repository = repository
        self._call = call
        self._record = record
        self._changed = changed
        self._wall = wall
        self._claims = claims or Claims()

    async def all(self) -> list[dict[str, Any]]:
        """Every name, as it goes out, as the store has it."""
        with self._told():
            news = await self._call(lambda: self._repository.news(None))
        return [self._object(name) for name in news.names]

    async def get(self, name: str) -> dict[str, Any]:
        """One name."""
        with self._told():
            found, outcomes = await self._call(lambda: self._with_outcomes(name))
        return name_object(found, self._engine, self._adapters, outcomes)

    async def add(self, caller: Caller, request: VersionCreate) -> dict[str, Any]:
        """Make a version, and the name if it is new."""
        with self._told(caller, "registry.add", request.name), self._claims.claimed(request.name, "registry"):
            version = self._version(caller, request)

            def change(before: Name | None) -> Name:
                if before is None:
                    self._require_free(request.name)
                name, numbered = acts.added(before or self._new(caller, request.name), version)
                return acts.activated(name, numbered.number) if request.activate else name

            after: Name = await self._call(lambda: self._repository.update(request.name, change))
            detail = {"version": after.last, "target": version.target, "activated": request.activate}
            return await self._done(caller, "registry.add", after, detail)

    async def activate(self, caller: Caller, name: str, number: int) -> dict[str, Any]:
        """Give all traffic to one version."""
        return await self.change(
            caller, "registry.activate", name, lambda each: acts.activated(each, number), {"version": number}
        )

    async def roll_back(self, caller: Caller, name: str) -> dict[str, Any]:
        """Back to the version that was active before."""
        return await self.change(caller, "registry.rollback", name, acts.rolled_back, {})

    async def reset(self, caller: Caller, name: str, number: int) -> dict[str, Any]:
        """Let a version that failed be tried again."""
        return await self.change(
            caller, "registry.reset", name, lambda each: acts.reset(each, number), {"version": number}
        )

    async def divide(self, caller: Caller, name: str, request: SplitRequest) -> dict[str, Any]:
        """Divide the traffic between versions."""
        split = Split(tuple(Weighted(arm.version, arm.weight) for arm in request.arms), request.stick_to)
        detail = request.model_dump(mode="json")
        return await self.change(caller, "registry.split", name, lambda each: acts.divided(each, split), detail)

    async def undivide(self, caller: Caller, name: str) -> dict[str, Any]:
        """End a split."""
        return await self.change(caller, "registry.split.end", name, acts.undivided, {})

    async def begin_canary(self, caller: Caller, name: str, request: CanaryRequest) -> dict[str, Any]:
        """Begin to replace the active version, step by step."""
        given = request.model_dump(exclude={"version", "stick_to", "steps"})
        rules = Rules(tuple(request.steps), **given)

        def change(each: Name) -> Name:
            return acts.canary_begun(each, request.version, rules, request.stick_to, self._wall())

        return await self.change(caller, "registry.canary", name, change, request.model_dump(mode="json"))

    async def stop_canary(self, caller: Caller, name: str) -> dict[str, Any]:
        """End a canary without a verdict."""
        return await self.change(caller, "registry.canary.stop", name, acts.canary_stopped, {})

    async def shadow(self, caller: Caller, name: str, request: ShadowRequest) -> dict[str, Any]:
        """Ask a version what the others are asked."""

        def change(each: Name) -> Name:
            model = self._engine.model(acts.found(each, request.version).model)
            if model is not None and model.kind != "generate":
                raise Refused("Only models that generate text are shadowed.", "model_kind_mismatch", "version")
            return acts.shadowed(each, Shadow(request.version, request.percent))

        return await self.change(caller, "registry.shadow", name, change, request.model_dump(mode="json"))

    async def unshadow(self, caller: Caller, name: str) -> dict[str, Any]:
        """End that."""
        return await self.change(caller, "registry.shadow.end", name, acts.unshadowed, {})

    async def remove(self, caller: Caller, name: str, number: int | None) -> None:
        """Forget a version, or the whole name."""

        def change(before: Name | None) -> Name | None:
            found = _there(before)
            return None if number is None else acts.without(found, number)

        with self._told(caller, "registry.remove", name):
            await self._call(lambda: self._repository.update(name, change))
        self._note(caller, "registry.remove", name, {} if number is None else {"version": number})
        await self._changed()

    async def change(
        self, caller: Caller, act: str, name: str, change: Change, detail: dict[str, Any]
    ) -> dict[str, Any]:
        """Put what ``change`` makes of ``name`` in its place."""
        with self._told(caller, act, name):
            update = partial(self._repository.update, name, lambda before: change(_there(before)))
            after: Name = await self._call(update)
        return await self._done(caller, act, after, detail)

    # -- what may be ------------------------------------------------------------------------------------------------

    def _new(self, caller: Caller, name: str) -> Name:
        return Name(name, secrets.token_hex(32), created_at=self._wall(), created_by=caller.principal.id)

    def _require_free(self, name: str) -> None:
        if any(each.id == name for each in self._engine.models()):
            raise conflict("A model has this name.", code="already_exists", param="name")
        if self._adapters.get(name) is not None:
            raise conflict("An adapter has this name.", code="already_exists", param="name")

    def _version(self, caller: Caller, request: VersionCreate) -> Version:
        """What ``request`` asks for, within the caller's own powers."""
        by, now = caller.principal, self._wall()
        kept: dict[str, Any] = {"metadata": dict(request.metadata), "created_at": now, "created_by": by.id}
        if self._engine.model(request.target) is not None:
            if not by.may_use(request.target):
                raise beyond_own_powers("target")
            if request.sha256 is not None:
                raise invalid(
                    "Only the content of an adapter can be checked; 'target' is a model.",
                    code="invalid_value",
                    param="sha256",
                )
            return Version(0, request.target, **kept)
        adapter = self._adapters.named(request.target)
        if adapter is None:
            raise ApiError(404, "There is no such model or adapter.", code="target_not_found", param="target")
        if not by.may_use(adapter.model) or not by.may_use_adapter(adapter.name):
            raise beyond_own_powers("target")
        if request.sha256 is not None and adapter.sha256 != request.sha256:
            raise conflict("The adapter has other content.", code="sha256_mismatch", param="sha256")
        return Version(0, adapter.model, adapter.name, adapter.sha256, **kept)

    def _with_outcomes(self, name: str) -> tuple[Name, Mapping[int, Tally]]:
        """On a thread: one name, and what is counted of the canary on it."""
        found = _there(self._repository.get(name))
        return found, {} if found.canary is None else self._repository.tallies((name, found.canary.epoch))

    # -- doing it ---------------------------------------------------------------------------------------------------

    def _object(self, name: Name) -> dict[str, Any]:
        return name_object(name, self._engine, self._adapters)

    async def _done(self, caller: Caller, act: str, after: Name, detail: dict[str, Any]) -> dict[str, Any]:
        self._note(caller, act, after.name, detail)
        await self._changed()
        return self._object(after)

    @contextmanager
    def _told(self, caller: Caller | None = None, act: str = "", name: str = "") -> Iterator[None]:
        """Faults as answers; denials recorded."""
        try:
            yield
        except Refused as error:
            status = 404 if error.missing else 409
            raise ApiError(status, str(error), code=error.code, param=error.param) from None
        except TooManyNames:
            raise conflict("There are too many names. Remove some.", code="too_many", param="name") from None
        except StoreUnavailable as error:
            log.error("store unavailable: %s", error)
            raise store_unavailable(RETRY_SECONDS) from None
        except ApiError as error:
            if error.status == 403 and caller is not None:
                self._note(caller, act, name, {"code": error.code, "param": error.body.param}, allowed=False)
            raise

    def _note(self, caller: Caller, act: str, name: str, detail: dict[str, Any], *, allowed: bool = True) -> None:
        self._record(caller.entry(self._wall(), act, name, detail, allowed=allowed))


def _there(name: Name | None) -> Name:
    if name is None:
        raise Refused("There is no such name.", "name_not_found", "name", missing=True)
    return name
