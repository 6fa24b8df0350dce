"""What carries scripts to Redis: one connection that is ours alone, or the client of a cluster."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from hiredis import pack_command
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisError, ResponseError

_CLOSE_SECONDS: Final = 1.0

#: The script's SHA, the number of keys, the keys, the arguments as one text.
Call = tuple[str | int, ...]


class Line(Protocol):
    """Not for two callers at once. Nothing here has a time limit of its own: the caller sets it.

    Raises what redis-py and the operating system raise; a line that raised, or was cancelled, is only good for closing.
    """

    async def load(self, script: str) -> str:
        """Make ``script`` known; its SHA."""

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """The reply to each call, or the error that Redis answered it with."""

    async def close(self) -> None:
        """Idempotent."""


def line_of(client: Any) -> Line:
    """The line that ``client`` of redis-py can give."""
    return ClusterLine(client) if isinstance(client, RedisCluster) else SingleLine(client)


class SingleLine:
    """Calls leave as one write, without the client's pipelines: they cost more than the decision.

    redis-py finds the server, logs in and reads replies.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._connection: Any = None

    async def load(self, script: str) -> str:
        """See :class:`Line`."""
        (sha,) = await self._exchange([("SCRIPT", "LOAD", script)])
        if isinstance(sha, Exception):
            raise sha
        return sha.decode("ascii") if isinstance(sha, bytes) else str(sha)

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """See :class:`Line`."""
        return await self._exchange([("EVALSHA", *call) for call in calls])

    async def _exchange(self, commands: Sequence[tuple[str | int, ...]]) -> list[Any]:
        if self._connection is None:
            self._connection = await self._client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
        packed = b"".join([pack_command(command) for command in commands])  # type: ignore[arg-type]
        await self._connection.send_packed_command(packed, check_health=False)
        return [await self._reply() for _ in commands]

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response(timeout=math.inf)
        except ResponseError as error:
            return error

    async def close(self) -> None:
        """See :class:`Line`."""
        self._connection = None
        await _close(self._client)


class ClusterLine:
    """Every call finds its node by its keys."""

    def __init__(self, client: RedisCluster) -> None:
        self._client = client

    async def load(self, script: str) -> str:
        """See :class:`Line`."""
        sha = await self._client.script_load(script)
        return sha.decode("ascii") if isinstance(sha, bytes) else str(sha)

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """See :class:`Line`."""
        each: list[Any] = [self._client.evalsha(*call) for call in calls]  # type: ignore[arg-type]
        return await asyncio.gather(*each, return_exceptions=True)

    async def close(self) -> None:
        """See :class:`Line`."""
        await _close(self._client)


async def _close(client: Redis | RedisCluster) -> None:
    with suppress(RedisError, OSError, TimeoutError):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await client.aclose()
