"""Salts and priorities reach vLLM, and what it found in its prefix cache comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.types import Delta, GenerationRequest, Prompt, Sampling
from tests.support.gateways import Threaded

pytestmark = pytest.mark.engine

NUMBERS = iter(range(1000))


class Sink:
    def __init__(self) -> None:
        self.cached_tokens: list[int] = []
        self.tokens = 0

    def text(self, text: str, tokens: int) -> None:
        self.tokens += tokens

    def delta(self, delta: Delta) -> None:
        self.tokens += delta.tokens

    def cached(self, tokens: int) -> None:
        self.cached_tokens.append(tokens)


def request(real: Threaded, seed: int, salt: str | None, *, stream: bool = True, n: int = 1) -> GenerationRequest:
    ids = [(seed * 31 + position * 7) % 1000 + 300 for position in range(600)]
    model = real.live.engine.models()[0].id
    sampling = Sampling(max_tokens=2, temperature=1.0, n=n, ignore_eos=True)
    return GenerationRequest(f"salt-{next(NUMBERS)}", model, Prompt(ids), sampling, stream, cache_salt=salt)


def run(real: Threaded, wanted: GenerationRequest) -> list[int]:
    sink = Sink()
    real.run(real.live.engine.run(wanted, sink))
    assert sink.tokens == 2 * wanted.sampling.n
    return sink.cached_tokens


@pytest.mark.parametrize("stream", [True, False])
def test_only_the_same_salt_finds_a_cached_prompt(real: Threaded, stream: bool) -> None:
    seed = 1 + stream
    assert run(real, request(real, seed, "one", stream=stream)) == []
    (found,) = run(real, request(real, seed, "one", stream=stream))
    assert 0 < found < 600
    assert run(real, request(real, seed, "two", stream=stream)) == []
    assert run(real, request(real, seed, None, stream=stream)) == []


def test_a_fan_out_counts_its_prompt_once(real: Threaded) -> None:
    run(real, request(real, 5, "fan"))
    assert len(run(real, request(real, 5, "fan", n=3))) == 1


def test_priorities_are_accepted_whatever_they_are(real: Threaded) -> None:
    for priority in (0, 7, 2**62):
        assert run(real, replace(request(real, 9, f"p{priority}"), priority=priority)) == []


def test_the_engine_says_how_many_it_batches(real: Threaded) -> None:
    assert (
        real.live.engine.slots("smollm2-135m-instruct")
        == real.live.engine.core._llm.vllm_config.scheduler_config.max_num_seqs
        > 0
    )
    assert real.live.engine.core._llm.vllm_config.scheduler_config.policy == "priority"
