"""Reads the settings anew, and swaps what can change at once; what is wrong leaves everything as it was."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from gateway.reload.changes import Changes, changes, with_live
from gateway.reload.swap import Change
from gateway.settings import Settings, SettingsError
from gateway.store.audit import AuditEntry

log = logging.getLogger("sluice.config")

ACT: Final = "config.reload"
FILE: Final = "file"
MAX_REASON: Final = 300

#: Brings a change into force; how many workers have not said that they took it. Raises :class:`SettingsError`; then
#: nothing has changed.
Take = Callable[[Change], Awaitable[int]]


class InvalidConfig(Exception):
    """The settings cannot be used. ``path`` names the setting, ``reason`` says what is wrong; both fit for a caller."""

    def __init__(self, path: str | None, reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a reload that went well. ``behind``: workers that have not said that they took it."""

    generation: int
    changes: Changes
    behind: int = 0


@dataclass(frozen=True, slots=True)
class Cause:
    """Who asked for a reload: a principal's id, or ``signal``, or ``file``."""

    actor: str
    address: str | None = None
    request_id: str | None = None


class Reloads(Protocol):
    """Who reads the settings anew when asked."""

    async def reload(self, cause: Cause) -> Outcome:
        """Read and take over. Raises :class:`InvalidConfig`; then nothing has changed."""


class ReloadMetrics:
    """What became of reloads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.generation = Gauge("sluice_config_generation", "Generation of the settings in force.", registry=registry)
        self.failures = Counter(
            "sluice_config_reload_failures", "Reloads that were refused: the old settings stay.", registry=registry
        )
        self.restart = Gauge(
            "sluice_config_restart_needed", "Settings that are read and wait for a restart.", registry=registry
        )
        self.generation.set(1)


class Reloader:
    """A :class:`gateway.lifecycle.Service`: watches ``files`` every ``interval`` seconds; 0: it does not."""

    def __init__(
        self,
        read: Callable[[], Settings],
        started: Settings,
        take: Take,
        metrics: ReloadMetrics,
        audit: Callable[[AuditEntry], None],
        *,
        files: Sequence[Path] = (),
        interval: float = 0.0,
    ) -> None:
        self._read = read
        self._started = self._running = started
        self._key = started.static_key()
        self._number = 1
        self._take = take
        self._metrics = metrics
        self._audit = audit
        self._files = tuple(files)
        self._interval = interval
        self._one = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self._asked: set[asyncio.Task[None]] = set()

    async def reload(self, cause: Cause) -> Outcome:
        """Read and take over. Raises :class:`InvalidConfig`; then nothing has changed."""
        async with self._one:
            try:
                wanted, key = await asyncio.get_running_loop().run_in_executor(None, self._load)
                outcome = await self._bring(wanted, key)
            except SettingsError as error:
                failure = _explained(str(error), self._files)
                self._metrics.failures.inc()
                fields = {"path": failure.path, "reason": failure.reason, "by": cause.actor}
                log.error("the new settings are refused, the old ones stay", extra={"fields": fields})
                self._note(cause, allowed=False, detail={"path": failure.path, "reason": failure.reason})
                raise failure from None
        if outcome.changes.live or outcome.changes.restart or cause.actor != FILE:
            self._tell(outcome, cause)
        return outcome

    def _load(self) -> tuple[Settings, str | None]:
        wanted = self._read()
        return wanted, wanted.static_key()

    async def _bring(self, wanted: Settings, key: str | None) -> Outcome:
        found = changes(self._running, self._started, wanted, new_key=key != self._key)
        behind = 0
        if found.live:
            fresh = with_live(self._running, wanted)
            guarded = any(name.startswith("guard.") for name in found.live)
            behind = await self._take(Change(fresh, self._number + 1, guarded))
            self._running, self._key, self._number = fresh, key, self._number + 1
        self._metrics.generation.set(self._number)
        self._metrics.restart.set(len(found.restart))
        return Outcome(self._number, found, behind)

    def _tell(self, outcome: Outcome, cause: Cause) -> None:
        detail: dict[str, Any] = {
            "generation": outcome.generation,
            "changed": list(outcome.changes.live),
            "needs_restart": list(outcome.changes.restart),
        }
        if outcome.behind:
            detail["workers_behind"] = outcome.behind
        log.warning("the settings were read", extra={"fields": {**detail, "by": cause.actor}})
        self._note(cause, allowed=True, detail=detail)

    def _note(self, cause: Cause, *, allowed: bool, detail: dict[str, Any]) -> None:
        self._audit(
            AuditEntry(
                ts=time.time(),
                actor=cause.actor,
                act=ACT,
                allowed=allowed,
                detail=detail,
                client_ip=cause.address,
                request_id=cause.request_id,
            )
        )

    # -- without anybody waiting ----------------------------------------------------------------------------------

    def ask(self, actor: str = "signal") -> None:
        """Reload soon; what comes of it is in the log. From the event loop."""
        task = asyncio.ensure_future(self._attempt(actor))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def _attempt(self, actor: str) -> None:
        with suppress(InvalidConfig):
            await self.reload(Cause(actor))

    async def start(self) -> None:
        """See :class:`gateway.lifecycle.Service`."""
        if self._files and self._interval:
            self._watch = asyncio.create_task(self._look(), name="settings-watch")

    async def stop(self) -> None:
        """See :class:`gateway.lifecycle.Service`."""
        tasks = [*self._asked, *([self._watch] if self._watch is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def degraded(self) -> Sequence[str]:
        """See :class:`gateway.lifecycle.Service`."""
        return ()

    async def _look(self) -> None:
        """A file is read when two looks saw the same: who writes it in pieces has ended by then."""
        loop = asyncio.get_running_loop()
        # The first look reads them too: they may have changed since the process read them.
        taken: tuple[object, ...] | None = None
        before: tuple[object, ...] | None = None
        while True:
            await asyncio.sleep(self._interval)
            now = await loop.run_in_executor(None, _stamps, self._files)
            if now == before and now != taken:
                taken = now
                await self._attempt(FILE)
            before = now


def _stamps(files: Sequence[Path]) -> tuple[object, ...]:
    """What tells that a file is another: symbolic links are followed, as Kubernetes swaps those."""
    return tuple(_stamp(file) for file in files)


def _stamp(file: Path) -> object:
    try:
        status = file.stat()
    except OSError as error:
        return error.errno
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _explained(text: str, files: Sequence[Path]) -> InvalidConfig:
    """The first line, without what tells of the file system."""
    line = (text.splitlines() or [""])[0]
    for file in files:
        line = line.replace(str(file), file.name)
    path, colon, reason = line.partition(": ")
    return InvalidConfig(path, reason[:MAX_REASON]) if colon else InvalidConfig(None, line[:MAX_REASON])
