"""OpenAI's own client asks again exactly where asking again can help."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI

from gateway.errors import ApiError, request_timeout
from tests.support.gateways import Live, running
from tests.support.stub_engine import StubEngine

Call = Callable[[AsyncOpenAI], Awaitable[Any]]
HI: list[Any] = [{"role": "user", "content": "hi"}]


async def calls(live: Live, call: Call, key: str | None = None) -> tuple[int, int]:
    """The status that the client raises, and how many requests it took to believe it."""
    before = len(live.access_log.entries)
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key=key or live.key, max_retries=2) as client:
        with pytest.raises(APIStatusError) as caught:
            await call(client)
    return caught.value.status_code, len(live.access_log.entries) - before


@pytest.mark.parametrize(
    ("status", "call"),
    [
        (400, lambda client: client.chat.completions.create(model="stub", messages=HI, temperature=9)),
        (400, lambda client: client.completions.create(model="stub", prompt=[-1])),
        (404, lambda client: client.chat.completions.create(model="none", messages=HI)),
        (404, lambda client: client.models.retrieve("none")),
        (404, lambda client: client.files.list()),
        (413, lambda client: client.completions.create(model="stub", prompt="x" * 11_000_000)),
        (501, lambda client: client.moderations.create(input="x")),
    ],
)
async def test_what_stays_wrong_is_asked_once(stub: Live, status: int, call: Call) -> None:
    assert await calls(stub, call) == (status, 1)


async def test_wrong_keys_and_used_up_limits_are_asked_once(tmp_path: Path) -> None:
    async with running(StubEngine(), tmp_path, limits={"key": {"requests_per_minute": 0}}) as live:
        assert await calls(live, lambda client: client.models.list(), key="sk-wrong") == (401, 1)
        chat: Call = lambda client: client.chat.completions.create(model="stub", messages=HI)  # noqa: E731
        assert await calls(live, chat) == (429, 1)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 411, 413, 414, 415, 417, 422, 431, 501])
def test_every_lasting_answer_says_so(status: int) -> None:
    assert (b"x-should-retry", b"false") in ApiError(status, "x", code="x").headers()


@pytest.mark.parametrize(
    "error",
    [
        request_timeout(),
        ApiError(429, "x", code="x", retry_after=1),
        ApiError(503, "x", code="x", retry_after=1),
        ApiError(500, "x", code="x"),
    ],
)
def test_what_may_go_well_the_next_time_does_not(error: ApiError) -> None:
    assert b"x-should-retry" not in dict(error.headers())
