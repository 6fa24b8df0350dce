"""Shadow traffic over a whole gateway and the stub engine: seen by nobody, paid by nobody, in nobody's way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.registry.shadows import AT_ONCE, ROUTE, SHADOW
from gateway.usage.records import Admitted, Settled
from tests.support.gateways import Live, eventually, running
from tests.support.stub_engine import Faults, StubConfig, StubEngine

ADMIN = "/v1/admin/registry"


@asynccontextmanager
async def started(engine: StubEngine, tmp_path: Path, **more: Any) -> AsyncIterator[tuple[Live, httpx.AsyncClient]]:
    """A name whose version 1 is the model and whose version 2, its shadow, is an adapter on it."""
    (tmp_path / "root" / "poet").mkdir(parents=True)
    adapters = {"enabled": True, "roots": [str(tmp_path / "root")]}
    async with (
        running(engine, tmp_path, with_store=True, adapters=adapters, **more) as live,
        httpx.AsyncClient(base_url=live.url, headers=live.authorization, timeout=30.0) as client,
    ):
        path = str(tmp_path / "root" / "poet")
        for method, where, body in (
            ("POST", "/v1/adapters", {"name": "poet", "path": path, "shared": True}),
            ("POST", ADMIN, {"name": "assistant", "target": "stub", "activate": True}),
            ("POST", ADMIN, {"name": "assistant", "target": "poet"}),
            ("PUT", f"{ADMIN}/assistant/shadow", {"version": 2}),
        ):
            done = await client.request(method, where, json=body)
            assert done.status_code == 200, done.text
        yield live, client


@pytest.fixture
async def shadowed(tmp_path: Path) -> AsyncIterator[tuple[Live, httpx.AsyncClient]]:
    async with started(StubEngine(), tmp_path) as each:
        yield each


async def complete(client: httpx.AsyncClient, **more: Any) -> httpx.Response:
    body = {"model": "assistant", "prompt": "hello", "max_tokens": 4, **more}
    return await client.post("/v1/completions", json=body)


def shadows(live: Live, outcome: str) -> float:
    labels = {"name": "assistant", "arm": "assistant@2", "outcome": outcome}
    return live.metric("sluice_registry_shadows_total", **labels)


async def test_nobody_sees_it_and_nobody_pays_for_it(shadowed: tuple[Live, httpx.AsyncClient]) -> None:
    live, client = shadowed
    answer = await complete(client)
    assert answer.headers["x-sluice-arm"] == "assistant@1"
    plain = await client.post("/v1/completions", json={"model": "stub", "prompt": "hello", "max_tokens": 4})
    assert answer.json()["choices"] == plain.json()["choices"]
    await eventually(lambda: shadows(live, "completed") == 1, 30.0)
    rows = [row for row in live.ledger.entries if row.principal == SHADOW]
    assert [type(row) for row in rows] == [Admitted, Settled]
    for row in rows:
        assert (row.tenant, row.route, row.adapter, row.arm) == (SHADOW, ROUTE, "poet", "assistant@2")
    settled = rows[1]
    assert isinstance(settled, Settled)
    assert (settled.outcome, settled.completion_tokens) == ("completed", 4)
    callers = {row.arm for row in live.ledger.entries if row.principal != SHADOW}
    assert callers == {"assistant@1", None}
    assert live.engine.leaks() == []


async def test_streams_batches_and_conversations_are_shadowed_too(shadowed: tuple[Live, httpx.AsyncClient]) -> None:
    live, client = shadowed
    async with client.stream(
        "POST", "/v1/completions", json={"model": "assistant", "prompt": "x", "max_tokens": 4, "stream": True}
    ) as stream:
        assert "[DONE]" in (await stream.aread()).decode()
    await eventually(lambda: shadows(live, "completed") == 1, 30.0)
    await complete(client, prompt=["one", "two"], n=2, temperature=1)
    await eventually(lambda: shadows(live, "completed") == 2, 30.0)
    chat = {"model": "assistant", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4}
    assert (await client.post("/v1/chat/completions", json=chat)).status_code == 200
    await eventually(lambda: shadows(live, "completed") == 3, 30.0)
    assert (await client.delete(f"{ADMIN}/assistant/shadow")).json()["shadow"] is None
    await complete(client)
    assert live.engine.leaks() == []


async def test_a_shadow_that_fails_harms_nobody(shadowed: tuple[Live, httpx.AsyncClient]) -> None:
    live, client = shadowed
    await client.delete("/v1/adapters/poet")
    assert (await complete(client)).status_code == 200
    await eventually(lambda: shadows(live, "failed") == 1, 30.0)
    assert live.ledger.violations == []


async def test_a_version_that_shadows_is_in_use_and_only_text_is_shadowed(tmp_path: Path) -> None:
    async with started(StubEngine(StubConfig(beside=(("vectors", "embed"),))), tmp_path) as (_live, client):
        removed = await client.delete(f"{ADMIN}/assistant@2")
        assert removed.json()["error"]["code"] == "in_use"
        await client.post(ADMIN, json={"name": "vec", "target": "vectors"})
        refused = await client.put(f"{ADMIN}/vec/shadow", json={"version": 1})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_kind_mismatch")
        assert (await client.delete(f"{ADMIN}/vec/shadow")).json()["error"]["code"] == "no_shadow"
        assert (await client.put(f"{ADMIN}/assistant/shadow", json={"version": 2, "percent": 0})).status_code == 400


async def test_it_is_bounded_gives_way_and_ends_with_the_drain(tmp_path: Path) -> None:
    """The engine stands still: what is asked stays in it until it is told otherwise."""
    engine = StubEngine(faults=Faults(hang_seen_after=1e9))
    bound = {"max_running": 8}
    async with started(engine, tmp_path, admission=bound, drain_timeout=0.0) as (live, client):
        engine.faults.hang = True
        asked = [asyncio.ensure_future(complete(client)) for _ in range(AT_ONCE + 2)]
        await eventually(lambda: shadows(live, "crowded") == 2, 30.0)

        def shadows_inside() -> int:
            return sum(1 for request_id in engine.request_states if request_id.startswith("shadow-"))

        assert shadows_inside() == AT_ONCE
        # As many run as may: the shadows leave before anybody waits for them.
        asked += [asyncio.ensure_future(complete(client)) for _ in range(4)]
        await eventually(lambda: shadows_inside() == 0, 30.0)
        engine.faults.hang = False
        assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
        before = shadows(live, "crowded")
        assert before >= AT_ONCE + 2
        engine.faults.hang = True
        last = asyncio.ensure_future(complete(client))
        await eventually(lambda: shadows_inside() == 1, 30.0)
        await live.gateway.drain()
        await eventually(lambda: shadows_inside() == 0, 30.0)
        assert (await last).status_code == 503
        engine.faults.hang = False
        outcomes = [row.outcome for row in live.ledger.entries if isinstance(row, Settled) and row.principal == SHADOW]
        assert set(outcomes) <= {"completed", "cancelled"}
        assert outcomes.count("cancelled") >= AT_ONCE + 1
