"""F31, F32, F34-F36: what goes wrong inside the engine, and a cache that is too small for everybody."""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.config import EngineConfig
from engine.runtime import RestartPolicy, VllmEngine
from engine.types import EngineUnavailable, Phase
from tests.faults.processes import ENGINE, KEY, Server, serving
from tests.faults.test_life_of_the_process import Background, _balanced, streams
from tests.support.client import Client, Stream

# Runs before anything else in the gateway and in the engine's processes. Checked against vLLM 0.32.0.
SABOTAGE = """
import os, sys, threading, time

def spoil(module, owner, method, flag):
    while not hasattr(getattr(sys.modules.get(module), owner, None), method):
        time.sleep(0.02)
    whole = getattr(sys.modules[module], owner)
    original = getattr(whole, method)
    def spoiled(*arguments, **named):
        if os.path.exists(flag):
            os.unlink(flag)
            raise RuntimeError("sabotage")
        return original(*arguments, **named)
    setattr(whole, method, spoiled)

PLACES = (
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner", "execute_model", "forward"),
    ("vllm.v1.engine.output_processor", "OutputProcessor", "process_outputs", "output"),
)
for module, owner, method, flag in PLACES:
    path = os.path.join(os.path.dirname(__file__), flag)
    threading.Thread(target=spoil, args=(module, owner, method, path), daemon=True).start()
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_f31_f34_an_exception_in_the_model_or_in_its_output_handler(toy_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sabotage"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SABOTAGE)
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), str(Path(__file__).resolve().parents[2])])}
    with serving(toy_model, tmp_path, environment) as server:
        for restarts, place in enumerate(["forward", "output"], start=1):
            running = Background(server, 8, 1000)
            (folder / place).touch()
            for stream in running.wait():
                assert stream.ending in ("error_event", "error_response")
                assert _code(stream) == "engine_unavailable"
                assert b"sabotage" not in b"".join([stream.body, *(event.encode() for event in stream.events)])
            server.wait_for(lambda count=restarts: _sample(server, "sluice_engine_restarts") == count, 240)
            server.wait_ready()
            assert server.completion().status_code == 200
        server.wait_for(lambda: _balanced(server), 10)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_f35_f36_a_cache_too_small_for_everybody(toy_model: Path, tmp_path: Path) -> None:
    """Requests are preempted and started again, some callers leave meanwhile, and every other answer is whole."""
    engine = {**ENGINE, "num_gpu_blocks_override": 20, "max_num_seqs": 24}
    with serving(toy_model, tmp_path, {"SLUICE_ENGINE": json.dumps(engine)}) as server:
        whole = streams(server, 24, 500)
        assert [stream.ending for stream in whole] == ["done"] * 24
        assert _sample(server, "vllm:num_preemptions_total") > 0
        asyncio.run(_some_leave(server))
        server.wait_for(lambda: _sample(server, "sluice_requests_in_flight") == 0, 30)
        server.wait_for(lambda: _sample(server, "vllm:num_requests_running") == 0, 30)
        assert server.completion().status_code == 200


async def _some_leave(server: Server) -> None:
    chance = random.Random(0)

    async def ask(patience: float | None) -> Stream | None:
        client = Client("127.0.0.1", server.port, KEY, timeout=120)
        body = server.body(stream=True, max_tokens=400)
        try:
            return await asyncio.wait_for(client.stream("/v1/completions", body), patience)
        except TimeoutError:
            return None

    patience = [chance.uniform(0.05, 3.0) if n % 2 else None for n in range(24)]
    answers = await asyncio.gather(*map(ask, patience))
    for answer, limit in zip(answers, patience, strict=True):
        assert limit is not None or (answer is not None and answer.ending == "done")


async def test_f32_an_engine_that_never_starts_stays_down_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = VllmEngine(EngineConfig("/nowhere", "toy"), RestartPolicy(first_delay=0.01, max_delay=0.02))
    tries = 0

    async def fail() -> None:
        nonlocal tries
        tries += 1
        raise EngineUnavailable("out of memory")

    monkeypatch.setattr(engine, "_launch", fail)
    assert await engine._recover("the engine died") is False
    assert tries == 4  # its death was the first of five failures
    state: Any = engine.state()
    assert state.phase is Phase.FAILED
    assert "5 failures" in (state.detail or "")
    await engine.stop()


def _code(stream: Stream) -> str:
    body = json.loads(stream.events[-1] if stream.events else stream.body)
    return str(body["error"]["code"])


def _sample(server: Server, name: str) -> float:
    """The sum over a metric's samples."""
    lines = httpx.get(f"{server.url}/metrics", timeout=10).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + " ", name + "{")))
