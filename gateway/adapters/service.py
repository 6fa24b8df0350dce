"""Brings the engine to the adapters that there should be, again and again: at start, after changes here or on another
replica, and after the engine was lost.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Final

from engine.types import (
    AdapterInfo,
    AdapterNotFound,
    AdapterRefused,
    AdapterSpec,
    AdapterUnavailable,
    Engine,
    EngineError,
    EngineUnavailable,
    ModelState,
    Phase,
)
from gateway.adapters.catalog import Adapter, AdapterCatalog
from gateway.adapters.desired import AdapterRecords, Desired, listed, merged, scan
from gateway.adapters.sources import SourceRefused, Sources
from gateway.settings.adapters import AdapterSettings
from gateway.store.database import StoreUnavailable

log = logging.getLogger("sluice.adapters")

NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: Seconds between looks while the engine is not ready, and before a source that failed is asked again.
_UNREADY_SECONDS: Final = 0.25
_RETRY_SECONDS: Final = 60.0


class AdapterService:
    """A :class:`gateway.lifecycle.Service`. ``call`` runs what blocks on the store."""

    def __init__(
        self,
        settings: AdapterSettings,
        engine: Engine,
        catalog: AdapterCatalog,
        sources: Sources,
        records: AdapterRecords,
        call: Callable[[Callable[[], list[Desired]]], Awaitable[list[Desired]]],
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._catalog = catalog
        self._sources = sources
        self._records = records
        self._call = call
        self._registered: list[Desired] = []
        self._seen: dict[str, str] | None = None
        self._applied: dict[str, Desired] = {}
        self._faults: dict[str, tuple[Desired, float, str]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._available = True
        self._last: dict[str, Desired] = {}
        self._registering: set[str] = set()
        self._removed: set[str] = set()
        self._touched: set[str] = set()
        self._one_round = asyncio.Lock()
        catalog.bring = self.bring

    # -- its life -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """See :class:`gateway.lifecycle.Service`."""
        self._task = asyncio.create_task(self._run(), name="adapters")

    async def stop(self) -> None:
        """See :class:`gateway.lifecycle.Service`."""
        for task in (*self._tasks, self._task):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def degraded(self) -> Sequence[str]:
        """See :class:`gateway.lifecycle.Service`."""
        return () if self._available else ("adapters",)

    async def _run(self) -> None:
        while True:
            ready = self._engine.state().phase is Phase.READY
            if ready:
                try:
                    await self.look()
                except Exception:
                    log.exception("the adapters could not be brought up to date")
            await asyncio.sleep(self._settings.poll_interval if ready else _UNREADY_SECONDS)

    async def look(self) -> None:
        """Do now what every round does: something was changed elsewhere."""
        async with self._one_round:
            if self._engine.state().phase is Phase.READY:
                await self._round()

    # -- what there should be -----------------------------------------------------------------------------------

    def desired(self, name: str) -> Desired | None:
        """The adapter of that name, as it should be."""
        return self._applied.get(name)

    def fault(self, name: str) -> str | None:
        """Why it is not what it should be."""
        return self._faults[name][2] if name in self._faults else None

    def all(self) -> list[Desired]:
        """Every adapter, by name."""
        return [self._applied[name] for name in sorted(self._applied)]

    @contextmanager
    def registering(self, name: str) -> Iterator[None]:
        """For the length of a block nobody is astonished that the store does not know ``name`` yet, or knows it as it
        was; nor whoever read the store during it.
        """
        self._registering.add(name)
        try:
            yield
        finally:
            self._registering.discard(name)
            self._touched.add(name)

    async def _round(self) -> None:
        # What is registered or removed while the store is read is newer than what is read.
        known = set(self._applied) - self._registering
        self._removed.clear()
        self._touched.clear()
        await self._engine.look_at_adapters()
        wanted = self._last = await self._wanted()
        for name in known - set(wanted) - self._registering:
            await self.remove(name)
        infos = {info.name: info for info in self._engine.adapters()}
        await asyncio.gather(
            *[
                self._bring(desired, infos.get(name))
                for name, desired in wanted.items()
                if name not in self._removed | self._registering | self._touched
            ]
        )

    async def _wanted(self) -> dict[str, Desired]:
        model = self.default_model()
        try:
            self._registered = await self._call(self._records.all)
            self._available = True
        except StoreUnavailable as error:
            if self._available:
                log.error("store unavailable: %s; adapters stay as they are", error)
            self._available = False
        inside = [] if self._settings.directory is None else await asyncio.to_thread(self._scan, model)
        return merged(listed(self._settings, model), inside, self._registered)

    def _scan(self, model: str) -> list[Desired]:
        """Only what lay still since the look before: files that are being written are not looked at."""
        assert self._settings.directory is not None
        try:
            found = [each for each in scan(self._settings.directory, model) if NAME.fullmatch(each.name)]
        except OSError as error:
            log.error("adapters.directory: %s: %s", error.strerror, self._settings.directory)
            return [each for each in self._applied.values() if each.origin == "directory"]
        seen, self._seen = self._seen, {each.name: each.stamp for each in found}
        still = {each.name: each for each in found if seen is None or seen.get(each.name) == each.stamp}
        moving = {each.name for each in found} - set(still)
        before = {each.name: each for each in self._applied.values() if each.origin == "directory"}
        return [*still.values(), *(before[name] for name in moving if name in before)]

    def default_model(self) -> str:
        """The model of those that do not say."""
        return self._engine.models()[0].id

    # -- bringing it about --------------------------------------------------------------------------------------

    async def _bring(self, desired: Desired, info: AdapterInfo | None) -> None:
        if self._is_there(desired, info) or self._failed_lately(desired):
            return
        if info is None:
            self._catalog.put(_entry(desired, ready=False))
        model = self._engine.model(desired.model)
        if model is None or model.state is not ModelState.READY:
            self._applied.setdefault(desired.name, desired)
            return
        try:
            await self.apply(desired)
        except (EngineUnavailable, AdapterNotFound):
            return
        except (SourceRefused, EngineError) as error:
            self._fail(desired, str(error))

    def _is_there(self, desired: Desired, info: AdapterInfo | None) -> bool:
        return (
            info is not None
            and self._applied.get(desired.name) == desired
            and (desired.sha256 is None or desired.sha256 == info.sha256)
        )

    def _failed_lately(self, desired: Desired) -> bool:
        before, at, _ = self._faults.get(desired.name, (None, 0.0, ""))
        return before == desired and time.monotonic() < at + _RETRY_SECONDS

    def _fail(self, desired: Desired, reason: str) -> None:
        """Whatever version the engine has goes on being served; without one the name is known and unavailable."""
        log.error("adapter %s: %s", desired.name, reason)
        self._faults[desired.name] = (desired, time.monotonic(), reason)
        self._applied.setdefault(desired.name, desired)
        if not any(info.name == desired.name for info in self._engine.adapters()):
            self._catalog.put(_entry(desired, ready=False, broken=True))

    async def bring(self, name: str) -> None:
        """Give the engine this one at once: its model has just been loaded. Raises EngineError kinds."""
        desired = self._last.get(name) or self._applied.get(name)
        if desired is None:
            raise AdapterNotFound("no such adapter")
        try:
            await self.apply(desired)
        except SourceRefused as error:
            self._fail(desired, str(error))
            raise AdapterUnavailable(str(error), retry_after=_RETRY_SECONDS, broken=True) from None

    async def apply(self, desired: Desired) -> AdapterInfo:
        """Fetch it, give it to the engine, let requests name it. Raises :class:`SourceRefused`, EngineError kinds."""
        lock = self._locks.setdefault(desired.name, asyncio.Lock())
        async with lock:
            info = self._same(desired) or await self._fetch(desired)
            self._applied[desired.name] = desired
            self._faults.pop(desired.name, None)
            self._catalog.put(_entry(desired, ready=True, created=info.created, sha256=info.sha256))
        return info

    def _same(self, desired: Desired) -> AdapterInfo | None:
        """What the engine has already, if that is it."""
        for info in self._engine.adapters():
            if info.name == desired.name and desired.sha256 == info.sha256 and info.pinned == desired.pinned:
                return info
        return None

    async def _fetch(self, desired: Desired) -> AdapterInfo:
        spec = AdapterSpec(desired.model, desired.name, "", desired.sha256, desired.pinned)
        if desired.sha256 is not None:
            with suppress(AdapterRefused):
                return await self._engine.load_adapter(spec)  # from the copy of an earlier life
        trusted = desired.origin == "listed"
        async with self._sources.opened(desired.source, trusted=trusted) as path:
            return await self._engine.load_adapter(replace(spec, path=str(path)))

    async def remove(self, name: str) -> None:
        """Requests cannot name it any more; the engine lets go of it when those that run on it have ended."""
        self._removed.add(name)
        desired = self._applied.pop(name, None)
        self._catalog.remove(name)
        self._faults.pop(name, None)
        self._locks.pop(name, None)
        if desired is None:
            return
        task = asyncio.create_task(self._unload(desired), name=f"unload-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # What nobody holds is out of the engine when this returns.
        if not self.running(name):
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(task), 10.0)

    def running(self, name: str) -> int:
        """How many requests hold it."""
        return next((info.running for info in self._engine.adapters() if info.name == name), 0)

    async def _unload(self, desired: Desired) -> None:
        with suppress(EngineError):
            await self._engine.unload_adapter(desired.model, desired.name, drain=True)


def _entry(
    desired: Desired, *, ready: bool, broken: bool = False, created: int = 0, sha256: str | None = None
) -> Adapter:
    return Adapter(
        desired.name,
        desired.model,
        desired.tenant,
        int(desired.created) or created,
        desired.enabled,
        ready,
        broken,
        sha256 or desired.sha256,
    )
