"""The pulled form of a generation, for callers that want an iterator instead of a sink."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Protocol

from engine.types import Delta, DeltaSink, GenerationRequest


class Runs(Protocol):
    """What generates."""

    async def run(self, request: GenerationRequest, sink: DeltaSink) -> None:
        """See :meth:`engine.types.Engine.run`."""


class _QueueSink:
    def __init__(self, queue: asyncio.Queue[Delta | None]) -> None:
        self._queue = queue

    def text(self, text: str, tokens: int) -> None:
        self._queue.put_nowait(Delta(0, text, tokens))

    def delta(self, delta: Delta) -> None:
        self._queue.put_nowait(delta)

    def cached(self, tokens: int) -> None:
        """A delta has no place for it."""


async def pull(engine: Runs, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
    """Deltas of ``engine.run`` in order. Closing the generator (use ``contextlib.aclosing``) aborts the request."""
    queue: asyncio.Queue[Delta | None] = asyncio.Queue()
    running = asyncio.ensure_future(engine.run(request, _QueueSink(queue)))
    running.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (delta := await queue.get()) is not None:
            yield delta
        await running
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
