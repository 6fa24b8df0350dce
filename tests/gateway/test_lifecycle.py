from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from gateway.lifecycle import GatewayPhase
from tests.support.client import Client
from tests.support.gateways import KEY, eventually, listen, running
from tests.support.stub_engine import Faults, StubConfig, StubEngine

BODY: dict[str, Any] = {"model": "stub", "prompt": "hello", "stream": True, "ignore_eos": True}


async def probe(client: Client, path: str) -> tuple[int, str]:
    answer = await client.get(path)
    return answer.status, answer.json()["status"]


async def test_probes_through_a_life(tmp_path: Path) -> None:
    live = await listen(StubEngine(), tmp_path)
    client = Client("127.0.0.1", live.port, KEY)
    assert await probe(client, "/healthz") == (200, "ok")
    assert await probe(client, "/readyz") == (503, "not ready")
    assert await probe(client, "/startupz") == (503, "starting")
    await live.gateway.start_engine()
    assert await probe(client, "/readyz") == (200, "ready")
    assert await probe(client, "/startupz") == (200, "started")
    live.engine.die(restart_after=None)
    assert await probe(client, "/readyz") == (503, "not ready")
    assert await probe(client, "/healthz") == (200, "ok")
    await live.gateway.drain()
    assert (await client.get("/readyz")).headers["x-not-ready"] == "draining"
    await live.gateway.stop()
    await live.gateway.stop()
    assert live.gateway.phase is GatewayPhase.STOPPED


async def test_a_stalled_engine_is_not_ready(tmp_path: Path) -> None:
    engine = StubEngine()
    async with running(engine, tmp_path) as live:
        engine.faults.hang = True
        answer = await Client("127.0.0.1", live.port, KEY).get("/readyz")
        assert (answer.status, answer.headers["x-not-ready"]) == (503, "engine stalled")


async def test_draining_lets_streams_finish(tmp_path: Path) -> None:
    engine = StubEngine(StubConfig(step_seconds=0.01))
    async with running(engine, tmp_path) as live:
        client = Client("127.0.0.1", live.port, KEY)
        streams = [asyncio.create_task(client.stream("/v1/completions", {**BODY, "max_tokens": 50})) for _ in range(8)]
        await eventually(lambda: live.metric("sluice_requests_in_flight") == 8)
        await live.gateway.drain()
        assert [(await stream).ending for stream in streams] == ["done"] * 8


async def test_what_cannot_finish_ends_in_one_clear_error(tmp_path: Path) -> None:
    engine = StubEngine(StubConfig(step_seconds=0.01))
    async with running(engine, tmp_path, drain_timeout=0.1) as live:
        client = Client("127.0.0.1", live.port, KEY)
        begun = asyncio.create_task(client.stream("/v1/completions", {**BODY, "max_tokens": 5000}))
        await eventually(lambda: live.metric("sluice_requests_in_flight") == 1)
        await asyncio.sleep(0.05)
        engine.faults = Faults(stall_first_token=True)
        waiting = asyncio.create_task(client.post("/v1/completions", {**BODY, "max_tokens": 5, "stream": False}))
        await eventually(lambda: live.metric("sluice_requests_in_flight") == 2)
        await live.gateway.drain()
        stream, answer = await begun, await waiting
        assert stream.ending == "error_event"
        assert json.loads(stream.events[-1])["error"]["code"] == "shutting_down"
        assert answer is not None
        assert (answer.status, answer.json()["error"]["code"]) == (503, "shutting_down")
        assert not live.engine.request_states


async def test_keep_alive_comments_while_the_model_thinks(tmp_path: Path) -> None:
    engine = StubEngine(faults=Faults(stall_first_token=True))
    async with running(engine, tmp_path, keep_alive_interval=0.5) as live:
        client = Client("127.0.0.1", live.port, KEY)
        stream = asyncio.create_task(client.stream("/v1/completions", {**BODY, "max_tokens": 3}))
        await asyncio.sleep(2.5)
        engine.faults.stall_first_token = False
        ended = await stream
        assert ended.ending == "done"
        assert len(ended.comments) >= 1
