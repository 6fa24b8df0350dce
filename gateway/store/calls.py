"""Calls that block on the store, from the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from gateway.store.database import StoreUnavailable
from gateway.store.opened import Store

T = TypeVar("T")


class StoreCalls:
    """Carries them to the store's threads, and bounds how long they take."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def call(self, action: Callable[[], T]) -> T:
        """``action``, on a thread. Raises :class:`~gateway.store.database.StoreUnavailable`, also when it is late."""
        timeout = 2 * self._store.database.timeout
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.get_running_loop().run_in_executor(self._store.executor, action)
        except TimeoutError:
            raise StoreUnavailable(f"no answer within {timeout:g} s") from None
