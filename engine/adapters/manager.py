"""The adapters of one engine: names, the versions behind them, and their way in and out."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from engine.adapters.facts import Facts
from engine.adapters.residency import Hold, Lora, LoraEngine, LoraObserver, Residency, ResidencyLimits
from engine.adapters.snapshot import Snapshot, SnapshotStore
from engine.types import (
    AdapterInfo,
    AdapterInUse,
    AdapterNotFound,
    AdapterRefused,
    AdapterSpec,
    EngineError,
    EngineUnavailable,
)

log = logging.getLogger("sluice.adapters")

NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: Digits of the content's hash in the name that the engine keys its prefix cache with.
_NAME_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class AdapterOptions:
    """``directory``: where private copies are kept. ``max_bytes`` of weights per adapter, ``resident_bytes`` of all in
    the engine. ``batch``, ``resident`` and ``max_rank`` are vLLM's max_loras, max_cpu_loras and max_lora_rank, where
    its own arguments do not say otherwise. Times in seconds.
    """

    directory: Path
    batch: int = 4
    resident: int = 16
    max_rank: int = 64
    max_bytes: int = 1024**3
    resident_bytes: int | None = None
    max_registered: int = 1000
    wait: float = 15.0
    broken: float = 60.0


@dataclass(frozen=True, slots=True)
class _Version:
    snapshot: Snapshot
    lora: Lora
    created: int
    pinned: bool = False


class AdapterManager:
    """Used on the event loop's thread; files are read on ``executor``'s, which has one. Begins with :meth:`started`."""

    def __init__(
        self, model: str, options: AdapterOptions, engine: LoraEngine, observer: LoraObserver, executor: Executor
    ) -> None:
        self._model = model
        self._options = options
        self._engine = engine
        self._observer = observer
        self._executor = executor
        largest = min(options.max_bytes, options.resident_bytes or options.max_bytes)
        # Of its own, so that no other model's manager deletes what this one needs.
        own = hashlib.sha256(model.encode()).hexdigest()[:_NAME_DIGITS]
        self._store = SnapshotStore(options.directory / own, largest)
        self._ids = count(1)
        self._versions: dict[str, _Version] = {}
        self._residency: Residency | None = None
        self._facts: Facts | None = None
        self._loading: dict[str, asyncio.Lock] = {}
        self._users: Counter[str] = Counter()
        self._unused: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- the engine's life --------------------------------------------------------------------------------------

    def started(self, facts: Facts) -> None:
        """The engine is there, for the first time or again, and empty: pinned adapters are brought in at once."""
        self._facts = facts
        if self._residency is None:
            options = self._options
            limits = ResidencyLimits(facts.resident, options.resident_bytes, options.wait, options.broken)
            self._residency = Residency(self._engine, limits, self._observer)
            self._executor.submit(self._store.sweep)
        for version in self._versions.values():
            if version.pinned:
                self._spawn(self._warm(version.lora))

    def lost(self, error: EngineError) -> None:
        """The engine is gone: who waits for an adapter gets ``error``."""
        if self._residency is not None:
            self._residency.reset(error)

    # -- what there is ------------------------------------------------------------------------------------------

    def infos(self) -> Sequence[AdapterInfo]:
        """Every adapter, by name."""
        return [self._info(name, self._versions[name]) for name in sorted(self._versions)]

    async def look(self) -> None:
        """See :class:`engine.adapters.account.AdapterAccount`: they are."""

    def _info(self, name: str, version: _Version) -> AdapterInfo:
        resident, waiting, held = self._residency.state(version.lora) if self._residency else (False, False, 0)
        broken = self._residency.broken(version.lora) if self._residency else None
        return AdapterInfo(
            self._model,
            name,
            version.snapshot.sha256,
            version.snapshot.rank,
            version.snapshot.size,
            version.created,
            "resident" if resident else "loading" if waiting else "broken" if broken else "cold",
            version.pinned,
            held,
            broken,
        )

    # -- in and out ---------------------------------------------------------------------------------------------

    async def load(self, spec: AdapterSpec) -> AdapterInfo:
        """See :meth:`engine.types.Engine.load_adapter`. Equal calls at once are one piece of work."""
        if not NAME.fullmatch(spec.name):
            raise AdapterRefused("Expected a name of 1 to 64 of the characters A-Z a-z 0-9 _ -")
        if spec.name not in self._versions and len(self._versions) >= self._options.max_registered:
            raise AdapterRefused(f"This server keeps at most {self._options.max_registered} adapters.", code="too_many")
        lock = self._loading.setdefault(spec.name, asyncio.Lock())
        self._users[spec.name] += 1
        try:
            async with lock:
                return await self._load(spec)
        finally:
            self._users[spec.name] -= 1
            if not self._users[spec.name]:
                del self._users[spec.name], self._loading[spec.name]
            self._drop_unused()

    async def _load(self, spec: AdapterSpec) -> AdapterInfo:
        if self._facts is None:
            raise EngineUnavailable("the engine is not ready")
        before = self._versions.get(spec.name)
        if before is not None and spec.sha256 == before.snapshot.sha256:
            return self._keep(spec, before)
        source = Path(spec.path) if spec.path else self._store.path_of(spec.sha256 or "none")
        snapshot = await asyncio.get_running_loop().run_in_executor(self._executor, self._take, source)
        if spec.sha256 not in (None, snapshot.sha256):
            self._drop(snapshot.sha256)
            raise AdapterRefused(f"The content is {snapshot.sha256}, not {spec.sha256} as was said.")
        if before is not None and snapshot.sha256 == before.snapshot.sha256:
            return self._keep(spec, before)
        return self._replace(spec, before, snapshot)

    def _take(self, source: Path) -> Snapshot:
        assert self._facts is not None
        shapes = self._facts.shapes()
        if not shapes:
            raise AdapterRefused("The shapes of the base model are not known: no adapter can be checked against them.")
        return self._store.take(source, shapes, self._facts.max_rank)

    def _keep(self, spec: AdapterSpec, version: _Version) -> AdapterInfo:
        self._pin(version.lora, spec.pinned)
        kept = _Version(version.snapshot, version.lora, version.created, spec.pinned)
        self._versions[spec.name] = kept
        if spec.pinned:
            self._spawn(self._warm(kept.lora))
        return self._info(spec.name, kept)

    def _replace(self, spec: AdapterSpec, before: _Version | None, snapshot: Snapshot) -> AdapterInfo:
        name = f"{spec.name}@{snapshot.sha256[:_NAME_DIGITS]}"
        lora = Lora(next(self._ids), name, str(snapshot.path), snapshot.size)
        self._pin_instead(lora, spec.pinned, before)
        version = _Version(snapshot, lora, int(time.time()), spec.pinned)
        self._versions[spec.name] = version
        log.info(
            "adapter %s is %s", spec.name, "new" if before is None else "replaced", extra={"fields": {"lora": name}}
        )
        if before is not None:
            self._spawn(self._retire(before))
        if spec.pinned:
            self._spawn(self._warm(lora))
        return self._info(spec.name, version)

    async def unload(self, name: str, *, drain: bool) -> None:
        """See :meth:`engine.types.Engine.unload_adapter`."""
        version = self._version(name)
        assert self._residency is not None
        held = self._residency.state(version.lora)[2]
        if held and not drain:
            raise AdapterInUse(held)
        del self._versions[name]
        log.info("adapter %s is removed", name)
        await self._retire(version)

    async def hold(self, name: str) -> Hold:
        """See :meth:`engine.types.Engine.hold_adapter`."""
        version = self._version(name)
        assert self._residency is not None
        return await self._residency.hold(version.lora)

    def _version(self, name: str) -> _Version:
        version = self._versions.get(name)
        if version is None or self._residency is None:
            raise AdapterNotFound(f"{self._model} has no adapter of that name")
        return version

    def _pin(self, lora: Lora, pinned: bool) -> None:
        assert self._residency is not None
        try:
            self._residency.pin(lora, pinned)
        except ValueError as error:
            raise AdapterRefused(f"{error}.", code="too_many") from None

    def _pin_instead(self, lora: Lora, pinned: bool, before: _Version | None) -> None:
        if before is not None:
            self._pin(before.lora, pinned=False)
        try:
            self._pin(lora, pinned)
        except AdapterRefused:
            self._drop(Path(lora.path).name)
            if before is not None:
                self._pin(before.lora, before.pinned)
            raise

    async def _retire(self, version: _Version) -> None:
        """The files stay until no place in the engine could ask for them again."""
        assert self._residency is not None
        await asyncio.shield(self._residency.forget(version.lora))
        self._drop(version.snapshot.sha256)

    def _drop(self, sha256: str) -> None:
        self._unused.add(sha256)
        self._drop_unused()

    def _drop_unused(self) -> None:
        """Delete the copies that nobody needs; not while one is being made that may turn out to be the same."""
        if self._loading:
            return
        unused, self._unused = self._unused, set()
        for sha256 in unused - {version.snapshot.sha256 for version in self._versions.values()}:
            self._executor.submit(self._store.forget, sha256)

    async def _warm(self, lora: Lora) -> None:
        assert self._residency is not None
        with suppress(EngineError):
            (await self._residency.hold(lora)).release()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
