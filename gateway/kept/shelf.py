"""Where responses are kept: the database behind threads of its own, never waited for on the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import orjson

from gateway.errors import response_not_found, store_unavailable
from gateway.settings import ResponseSettings, SettingsError
from gateway.store.database import StoreUnavailable
from gateway.store.executor import StoreExecutor
from gateway.store.responses import KeptResponse, ResponseRepository

log = logging.getLogger("sluice.responses")

RETRY_AFTER: Final = 2.0
PURGE_SECONDS: Final = 3600.0
RETRY_SECONDS: Final = 5.0
_DAY: Final = 86_400.0
_THREADS: Final = 2

T = TypeVar("T")


class Shelf:
    """A :class:`~gateway.lifecycle.Service`. ``prepare`` makes the database ready; ``patience`` in seconds bounds one
    call of it; ``on_lost`` is told of every response that could not be kept.
    """

    def __init__(
        self,
        repository: ResponseRepository,
        settings: ResponseSettings,
        *,
        prepare: Callable[[], None],
        patience: float,
        on_lost: Callable[[], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._settings = settings
        self._prepare = prepare
        self._patience = patience
        self._on_lost = on_lost
        self._wall = wall
        self._executor = StoreExecutor(_THREADS, "sluice-responses")
        self._sweeping: asyncio.Task[None] | None = None
        self._prepared = False
        self._available: bool | None = None

    @property
    def max_bytes(self) -> int:
        """Bytes that the conversation of one response may have."""
        return self._settings.max_bytes

    # -- see gateway.lifecycle.Service --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to forget what has expired."""
        self._sweeping = asyncio.create_task(self._sweep(), name="responses-sweep")

    async def stop(self) -> None:
        """End it. Does not wait for a database that does not answer. Idempotent."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeping
        self._executor.shutdown(wait=False, cancel_futures=True)

    def degraded(self) -> Sequence[str]:
        """See :class:`~gateway.lifecycle.Service`."""
        return () if self._available else ("responses",)

    # -- what the routes do -------------------------------------------------------------------------------------------

    async def keep(self, tenant: str, document: dict[str, Any], items: bytes) -> bool:
        """Whether it was kept. A loss is logged and counted; the caller's answer says ``"store": false``."""
        now = self._wall()
        expires = now + self._settings.retention_days * _DAY
        kept = KeptResponse(document["id"], tenant, now, expires, orjson.dumps(document), items)
        try:
            await self._call(lambda: self._repository.keep(kept))
        except StoreUnavailable as error:
            log.error("a response could not be kept: %s", error, extra={"fields": {"response_id": kept.id}})
            self._on_lost()
            return False
        return True

    async def find(self, tenant: str, response_id: str) -> KeptResponse:
        """The tenant's response. Raises :class:`~gateway.errors.ApiError` 404, 503."""
        kept = await self._answer(lambda: self._repository.find(response_id, tenant, self._wall()))
        if kept is None:
            raise response_not_found()
        return kept

    async def forget(self, tenant: str, response_id: str) -> None:
        """Delete the tenant's response. Raises :class:`~gateway.errors.ApiError` 404, 503."""
        if not await self._answer(lambda: self._repository.forget(response_id, tenant, self._wall())):
            raise response_not_found()

    async def _answer(self, action: Callable[[], T]) -> T:
        try:
            return await self._call(action)
        except StoreUnavailable as error:
            log.error("store unavailable: %s", error)
            raise store_unavailable(RETRY_AFTER) from None

    async def _call(self, action: Callable[[], T]) -> T:
        """``action`` on a thread. Raises :class:`StoreUnavailable` also where it takes too long."""
        work = asyncio.get_running_loop().run_in_executor(self._executor, action)
        try:
            async with asyncio.timeout(self._patience):
                result = await work
        except StoreUnavailable:
            self._available = False
            raise
        except TimeoutError:
            self._available = False
            raise StoreUnavailable(f"no answer within {self._patience:g} s") from None
        self._available = True
        return result

    # -- what has expired ---------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        while True:
            pause = PURGE_SECONDS if await self._swept() else RETRY_SECONDS
            await asyncio.sleep(pause)

    async def _swept(self) -> bool:
        try:
            count = await asyncio.get_running_loop().run_in_executor(self._executor, self._purge)
        except (StoreUnavailable, SettingsError) as error:
            if self._available is not False:
                log.error("responses cannot be kept now: %s", error)
            self._available = False
            return False
        self._available = True
        if count:
            log.info("responses expired", extra={"fields": {"count": count}})
        return True

    def _purge(self) -> int:
        """On a thread."""
        if not self._prepared:
            # Once: a database that goes away later must not be made anew, empty.
            self._prepare()
            self._prepared = True
        return self._repository.purge(self._wall())
