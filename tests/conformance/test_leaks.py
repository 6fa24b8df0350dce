"""200 streams, a third of the clients hang up, and then everything is at zero."""

from __future__ import annotations

import asyncio
import random

import pytest
from prometheus_client import REGISTRY

from tests.conformance.contract import Api
from tests.support.checker import EngineEvidence, Evidence, check, without_index
from tests.support.client import Client
from tests.support.gateways import KEY, eventually
from tests.support.recorder import Recorder
from tests.support.wire import Leave

pytestmark = pytest.mark.engine


async def test_two_hundred_streams_and_hang_ups(api: Api) -> None:
    live = api.gateway.live
    core = live.engine.core
    already, generated = len(live.ledger.entries), _generated()
    recorder = Recorder()
    client = Client("127.0.0.1", live.port, KEY, recorder=recorder, timeout=170)
    luck = random.Random(7)

    async def one(number: int) -> None:
        body = {"model": api.model, "prompt": f"Number {number}:", "stream": True, "max_tokens": 16}
        body |= {"ignore_eos": True, "stream_options": {"include_usage": True}}
        leaves = number % 10 < 3
        await client.stream(
            "/v1/completions",
            body,
            leave_after_events=luck.randint(1, 6) if leaves else None,
            leave=luck.choice([Leave.FIN, Leave.RST, Leave.CLOSE]),
        )

    await asyncio.gather(*map(one, range(200)))
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_at_rest(api), api.gateway.thread.loop))

    processor = core._llm.output_processor
    assert len(processor.request_states) == 0
    assert len(processor.parent_requests) == 0
    assert len(core._hotpath) == 0
    gauges = {
        "in flight": live.metric("sluice_requests_in_flight"),
        "running": core.load.running,
        "waiting": core.load.waiting,
    }
    evidence = Evidence(
        ledger=live.ledger.entries[already:],
        clients=recorder.rows,
        engine=EngineEvidence(generation_tokens=int(_generated() - generated)),
        gauges=gauges,
        owner=without_index,
    )
    assert check(evidence) == []
    ended = [row for row in recorder.rows if row.succeeded]
    assert len(ended) >= 140


async def _at_rest(api: Api) -> None:
    live = api.gateway.live
    await eventually(lambda: live.engine.core.unfinished == 0 and not live.metric("sluice_requests_in_flight"), 30)
    await eventually(lambda: live.engine.core.load.running == 0, 30)


def _generated() -> float:
    labels = {"engine": "0", "model_name": "smollm2-135m-instruct"}
    return REGISTRY.get_sample_value("vllm:generation_tokens_total", labels) or 0.0
