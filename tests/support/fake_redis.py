"""A server that speaks Redis's protocol, loads scripts, and answers each call of one with the same error."""

from __future__ import annotations

import asyncio
from types import TracebackType


class FakeRedis:
    """Use as an async context manager. ``answer`` is what calls of scripts get, as it is on the wire."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> FakeRedis:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                words = [await self._word(reader) for _ in range(int((await reader.readuntil(b"\r\n"))[1:]))]
                writer.write(self._reply(words))
                await writer.drain()
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # The caller went away, or the test is over.
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _word(self, reader: asyncio.StreamReader) -> bytes:
        length = int((await reader.readuntil(b"\r\n"))[1:])
        return (await reader.readexactly(length + 2))[:-2]

    def _reply(self, words: list[bytes]) -> bytes:
        match [word.upper() for word in words[:2]]:
            case [b"HELLO", *_]:
                return b"%1\r\n+proto\r\n:3\r\n"
            case [b"SCRIPT", b"LOAD"]:
                return b"+" + b"0" * 40 + b"\r\n"
            case [b"EVALSHA", *_]:
                return self.answer
            case _:
                return b"+OK\r\n"
