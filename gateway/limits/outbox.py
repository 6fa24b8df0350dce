"""Settlements on their way to the shared store: off the hot path, in batches, again until they have arrived."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from gateway.limits.link import StoreError
from gateway.limits.plan import Charge
from gateway.limits.redis import RedisStore

log = logging.getLogger("sluice.limits")

CAPACITY: Final = 100_000
_BATCH: Final = 256
_PAUSE_SECONDS: Final = 0.5
_LINGER_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True)
class Settlement:
    """Give back what ``request_id`` was granted beyond ``tokens``. ``unsure``: whether it was granted is not known."""

    request_id: str
    charges: Sequence[Charge]
    tokens: int
    unsure: bool = False


class Outbox:
    """Bounded by ``full``: who would add to a full outbox must not reserve any more. Use from one event loop."""

    def __init__(self, store: RedisStore, usable: Callable[[], bool], on_error: Callable[[StoreError], None]) -> None:
        self._store = store
        self._usable = usable
        self._on_error = on_error
        self._waiting: deque[Settlement] = deque()
        self._sending = 0
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def __len__(self) -> int:
        return len(self._waiting) + self._sending

    @property
    def full(self) -> bool:
        """No more may be promised to be settled."""
        return len(self) >= CAPACITY

    def put(self, settlement: Settlement) -> None:
        """Take one. Never blocks."""
        self._waiting.append(settlement)
        self._empty.clear()
        self._wake.set()

    def wake(self) -> None:
        """The store can be reached again."""
        self._wake.set()

    def start(self) -> None:
        """Send in the background."""
        self._task = asyncio.create_task(self._run(), name="limit-settlements")

    async def close(self, within: float) -> None:
        """Send what is left for at most ``within`` seconds; what is not sent then is told in the log."""
        if self._task is None:
            return
        self._closing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._empty.wait()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        if len(self):
            log.error("%d settlements of limits were not sent: their reservations end with their windows", len(self))

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            if not self._closing:
                # Those of a few milliseconds leave together.
                await asyncio.sleep(_LINGER_SECONDS)
            self._wake.clear()
            while self._waiting and self._usable():
                if not await self._send():
                    await asyncio.sleep(_PAUSE_SECONDS)
            if not self._waiting:
                self._empty.set()

    async def _send(self) -> bool:
        batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        self._sending = len(batch)
        calls = [self._store.settle(each.request_id, each.charges, each.tokens, unsure=each.unsure) for each in batch]
        results = await asyncio.gather(*calls, return_exceptions=True)
        self._sending = 0
        failed = [each for each, result in zip(batch, results, strict=True) if isinstance(result, BaseException)]
        # They may be repeated: a settlement that did arrive finds its grant gone.
        self._waiting.extendleft(reversed(failed))
        for result in results:
            if isinstance(result, StoreError):
                self._on_error(result)
                break
        return not failed
