"""A whole trace of the real engine, as a collector has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.support.gateways import Borrowed, Live, Threaded, start
from tests.support.otlp import Collector, collector

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
MODEL = "smollm2-135m-instruct"
WORD = "Ouagadougou-canary"

pytestmark = pytest.mark.engine


@pytest.fixture
def taken() -> Iterator[Collector]:
    with collector() as receiver:
        yield receiver


@pytest.fixture
def live(real: Threaded, taken: Collector, tmp_path: Path) -> Iterator[Live]:
    """One more gateway over the session's engine, that traces."""
    gateway = real.run(start(Borrowed(real.live.engine), tmp_path, tracing={"otlp_endpoint": taken.url}))
    yield gateway
    real.run(gateway.gateway.stop())


@pytest.mark.parametrize("n", [1, 2])
def test_one_trace_from_http_to_the_engines_phases(real: Threaded, taken: Collector, live: Live, n: int) -> None:
    with httpx.Client(base_url=live.url, headers=live.authorization, timeout=120) as client:
        asked = {"model": MODEL, "stream": True, "max_tokens": 16, "n": n, "ignore_eos": True, "temperature": 0.0}
        asked["messages"] = [{"role": "user", "content": f"Write a sentence about {WORD}."}]
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
        answer = client.post("/v1/chat/completions", json=asked, headers=headers)
        assert answer.status_code == 200
        metrics = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}).text
    real.run(live.gateway.stop())
    assert {span.trace for span in taken.spans} == {TRACE}
    server, chat = taken.named("POST /v1/chat/completions"), taken.named(f"chat {MODEL}")
    assert (server.parent, chat.parent) == (SPAN, server.id)
    attributes = chat.attributes
    assert attributes["gen_ai.usage.output_tokens"] == 16 * n
    assert attributes["gen_ai.usage.input_tokens"] > 8
    assert attributes["gen_ai.response.finish_reasons"] == ["length"] * n
    assert attributes.get("gen_ai.request.choice.count") == (2 if n == 2 else None)
    assert attributes["gen_ai.response.id"] in answer.text
    # vLLM's clock and ours are the same: what the engine says of itself lies within what we say of it.
    queued, prefill, decode = (taken.named(name) for name in ("queued", "prefill", "decode"))
    assert chat.begin <= queued.begin <= queued.end == prefill.begin
    assert prefill.begin < prefill.end == decode.begin < decode.end <= chat.end
    assert {queued.parent, prefill.parent, decode.parent} == {chat.id}
    assert [entry.trace_id for entry in live.access_log.entries] == [TRACE]
    assert not any(WORD.encode() in each for each in taken.bodies)
    families = {family.name: family for family in text_string_to_metric_families(metrics)}  # type: ignore[no-untyped-call]
    assert "vllm:time_to_first_token_seconds" in families
    for name in ("sluice_time_to_first_token_seconds", "sluice_request_duration_seconds"):
        exemplars = [sample.exemplar for sample in families[name].samples if sample.exemplar is not None]
        assert [each.labels["trace_id"] for each in exemplars] == [TRACE]
