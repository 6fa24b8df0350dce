"""What the gateway decides and vLLM carries out: whose cached prompts are found, and who is next."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.config import EngineConfig
from engine.toy import make_toy_model
from engine.types import Delta, Engine, GenerationRequest, Prompt, Sampling
from tests.support.client import Client
from tests.support.gateways import KEY, LoopThread, Threaded

MODEL = "smollm2-135m-instruct"
#: Whole blocks of the prefix cache, however large the platform makes them.
PROMPT_TOKENS = 600


class Sink:
    """Counts, and remembers what it was told in its order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.cached_tokens: list[int] = []
        self.first = asyncio.Event()

    def text(self, text: str, tokens: int) -> None:
        self._gained("text")

    def delta(self, delta: Delta) -> None:
        self._gained("delta")

    def cached(self, tokens: int) -> None:
        self.calls.append("cached")
        self.cached_tokens.append(tokens)

    def _gained(self, how: str) -> None:
        self.calls.append(how)
        self.first.set()


def prompt_of_its_own(seed: str) -> Prompt:
    """Tokens that nobody else's prompt begins with."""
    return Prompt(random.Random(seed).choices(range(1000, 20_000), k=PROMPT_TOKENS))


def run(real: Threaded, prompt: Prompt, salt: str | None, *, n: int = 1, stream: bool = True, name: str) -> Sink:
    sink = Sink()
    sampling = Sampling(max_tokens=3, n=n, temperature=1.0, ignore_eos=True)
    request = GenerationRequest(name, MODEL, prompt, sampling, stream, priority=7, cache_salt=salt)
    real.run(real.live.engine.run(request, sink))
    return sink


@pytest.mark.engine
@pytest.mark.parametrize("stream", [True, False])
def test_only_an_equal_salt_finds_a_cached_prompt(real: Threaded, stream: bool) -> None:
    prompt = prompt_of_its_own(f"salts-{stream}")
    told = []
    for number, salt in enumerate(("one", "one", "two", None, "two", "one")):
        sink = run(real, prompt, salt, stream=stream, name=f"salt-{stream}-{number}")
        told.append(sum(sink.cached_tokens))
        assert len(sink.cached_tokens) <= 1
        assert "cached" not in sink.calls[1:], "before the first gain"
    first, again, other, none, other_again, last = told
    assert (first, other, none) == (0, 0, 0)
    assert 0 < again < PROMPT_TOKENS
    assert again == other_again == last


@pytest.mark.engine
@pytest.mark.parametrize("stream", [True, False])
def test_a_prompts_choices_do_not_count_each_other_as_cached(real: Threaded, stream: bool) -> None:
    prompt = prompt_of_its_own(f"choices-{stream}")
    fresh = run(real, prompt, "a", n=3, stream=stream, name=f"choices-{stream}-fresh")
    again = run(real, prompt, "a", n=3, stream=stream, name=f"choices-{stream}-again")
    assert fresh.cached_tokens == []
    assert len(again.cached_tokens) == 1
    assert 0 < again.cached_tokens[0] < PROMPT_TOKENS


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


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.mark.slow
def test_vllm_serves_the_lowest_priority_first(default_model: Path, tmp_path: Path, thread: LoopThread) -> None:
    model = make_toy_model(tmp_path / "toy", default_model)
    engine = _one_at_a_time(model)

    async def order() -> list[int]:
        await engine.start()
        try:
            assert engine.slots() == 1
            return await _order_of_service(engine, [5, -3, 2**62, 0])
        finally:
            await engine.stop()

    assert thread.run(order()) == [-3, 0, 5, 2**62]


def _one_at_a_time(model: Path) -> Engine:
    from engine.runtime import VllmEngine  # slow: it imports vLLM

    return VllmEngine(EngineConfig(str(model), "toy", {"max_num_seqs": 1, "max_model_len": 1024}))


async def _order_of_service(engine: Engine, priorities: list[int]) -> list[int]:
    """Priorities in the order in which they were served, of requests that all waited for one that ran."""
    began: list[int] = []

    async def serve(priority: int, tokens: int, sink: Sink) -> None:
        sampling = Sampling(max_tokens=tokens, ignore_eos=True)
        prompt = Prompt([1000 + len(began), 2000, 3000])
        await engine.run(GenerationRequest(f"p{priority}", "toy", prompt, sampling, True, priority), sink)
        began.append(priority)

    first = Sink()
    running = asyncio.ensure_future(serve(2**40, 900, first))
    await first.first.wait()
    waiting = [asyncio.ensure_future(serve(priority, 4, Sink())) for priority in priorities]
    await running
    await asyncio.gather(*waiting)
    return began[1:]
