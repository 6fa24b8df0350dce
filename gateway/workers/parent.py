"""A worker's end of the line to its parent: where its engine comes from, who tells it to stop, who adds up metrics."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from engine.attachment import Attachment, Question
from engine.types import EngineError, EngineUnavailable
from gateway.reload.reloader import Cause, InvalidConfig, Outcome
from gateway.workers.messages import (
    Answered,
    Asked,
    Counted,
    Counts,
    CountsWanted,
    Done,
    EngineLost,
    NoEngine,
    Order,
    Place,
    PlaceWanted,
    Ready,
    Refused,
    ReloadWanted,
    Stop,
    SumWanted,
    Told,
    Withdrawn,
)

log = logging.getLogger("sluice.workers")

#: Seconds that a scrape waits for the sum; the parent itself waits less for slow workers.
SCRAPE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Orders:
    """What the parent's words do in the worker; all but ``count`` are called on its event loop.

    ``told``: what another worker wants done, and what comes of it.
    """

    drain: Callable[[], None]
    end: Callable[[], None]
    told: Callable[[object], Awaitable[object]]
    refresh: Callable[[], Awaitable[None]]
    count: Callable[[], Counted]


class Parent:
    """Safe to use from every thread. The process ends when the parent does."""

    def __init__(self, connection: Connection, *, late: bool) -> None:
        self.late = late
        self._connection = connection
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._place: Place | None = None
        self._lost = 0
        self._refused: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._orders: Orders | None = None
        self._questions = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # -- the engine: see engine.attachment.Attachments --------------------------------------------------------------

    def attach(self) -> Attachment:
        """See :class:`engine.attachment.Attachments`."""
        with self._changed:
            had = self._place
            broken = had.generation if had is not None else None
            self._place, self._refused = None, None
        self._send(PlaceWanted(broken))
        with self._changed:
            self._changed.wait_for(lambda: self._place is not None or self._refused is not None)
            if self._place is None:
                raise EngineUnavailable(self._refused or "there is no engine")
            return self._place.attachment

    def lost(self, attachment: Attachment) -> bool:
        """See :class:`engine.attachment.Attachments`."""
        place = self._place
        return place is None or place.attachment is not attachment or place.generation <= self._lost

    def cancel(self) -> None:
        """See :class:`engine.attachment.Attachments`."""
        self._take(NoEngine("the process is stopping"))

    # -- the event loop ---------------------------------------------------------------------------------------------

    def obey(self, orders: Orders) -> None:
        """Do what the parent says from now on. On the loop that serves."""
        self._loop = asyncio.get_running_loop()
        self._orders = orders
        threading.Thread(target=self._listen, name="sluice-parent", daemon=True).start()

    def ready(self) -> None:
        """Tell the parent that this worker serves."""
        self._send(Ready())

    async def scrape(self) -> bytes:
        """The metrics of all workers together. Raises TimeoutError."""
        number = self.number()
        async with asyncio.timeout(SCRAPE_SECONDS):
            text: bytes = await self._answer(number, SumWanted(number))
        return text

    async def everywhere(self, act: object) -> Sequence[object]:
        """Have every other worker that serves do it; what they answer, but for those that are slow or die."""
        number = self.number()
        answers: Sequence[object] = await self._answer(number, Order(number, act))
        return answers

    async def reload(self, cause: Cause) -> Outcome:
        """Have the settings read anew for all workers. Raises :class:`InvalidConfig`; then nothing has changed."""
        number = self.number()
        answer = await self._answer(number, ReloadWanted(number, cause))
        if isinstance(answer, Refused):
            raise InvalidConfig(answer.path, answer.reason)
        if not isinstance(answer, Outcome):
            raise RuntimeError("the parent could not read the settings")
        return answer

    async def _answer(self, number: int, message: object) -> Any:
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(message)
            return await answer
        finally:
            del self._asked[number]

    # -- adapters: see engine.attachment.AccountLine ----------------------------------------------------------------

    def number(self) -> int:
        """See :class:`engine.attachment.AccountLine`."""
        return next(self._questions)

    async def ask(self, number: int, question: Question) -> Any:
        """See :class:`engine.attachment.AccountLine`."""
        return await self._answer(number, Asked(number, question))

    def withdraw(self, numbers: Sequence[int]) -> None:
        """See :class:`engine.attachment.AccountLine`."""
        if numbers:
            with suppress(OSError):  # the parent is gone, and the account with it
                self._send(Withdrawn(tuple(numbers)))

    # -- the line ---------------------------------------------------------------------------------------------------

    def _send(self, message: object) -> None:
        with self._sending:
            self._connection.send(message)

    def _listen(self) -> None:
        assert self._loop is not None
        try:
            while True:
                message = self._connection.recv()
                if isinstance(message, Place | NoEngine | EngineLost):
                    self._take(message)
                else:
                    self._loop.call_soon_threadsafe(self._do, message)
        except (EOFError, OSError):
            os._exit(1)  # nobody is left to drain for, and the engine is ending too
        except RuntimeError:
            return  # the loop is closed: the process is at its end

    def _take(self, message: Place | NoEngine | EngineLost) -> None:
        with self._changed:
            match message:
                case Place(generation):
                    if generation > self._lost:
                        self._place = message
                case NoEngine(reason):
                    self._refused = reason
                case EngineLost(generation):
                    self._lost = generation
            self._changed.notify_all()

    def _do(self, message: object) -> None:
        assert self._orders is not None
        match message:
            case Stop(now=False):
                self._orders.drain()
            case Stop(now=True):
                self._orders.end()
            case CountsWanted(scrape):
                self._start(self._count(scrape))
            case Told(order, act):
                self._start(self._carry_out(order, act))
            case Answered(number, answer, error):
                self._settle(number, answer, error)

    def _settle(self, number: int, answer: object, error: EngineError | None) -> None:
        waiting = self._asked.get(number)
        if waiting is None or waiting.done():
            return
        if error is not None:
            waiting.set_exception(error)
        else:
            waiting.set_result(answer)

    async def _carry_out(self, order: int, act: object) -> None:
        assert self._orders is not None
        answer = None
        try:
            answer = await self._orders.told(act)
        except Exception:
            log.exception("what another worker asked for went wrong")
        self._send(Done(order, answer))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _count(self, scrape: int) -> None:
        assert self._orders is not None
        await self._orders.refresh()
        counted = await asyncio.to_thread(self._orders.count)
        await asyncio.to_thread(self._send, Counts(scrape, counted))
