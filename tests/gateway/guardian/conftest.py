"""A moderation endpoint of our own, which can be slow, broken and away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

BAD = "zorblax"


@dataclass
class Moderation:
    """A real server on loopback. ``answer`` None: by the planted word; ``seconds``: how long it takes."""

    port: int = 0
    seconds: float = 0.0
    answer: bytes | None = None
    status: bytes = b"200 OK"
    dies: bool = False
    fails_on: str | None = None
    asked: list[str] = field(default_factory=list)
    running: int = 0
    most: int = 0
    left: int = 0

    def evaluator(self, **settings: Any) -> dict[str, Any]:
        return {"kind": "moderation", "url": f"http://127.0.0.1:{self.port}/v1", **settings}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(
                    next(
                        v
                        for k, _, v in (h.partition(b":") for h in head.split(b"\r\n"))
                        if k.lower() == b"content-length"
                    )
                )
                body = orjson.loads(await reader.readexactly(length))
                if self.dies:
                    break
                await self._answer(body["input"], reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, text: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(text)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            gone = asyncio.ensure_future(reader.read(1))
            done, _ = await asyncio.wait({gone}, timeout=self.seconds) if self.seconds else (set(), set())
            if done:
                self.left += 1
                return
            gone.cancel()
            await asyncio.wait({gone})
        finally:
            self.running -= 1
        answer = self.answer if self.answer is not None else orjson.dumps(moderation(BAD in text.lower()))
        status = b"500 Broken" if self.fails_on is not None and self.fails_on in text else self.status
        writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n" % (status, len(answer)) + answer)
        await writer.drain()


def moderation(flagged: bool) -> dict[str, Any]:
    score = 0.99 if flagged else 0.01
    return {"id": "modr-1", "model": "m", "results": [
        {"flagged": flagged, "categories": {"violence": flagged}, "category_scores": {"violence": score, "sexual": 0.0}}
    ]}  # fmt: skip


@pytest.fixture
async def moderator() -> AsyncIterator[Moderation]:
    fake = Moderation()
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    yield fake
    server.close()
