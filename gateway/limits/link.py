"""The line to Redis: commands of many requests leave together in one pipeline.

No request owns a connection. One writer takes all that wait, sends them, and hands out the replies; a request that is
cancelled while it waits leaves nothing behind that another one could take for its own reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.limits.line import Call, Line, line_of

MAX_BATCH: Final = 512
_CONNECT_SECONDS: Final = 1.0


class StoreError(Exception):
    """The store did not carry a command out. ``reason`` is one of a few fixed words.

    ``fatal``: it said so itself, and would say it again.
    """

    def __init__(self, reason: str, *, fatal: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fatal = fatal


@dataclass(frozen=True, slots=True)
class Reply:
    """What a script returned. ``repeated``: it was sent twice, and the first copy may still be carried out."""

    value: Any
    repeated: bool


@dataclass(slots=True)
class _Command:
    script: str
    keys: Sequence[str]
    arguments: str
    reply: asyncio.Future[Reply]
    tries: int = 0
    repeated: bool = False


class RedisLink:
    """``connect`` makes a client; ``scripts`` are the Lua texts by name. Use from one event loop."""

    def __init__(self, connect: Callable[[], Any], scripts: Mapping[str, str], timeout: float) -> None:
        self._connect = connect
        self._scripts = scripts
        self._timeout = timeout
        self._line: Line | None = None
        self._shas: dict[str, str] = {}
        self._waiting: list[_Command] = []
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    async def call(self, script: str, keys: Sequence[str], arguments: str) -> Reply:
        """Run a script and wait for its reply, as long as it takes. Raises :class:`StoreError`."""
        command = _Command(script, keys, arguments, asyncio.get_running_loop().create_future())
        self._waiting.append(command)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name="limit-store")
        self._wake.set()
        return await command.reply

    async def close(self) -> None:
        """Let go of the connection; commands that wait fail. Idempotent."""
        if self._writer is not None:
            self._writer.cancel()
            with suppress(asyncio.CancelledError):
                await self._writer
        self._fail(self._waiting, StoreError("closed"))
        self._waiting = []
        await self._drop()

    # -- the writer -------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                # Who has gone away before anything was sent is not sent at all.
                batch = [command for command in batch if not command.reply.done()]
                if batch:
                    await self._carry_out(batch)

    async def _carry_out(self, batch: list[_Command]) -> None:
        try:
            line = await self._ready_for(batch)
        except Exception as error:  # noqa: BLE001 - becomes the error of everybody who waits for this batch
            await self._give_up(batch, error)
            return
        try:
            async with asyncio.timeout(4 * self._timeout):
                replies = await line.run([self._call(command) for command in batch])
        except Exception as error:  # noqa: BLE001
            for command in batch:
                command.repeated = True
            await self._give_up(batch, error)
            return
        for command, reply in zip(batch, replies, strict=True):
            self._answer(command, reply)
        if any(isinstance(reply, Exception) and as_store_error(reply).fatal for reply in replies):
            # It will not serve this connection: perhaps another server does, by the same name.
            await self._drop()

    async def _give_up(self, batch: Sequence[_Command], error: Exception) -> None:
        await self._drop()
        self._again_or_fail(batch, as_store_error(error))

    def _answer(self, command: _Command, reply: Any) -> None:
        if isinstance(reply, NoScriptError) and command.tries == 0:
            self._shas.clear()
            self._again_or_fail([command], as_store_error(reply))
        elif command.reply.done():
            return
        elif isinstance(reply, Exception):
            command.reply.set_exception(as_store_error(reply))
        else:
            command.reply.set_result(Reply(reply, command.repeated))

    def _again_or_fail(self, batch: Sequence[_Command], error: StoreError) -> None:
        """A lost connection may be one that was old: the same commands once more, which are safe to repeat."""
        once = error.reason in ("connection", "noscript")
        for command in batch:
            command.tries += 1
            if once and command.tries == 1 and not command.reply.done():
                self._waiting.append(command)
                self._wake.set()
            else:
                self._fail([command], error)

    async def _ready_for(self, batch: Sequence[_Command]) -> Line:
        """A line to a store that knows the scripts of this batch."""
        missing = {command.script for command in batch} - self._shas.keys()
        if self._line is not None and not missing:
            return self._line
        # To connect may take longer than a decision: who cannot wait has gone by then.
        async with asyncio.timeout(_CONNECT_SECONDS):
            if self._line is None:
                self._line = line_of(self._connect())
            for name in missing:
                self._shas[name] = await self._line.load(self._scripts[name])
        return self._line

    def _call(self, command: _Command) -> Call:
        return (self._shas[command.script], len(command.keys), *command.keys, command.arguments)

    async def _drop(self) -> None:
        line, self._line = self._line, None
        self._shas.clear()
        if line is not None:
            await line.close()

    @staticmethod
    def _fail(batch: Sequence[_Command], error: StoreError) -> None:
        for command in batch:
            if not command.reply.done():
                command.reply.set_exception(error)


def as_store_error(error: BaseException) -> StoreError:
    """What went wrong, in one word."""
    if isinstance(error, StoreError):
        return error
    for kinds, reason, fatal in _REASONS:
        if isinstance(error, kinds):
            return StoreError(reason, fatal=fatal)
    text = str(error) if isinstance(error, ResponseError) else ""
    for words, reason, fatal in _WORDS:
        if words in text:
            return StoreError(reason, fatal=fatal)
    return StoreError("error")


_REASONS: Final[tuple[tuple[tuple[type[BaseException], ...], str, bool], ...]] = (
    ((NoScriptError,), "noscript", False),
    ((ReadOnlyError,), "readonly", True),
    ((BusyLoadingError,), "loading", True),
    ((OutOfMemoryError,), "oom", True),
    ((NoPermissionError, AuthenticationError), "denied", True),
    ((RedisTimeoutError, TimeoutError), "timeout", False),
    ((ClusterError, AskError), "cluster", True),
    ((RedisConnectionError, OSError), "connection", False),
)
#: Of errors that the client has no classes for. A key of the wrong type concerns one limit, not the store.
_WORDS: Final = (
    ("ACL failure in script", "denied", True),
    ("WRONGTYPE", "wrongtype", False),
    ("MISCONF", "misconf", True),
    ("BUSY", "busy", False),
)
