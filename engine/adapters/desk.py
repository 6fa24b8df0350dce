"""Answers the processes that share one engine, where its account is kept: all of them hold by one account.

What a process holds is known by the number of its question. A process that is gone gives everything back, once the
engine has nothing of it any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from engine.adapters.manager import AdapterManager
from engine.adapters.residency import Hold
from engine.attachment import HoldWanted, Load, Look, Question, Unload
from engine.types import EngineError, EngineUnavailable

log = logging.getLogger("sluice.adapters")

_Key = tuple[Hashable, int]


class AdapterDesk:
    """``account`` is that of the engine which all askers share. On the event loop's thread."""

    def __init__(self, account: AdapterManager) -> None:
        self.account = account
        self._asked: dict[_Key, asyncio.Task[None]] = {}
        self._given: dict[_Key, Hold] = {}
        self._lasting: set[asyncio.Task[None]] = set()

    def ask(
        self, asker: Hashable, number: int, question: Question, reply: Callable[[Any, EngineError | None], None]
    ) -> None:
        """Answer by ``reply``, unless the question is withdrawn before. Questions of one asker begin in their order."""
        key = asker, number
        task = asyncio.create_task(self._answer(key, question, reply), name=f"adapters-{number}")
        if isinstance(question, Unload):  # once begun it is done, whoever waits for it
            self._lasting.add(task)
            task.add_done_callback(self._lasting.discard)
        else:
            self._asked[key] = task
            task.add_done_callback(lambda _: self._asked.pop(key, None))

    def withdraw(self, asker: Hashable, numbers: Sequence[int]) -> None:
        """See :class:`engine.attachment.AccountLine`."""
        for number in numbers:
            self._drop((asker, number))

    def hush(self, asker: Hashable) -> None:
        """It is gone and waits for nothing; what it holds it keeps."""
        for key in [key for key in self._asked if key[0] == asker]:
            self._asked[key].cancel()

    def leave(self, asker: Hashable) -> None:
        """The engine runs nothing of ``asker`` any more: it gives everything back."""
        self.hush(asker)
        for key in [key for key in self._given if key[0] == asker]:
            self._drop(key)

    def held_by(self, asker: Hashable) -> int:
        """How many holds it has."""
        return sum(1 for key in self._given if key[0] == asker)

    def _drop(self, key: _Key) -> None:
        if (task := self._asked.get(key)) is not None:
            task.cancel()
        if (hold := self._given.pop(key, None)) is not None:
            hold.release()

    async def _answer(self, key: _Key, question: Question, reply: Callable[[Any, EngineError | None], None]) -> None:
        try:
            answer = await self._answered(key, question)
        except EngineError as error:
            reply(None, error)
        except Exception:
            log.exception("a question about adapters could not be answered")
            reply(None, EngineUnavailable("the account of adapters failed"))
        else:
            reply(answer, None)

    async def _answered(self, key: _Key, question: Question) -> Any:
        match question:
            case Load(spec):
                return await self.account.load(spec)
            case Unload(name, drain):
                return await self.account.unload(name, drain=drain)
            case HoldWanted(name):
                hold = self._given[key] = await self.account.hold(name)
                return hold.lora
            case Look():
                return list(self.account.infos())
