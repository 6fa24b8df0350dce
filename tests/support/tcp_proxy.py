"""A TCP proxy between a gateway and a server of the tests' own: slow, lossy, cut off, or moved to another server."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from types import TracebackType


class TcpProxy:
    """Use as an async context manager, on the loop of the test.

    ``delay`` holds back every answer by that many seconds. ``loss`` is the chance that an answer is lost and its
    connection cut, which is how a lost packet or a dying balancer looks from above. In a partition nothing passes in
    either direction, and connections stay open. ``target_port`` is where new connections lead.
    """

    def __init__(self, target_port: int, *, seed: int = 0) -> None:
        self.target_port = target_port
        self.delay = 0.0
        self.loss = 0.0
        self.lost = 0
        self._lose_next = False
        self._random = random.Random(seed)
        self._passable = asyncio.Event()
        self._passable.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def partition(self) -> None:
        self._passable.clear()

    def heal(self) -> None:
        self._passable.set()

    def lose_next_answer(self) -> None:
        """The next request reaches the server, and its answer is lost with the connection."""
        self._lose_next = True

    async def __aenter__(self) -> TcpProxy:
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
        writers = [writer]
        try:
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            writers.append(target_writer)
            ways = [
                asyncio.ensure_future(self._forward(reader, target_writer, answers=False)),
                asyncio.ensure_future(self._forward(target_reader, writer, answers=True)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # The other end is away, or the test is over: this connection ends.
        finally:
            self._tasks.discard(task)
            for each in writers:
                with suppress(OSError):
                    each.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await reader.read(65_536):
            await self._passable.wait()
            if answers:
                if self.delay:
                    await asyncio.sleep(self.delay)
                if self._lose_next or self._random.random() < self.loss:
                    self._lose_next = False
                    self.lost += 1
                    return
            writer.write(data)
            await writer.drain()
