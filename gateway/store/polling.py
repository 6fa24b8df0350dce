"""Looks into the store again and again, on a thread that may block: every so often, and at once when nudged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

from gateway.settings import SettingsError
from gateway.store.database import StoreUnavailable
from gateway.store.executor import StoreExecutor

log = logging.getLogger("sluice.store")

_PATIENCE: Final = 10.0

N = TypeVar("N")


class Poller(Generic[N]):
    """``begin``, on the event loop, gives what is to be called on the thread; ``learn`` takes what that gives, on the
    loop again. ``what`` names it in the log.

    One look at a time: a store that does not answer within ``patience`` seconds counts as away, though the one thread
    goes on waiting for it.
    """

    def __init__(
        self,
        what: str,
        begin: Callable[[], Callable[[], N]],
        learn: Callable[[N], None],
        *,
        interval: float,
        patience: float = _PATIENCE,
    ) -> None:
        self._what = what
        self._begin_read = begin
        self._learn = learn
        self._interval = interval
        self._patience = patience
        self._executor = StoreExecutor(1, f"sluice-{what}")
        self._nudged = asyncio.Event()
        self._looked = asyncio.Condition()
        self._begun = 0
        self._ended = 0
        self._look: asyncio.Future[N] | None = None
        self._task: asyncio.Task[None] | None = None
        self.available: bool | None = None

    async def start(self) -> None:
        """Look once, and go on in the background."""
        await self._round()
        self._task = asyncio.create_task(self._run(), name=f"poll-{self._what}")

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
        """Look at once and wait for it, at most ``within`` seconds; whether what is known is up to date with now."""
        wanted = self._begun + 1
        self.nudge()
        with suppress(TimeoutError):
            async with asyncio.timeout(within), self._looked:
                await self._looked.wait_for(lambda: self._ended >= wanted)
                return self.available is True
        return False

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._nudged.wait()
            await self._round()

    async def _round(self) -> None:
        """One look. Whatever goes wrong, there is a next one."""
        look = self._look or self._begin()
        await asyncio.wait({look}, timeout=self._patience)
        if not look.done():
            self._became(False, f"no answer within {self._patience:g} s")
            return
        self._look = None
        self._conclude(look)
        async with self._looked:
            self._ended = self._begun
            self._looked.notify_all()

    def _begin(self) -> asyncio.Future[N]:
        self._nudged.clear()
        self._begun += 1
        self._look = asyncio.get_running_loop().run_in_executor(self._executor, self._begin_read())
        return self._look

    def _conclude(self, look: asyncio.Future[N]) -> None:
        try:
            self._learn(look.result())
        except (StoreUnavailable, SettingsError) as error:
            self._became(False, str(error))
        except Exception:
            log.exception("the %s could not be read", self._what)
            self._became(False, "an error of this program")
        else:
            self._became(True)

    def _became(self, available: bool, reason: str = "") -> None:
        if available is self.available:
            return
        first, self.available = self.available is None, available
        if not available:
            log.error("store unavailable: %s; the %s stays as it is", reason, self._what)
        elif not first:
            log.warning("store recovered: the %s is up to date", self._what)
