"""What vLLM carries out: what it says of its prefix cache reaches the caller, and priorities order its queue."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.config import on_cpu
from engine.toy import make_toy_model
from engine.types import Delta, EngineUnavailable, GenerationRequest, Prompt, Sampling
from tests.support.client import Client
from tests.support.gateways import KEY, Threaded

ROOT = Path(__file__).resolve().parents[2]
MODEL = "smollm2-135m-instruct"
#: Whole blocks of the prefix cache, however large the platform makes them.
PROMPT_TOKENS = 600


class Sink:
    """Remembers what it was told, in its order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.cached_tokens: list[int] = []

    def text(self, text: str, tokens: int) -> None:
        self.calls.append("text")

    def delta(self, delta: Delta) -> None:
        self.calls.append("delta")

    def cached(self, tokens: int) -> None:
        self.calls.append("cached")
        self.cached_tokens.append(tokens)


def run(real: Threaded, prompt: Prompt, *, stream: bool, name: str) -> list[int]:
    """Three choices of ``prompt``; what was said of the cache."""
    sink = Sink()
    sampling = Sampling(max_tokens=3, n=3, temperature=1.0, ignore_eos=True)
    real.run(real.live.engine.run(GenerationRequest(name, MODEL, prompt, sampling, stream), sink))
    assert "cached" not in sink.calls[1:], "it is told before the first gain"
    return sink.cached_tokens


@pytest.mark.engine
@pytest.mark.parametrize("stream", [True, False])
def test_a_prompts_choices_do_not_count_each_other_as_cached(real: Threaded, stream: bool) -> None:
    prompt = Prompt(random.Random(f"choices-{stream}").choices(range(1000, 20_000), k=PROMPT_TOKENS))
    assert run(real, prompt, stream=stream, name=f"choices-{stream}-fresh") == []
    (cached,) = run(real, prompt, stream=stream, name=f"choices-{stream}-again")
    assert 0 < cached < PROMPT_TOKENS


@pytest.mark.engine
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_usage_tells_cached_tokens_streamed_and_not(real: Threaded, path: str, n: int) -> None:
    client = Client("127.0.0.1", real.live.port, KEY)
    said = f"{path} {n}: " + "Tell me a story about a hen, a fox and the moon. " * 30
    body: dict[str, Any] = {"model": MODEL, "max_tokens": 2, "n": n, "stream_options": {"include_usage": True}}
    body |= {"prompt": said} if path == "/v1/completions" else {"messages": [{"role": "user", "content": said}]}
    plain = {name: value for name, value in body.items() if name != "stream_options"}

    async def usages() -> list[dict[str, Any]]:
        fresh = await client.post(path, plain)
        again = await client.post(path, plain)
        stream = await client.stream(path, body | {"stream": True})
        assert fresh is not None
        assert again is not None
        return [fresh.json()["usage"], again.json()["usage"], stream.chunks()[-1]["usage"]]

    fresh, again, streamed = asyncio.run(usages())
    assert fresh["prompt_tokens_details"] == {"cached_tokens": 0}
    assert again == streamed
    assert 0 < again["prompt_tokens_details"]["cached_tokens"] < again["prompt_tokens"] == fresh["prompt_tokens"]


@pytest.mark.engine
def test_an_engine_that_sleeps_answers_nobody_and_wakes_as_it_was(real: Threaded) -> None:
    """On a CPU nothing is moved; the calls, the pause and the way back are those of a GPU."""
    runtime = real.live.engine.runtime(MODEL)
    pids = runtime.core.processes.pids
    prompt = Prompt(list(range(1000, 1040)))
    request = GenerationRequest("sleep", MODEL, prompt, Sampling(max_tokens=4, temperature=0.0), stream=True)

    async def said(name: str) -> list[str]:
        return [delta.text async for delta in real.live.engine.generate(replace(request, request_id=name))]

    async def nap() -> None:
        before = await said("sleep-before")
        freed = await runtime.sleep()
        try:
            assert freed == 0 or not on_cpu()
            with pytest.raises(EngineUnavailable):
                runtime.check(request)
            assert await runtime.core._llm.is_sleeping()
        finally:
            await runtime.wake()
        assert not await runtime.core._llm.is_sleeping()
        assert await said("sleep-after") == before

    real.run(nap())
    assert runtime.core.processes.pids == pids


@pytest.mark.slow
def test_vllm_serves_the_lowest_priority_first(default_model: Path, tmp_path: Path) -> None:
    model = make_toy_model(tmp_path / "toy", default_model)
    command = [sys.executable, "-m", "tests.support.priorities", str(model), "5", "-3", str(2**62), "0"]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == [-3, 0, 5, 2**62]
