"""Keeps the ring of keys up to date with the store, from a thread that may block, for as long as the gateway runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from gateway.access.keyring import Keyring, News, build
from gateway.settings import SettingsError
from gateway.store.database import StoreUnavailable
from gateway.store.executor import StoreExecutor
from gateway.store.keys import KeyRepository

log = logging.getLogger("sluice.keys")

_PATIENCE: Final = 10.0


@dataclass(frozen=True, slots=True)
class SyncHooks:
    """Told on the event loop: principals that are no more; whether the store answers; how many keys are known."""

    on_gone: Callable[[set[str]], None] = lambda _principals: None
    on_available: Callable[[bool], None] = lambda _available: None
    on_keys: Callable[[int], None] = lambda _count: None


class KeySync:
    """Looks for changes every ``poll_interval`` seconds, and at once when nudged.

    ``prepare`` makes the store ready and is called before the first look, again until it succeeds: a gateway may start
    while its database is away. A store that does not answer within ``patience`` seconds counts as away, though the
    one thread goes on waiting for it.
    """

    def __init__(
        self,
        keyring: Keyring,
        repository: KeyRepository,
        *,
        prepare: Callable[[], None],
        poll_interval: float,
        hooks: SyncHooks | None = None,
        patience: float = _PATIENCE,
        clock: Callable[[], float] = time.monotonic,
        executor: Executor | None = None,
    ) -> None:
        self._keyring = keyring
        self._repository = repository
        self._prepare = prepare
        self._prepared = False
        self._interval = poll_interval
        self._hooks = hooks or SyncHooks()
        self._patience = patience
        self._clock = clock
        self._executor = executor or StoreExecutor(1, "sluice-keys")
        self._nudged = asyncio.Event()
        self._looked = asyncio.Condition()
        self._looks_begun = 0
        self._looks_ended = 0
        self._look: asyncio.Future[News] | None = None
        self._look_began_at = 0.0
        self._available: bool | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """Whether the store answered the last time."""
        return self._available is True

    async def start(self) -> bool:
        """Look once, and go on looking in the background; whether the first look succeeded."""
        await self._round()
        self._task = asyncio.create_task(self._run(), name="key-sync")
        return self.available

    async def stop(self) -> None:
        """End it. Does not wait for a database that does not answer. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._look is not None:
            self._look.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def nudge(self) -> None:
        """Something has changed: look at once. Many nudges are one look."""
        self._nudged.set()

    async def refresh(self, within: float = 2.0) -> bool:
        """Look at once and wait for it, at most ``within`` seconds; whether the ring is up to date with now."""
        wanted = self._looks_begun + 1
        self.nudge()
        with suppress(TimeoutError):
            async with asyncio.timeout(within), self._looked:
                await self._looked.wait_for(lambda: self._looks_ended >= wanted)
                return self.available
        return False

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._nudged.wait()
            await self._round()

    async def _round(self) -> None:
        """One look. Whatever goes wrong, there is a next one."""
        look = self._look or self._begin_look()
        await asyncio.wait({look}, timeout=self._patience)
        if look.done():
            self._look = None
            self._conclude(look)
            async with self._looked:
                self._looks_ended = self._looks_begun
                self._looked.notify_all()
        else:
            self._became(False, f"no answer within {self._patience:g} s")
        self._tell_gone(self._keyring.expire())

    def _begin_look(self) -> asyncio.Future[News]:
        self._nudged.clear()
        self._looks_begun += 1
        self._look_began_at = self._clock()
        loop = asyncio.get_running_loop()
        self._look = loop.run_in_executor(self._executor, self._read, self._keyring.revision)
        return self._look

    def _read(self, revision: int | None) -> News:
        """On the thread."""
        if not self._prepared:
            self._prepare()
            self._prepared = True
        return build(self._repository.changes_since(revision))

    def _conclude(self, look: asyncio.Future[News]) -> None:
        try:
            self._learn(look.result())
        except (StoreUnavailable, SettingsError) as error:
            self._became(False, str(error))
        except Exception:
            log.exception("the keys could not be read")
            self._became(False, "an error of this program")
        else:
            self._became(True)

    def _learn(self, news: News) -> None:
        # What was in the store when the look began is known from here on.
        self._keyring.synced(self._look_began_at)
        if news.complete or news.revision != self._keyring.revision:
            gone = self._keyring.apply(news)
            self._hooks.on_keys(len(self._keyring))
            self._tell_gone(gone)

    def _tell_gone(self, principals: set[str]) -> None:
        if principals:
            self._hooks.on_gone(principals)

    def _became(self, available: bool, reason: str = "") -> None:
        if available is self._available:
            return
        first, self._available = self._available is None, available
        self._hooks.on_available(available)
        if not available:
            log.error("store unavailable: %s; keys that are known go on working for a while", reason)
        elif not first:
            log.warning("store recovered")
