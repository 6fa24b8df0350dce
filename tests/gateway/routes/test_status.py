"""GET /v1/status over the stub engine: what it says, to whom, and what it costs the caller."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from gateway.protocol.status import StatusObject
from tests.support.gateways import Live, eventually, running
from tests.support.stub_engine import StubConfig, StubEngine

CHAT: dict[str, Any] = {"model": "stub", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}


def caller(live: Live, key: str | None = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=live.url, headers={"authorization": f"Bearer {key or live.key}"}, timeout=60)


async def status(live: Live, key: str | None = None) -> StatusObject:
    async with caller(live, key) as client:
        response = await client.get("/v1/status")
    assert response.status_code == 200, response.text
    return StatusObject.model_validate_json(response.content)


async def test_a_fresh_process(stub: Live) -> None:
    told = await status(stub)
    assert told.caller.id == "static"
    assert "admin" in told.caller.scopes
    assert (told.process.phase, told.process.not_ready, told.process.degraded) == ("ready", None, [])
    assert told.process.connections == 1
    assert (told.load.running, told.load.queued, told.load.in_flight) == (0, 0, 0)
    assert told.load.bound == stub.engine.config.max_running
    assert (told.ttft.count, told.ttft.p50, told.requests, told.refusals) == (0, None, {}, {})
    assert told.guard is None
    assert [(model.id, model.state) for model in told.models] == [("stub", "ready")]
    assert len(told.history.ttft) == 60


async def test_figures_move(tmp_path: Path) -> None:
    async with running(StubEngine(StubConfig(step_seconds=0.05)), tmp_path) as live, caller(live) as client:
        body = {**CHAT, "stream": True, "max_tokens": 4000, "ignore_eos": True}
        async with client.stream("POST", "/v1/chat/completions", json=body) as stream:
            lines = stream.aiter_lines()
            await anext(lines)

            async def seen() -> bool:
                return (await status(live)).load.tokens_per_second > 0

            await eventually(seen, 30)
            during = await status(live)
            assert (during.load.running, during.load.in_flight, during.models[0].running) == (1, 1, 1)
            assert during.load.kv_usage > 0
            assert during.ttft.count == 1
            assert during.queue_delay.count == 1
            assert max(during.history.running) == 1

        async def idle() -> bool:
            return (await status(live)).load.in_flight == 0

        await eventually(idle, 30)
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        assert (await client.post("/v1/chat/completions", json={**CHAT, "n": "3"})).status_code == 400
        after = await status(live)
        assert after.requests == {"cancelled": 1, "completed": 1, "rejected": 1}
        assert after.refusals == {"invalid_type": 1}
        assert after.load.running == 0


async def test_an_engine_that_starts_anew_counts_from_nothing(tmp_path: Path) -> None:
    async with running(StubEngine(), tmp_path) as live, caller(live) as client:
        await client.post("/v1/chat/completions", json=CHAT)
        await asyncio.sleep(1.1)
        live.engine.generated_tokens = 0
        await asyncio.sleep(1.1)
        assert min((await status(live)).history.tokens_per_second) >= 0


async def test_readers_see_their_models_and_are_not_charged(tmp_path: Path) -> None:
    engine = StubEngine(StubConfig(beside=(("vectors", "embed"),)))
    async with running(engine, tmp_path, with_store=True) as live, caller(live) as client:
        made = {"name": "reader", "scopes": ["read_only"], "models": ["vectors"], "quota": {"requests_per_minute": 1}}
        key = (await client.post("/v1/admin/keys", json=made)).json()["key"]
        for _ in range(5):
            told = await status(live, key)
        assert [model.id for model in told.models] == ["vectors"]
        assert told.caller.scopes == ["read_only"]
        only = (await client.post("/v1/admin/keys", json={"name": "x", "scopes": ["inference"]})).json()["key"]
        async with caller(live, only) as other:
            assert (await other.get("/v1/status")).status_code == 403


async def test_the_guard_tells_what_it_found(tmp_path: Path) -> None:
    guard = {"evaluators": [{"kind": "rules", "patterns": {"forbidden": "bomb"}}], "policy": {"risks": ["forbidden"]}}
    async with running(StubEngine(), tmp_path, guard=guard) as live, caller(live) as client:
        told = await status(live)
        assert told.guard is not None
        assert (told.guard.verdicts, told.guard.actions) == ([], [])
        flagged = {**CHAT, "messages": [{"role": "user", "content": "a bomb"}]}
        assert (await client.post("/v1/chat/completions", json=flagged)).status_code == 400
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        told = await status(live)
        assert told.guard is not None
        counts = {(each.risk, each.stage, each.outcome): each.count for each in told.guard.verdicts}
        assert counts["forbidden", "input", "flagged"] == 1
        assert counts["forbidden", "input", "safe"] >= 1
        assert [(each.action, each.count) for each in told.guard.actions] == [("block", 1)]
