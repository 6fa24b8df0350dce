"""Adapters of an engine whose account another process keeps: every request asks it for a hold.

A hold is given back when the engine has heard that its request is over. Between processes nothing else says so: the
word that ends a request takes this process's way to the engine, the one that makes room another's, and an adapter that
left under a running request would be read again by vLLM's worker, which chooses for itself whom to drop for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

from engine.adapters.facts import Facts
from engine.adapters.residency import Hold
from engine.attachment import AccountLine, HoldWanted, Load, Look, Question, Unload
from engine.types import AdapterInfo, AdapterNotFound, AdapterSpec, EngineError

_SETTLE_SECONDS: Final = 1.0


class AdaptersElsewhere:
    """See :class:`engine.adapters.account.AdapterAccount`. ``settle`` returns when the engine has heard all that this
    process said to it; it raises :class:`engine.types.EngineError` when there is none.
    """

    def __init__(self, line: AccountLine, settle: Callable[[], Awaitable[None]]) -> None:
        self._line = line
        self._settle = settle
        self._infos: dict[str, AdapterInfo] = {}
        #: Of the engine: holds of an earlier one keep nothing.
        self._epoch = 0
        #: Questions whose holds are over: not said to the engine's ears yet, and being said.
        self._over: set[int] = set()
        self._settling: set[int] = set()
        self._return: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def started(self, facts: Facts) -> None:
        """See :class:`engine.adapters.account.AdapterAccount`; who keeps the account knows it already."""

    def lost(self, error: EngineError) -> None:  # noqa: ARG002 - who keeps the account tells those who wait
        """See :class:`engine.adapters.account.AdapterAccount`."""
        self._epoch += 1
        for task in self._tasks:
            task.cancel()
        left = self._over | self._settling
        self._over, self._settling = set(), set()
        self._line.withdraw(tuple(left))

    def infos(self) -> Sequence[AdapterInfo]:
        """See :class:`engine.adapters.account.AdapterAccount`; as of the last look."""
        return [self._infos[name] for name in sorted(self._infos)]

    async def look(self) -> None:
        """See :class:`engine.adapters.account.AdapterAccount`."""
        if self._over or self._settling:
            # What has ended is not running, as soon as the engine has heard of it; one that hangs is not waited for.
            await asyncio.wait({self._spawn(self._give_back())}, timeout=_SETTLE_SECONDS)
        _, infos = await self._ask(Look())
        self._infos = {info.name: info for info in infos}

    async def load(self, spec: AdapterSpec) -> AdapterInfo:
        """See :meth:`engine.types.Engine.load_adapter`."""
        info: AdapterInfo = (await self._ask(Load(spec)))[1]
        self._infos[info.name] = info
        return info

    async def unload(self, name: str, *, drain: bool) -> None:
        """See :meth:`engine.types.Engine.unload_adapter`."""
        if drain:
            self._infos.pop(name, None)
        await self._line.ask(self._line.number(), Unload(name, drain))
        self._infos.pop(name, None)

    async def hold(self, name: str) -> Hold:
        """See :meth:`engine.types.Engine.hold_adapter`."""
        epoch = self._epoch
        try:
            number, lora = await self._ask(HoldWanted(name))
        except AdapterNotFound:
            self._infos.pop(name, None)
            raise
        return Hold(lora, lambda: self._released(number, epoch), lambda: self._epoch == epoch)

    async def _ask(self, question: Question) -> tuple[int, Any]:
        """The question's number and its answer. Whoever gives up takes the question back: it may just be answered."""
        number = self._line.number()
        try:
            return number, await self._line.ask(number, question)
        except asyncio.CancelledError:
            self._line.withdraw([number])
            raise

    def _released(self, number: int, epoch: int) -> None:
        if epoch != self._epoch:
            self._line.withdraw([number])
            return
        self._over.add(number)
        if self._return is None or self._return.done():
            self._return = self._spawn(self._give_all_back())

    async def _give_all_back(self) -> None:
        """All that ends while the engine is asked waits for the next question: one at a time is enough."""
        while self._over:
            await self._give_back()

    async def _give_back(self) -> None:
        over, self._over = self._over, set()
        self._settling |= over
        with suppress(EngineError):
            await self._settle()
        self._settling -= over
        self._line.withdraw(tuple(over))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="adapters-give-back")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
