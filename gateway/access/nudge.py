"""Tells the other replicas through Redis that keys, or names of the registry, have changed.

A hint and nothing more: polling finds it anyway.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

log = logging.getLogger("sluice.keys")

FIRST_BACKOFF: Final = 0.5
MAX_BACKOFF: Final = 30.0
PUBLISH_SECONDS: Final = 1.0
#: A connection that says nothing for so long is asked whether it is still there.
_PING_SECONDS: Final = 10.0
_FAULTS: Final = (RedisError, OSError, TimeoutError)


class Nudges:
    """The channel ``{namespace}:{topic}``. ``on_nudge`` is called on the event loop.

    ``connect`` makes a client, anew after every fault; it is closed here. Messages carry nothing that is read.
    """

    def __init__(self, connect: Callable[[], Redis], namespace: str, topic: str, on_nudge: Callable[[], None]) -> None:
        self._connect = connect
        self._channel = f"{namespace}:{topic}"
        self._on_nudge = on_nudge
        self._publisher: Redis | None = None
        self._listening: bool | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def listening(self) -> bool:
        """Whether nudges of others arrive now."""
        return self._listening is True

    def start(self) -> None:
        """Listen in the background until :meth:`stop`."""
        self._task = asyncio.create_task(self._listen(), name=f"nudges-{self._channel}")

    async def stop(self) -> None:
        """End it. Idempotent."""
        while self._task is not None and not self._task.done():
            # A read whose own time ran out in the same turn of the loop takes the cancellation for that, and goes on.
            self._task.cancel()
            await asyncio.wait([self._task], timeout=PUBLISH_SECONDS)
        await self._forget_publisher()

    async def publish(self) -> bool:
        """Tell everybody; whether Redis took it. Never raises for a fault of Redis."""
        try:
            async with asyncio.timeout(PUBLISH_SECONDS):
                if self._publisher is None:
                    self._publisher = self._connect()
                await self._publisher.publish(self._channel, b"")
        except _FAULTS as error:
            await self._forget_publisher()
            log.debug("other replicas were not told of a change: %s", type(error).__name__)
            return False
        return True

    async def _listen(self) -> None:
        backoff = FIRST_BACKOFF
        while True:
            try:
                await self._hear()
            except _FAULTS as error:
                if self._listening:
                    backoff = FIRST_BACKOFF
                self._became(False, str(error) or type(error).__name__)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF)

    async def _hear(self) -> None:
        client = self._connect()
        try:
            async with client.pubsub() as pubsub:
                await pubsub.subscribe(self._channel)
                await self._follow(pubsub)
        finally:
            await _close(client)

    async def _follow(self, pubsub: Any) -> None:
        asked = False
        while True:
            message = await pubsub.get_message(timeout=_PING_SECONDS)
            if message is not None:
                asked = False
                self._understand(message["type"])
            elif asked:
                raise TimeoutError("Redis does not answer")
            else:
                asked = True
                await pubsub.ping()

    def _understand(self, kind: str) -> None:
        if kind == "subscribe":
            self._became(True)
        if kind in ("subscribe", "message"):
            # Some may have been missed before the subscription.
            self._on_nudge()

    def _became(self, listening: bool, reason: str = "") -> None:
        if listening is self._listening:
            return
        self._listening = listening
        if listening:
            log.info("nudges of other replicas arrive")
        else:
            log.warning("nudges of other replicas do not arrive: %s; polling finds changes", reason)

    async def _forget_publisher(self) -> None:
        client, self._publisher = self._publisher, None
        if client is not None:
            await _close(client)


async def _close(client: Redis) -> None:
    with suppress(*_FAULTS):
        async with asyncio.timeout(PUBLISH_SECONDS):
            await client.aclose()
