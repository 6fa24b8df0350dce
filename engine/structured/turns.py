"""Who is next where only one can be served: callers take turns, whatever each of them has waiting."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairTurns:
    """A lock whose waiters are served caller by caller; those of one caller in the order they came."""

    def __init__(self) -> None:
        self._taken = False
        self._last = ""
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def of(self, caller: str) -> AsyncIterator[None]:
        """``caller``'s turn, for the length of a block."""
        await self._take(caller)
        try:
            yield
        finally:
            self._leave()

    async def _take(self, caller: str) -> None:
        if not self._taken:
            self._taken, self._last = True, caller
            return
        turn = asyncio.get_running_loop().create_future()
        self._lines.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # it was given in the moment of leaving
            raise

    def _leave(self) -> None:
        if self._last in self._lines:
            self._lines.move_to_end(self._last)  # whoever is new comes before whoever just had a turn
        while self._lines:
            caller, line = self._lines.popitem(last=False)
            turn = line.popleft()
            if line:
                self._lines[caller] = line
            if not turn.done():
                self._last = caller
                turn.set_result(None)
                return
        self._taken = False
