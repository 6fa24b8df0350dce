"""GET /v1/status on the real engine."""

from __future__ import annotations

import time

import pytest

from gateway.protocol.status import StatusObject
from tests.conformance.contract import Api

pytestmark = pytest.mark.engine


def status(api: Api) -> StatusObject:
    response = api.http.get("/v1/status")
    assert response.status_code == 200, response.text
    return StatusObject.model_validate_json(response.content)


def test_what_was_generated_is_what_was_answered(api: Api) -> None:
    before = api.gateway.live.engine.state().generated_tokens
    answers = [api.chat(max_tokens=24, ignore_eos=True).json() for _ in range(2)]
    assert sum(answer["usage"]["completion_tokens"] for answer in answers) == 48
    assert api.gateway.live.engine.state().generated_tokens - before == 48


def test_a_stream_is_seen_while_it_runs_and_is_gone_when_its_client_is(api: Api) -> None:
    body = {"model": api.model, "stream": True, "max_tokens": 3000, "ignore_eos": True,
            "messages": [{"role": "user", "content": "Count."}]}  # fmt: skip
    with api.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, response.read()
        lines = response.iter_lines()  # kept: httpx hangs up when its iterator is collected
        next(lines)
        deadline = time.monotonic() + 60
        during = status(api)
        while not (during.load.running and during.load.tokens_per_second) and time.monotonic() < deadline:
            time.sleep(0.1)
            during = status(api)
        assert (during.load.running, during.load.in_flight, during.ttft.count > 0) == (1, 1, True)
        assert during.load.tokens_per_second > 0
        assert during.load.kv_usage > 0
        (model,) = during.models
        assert (model.id, model.state, model.running) == (api.model, "ready", 1)
    deadline = time.monotonic() + 60
    while status(api).load.running and time.monotonic() < deadline:
        time.sleep(0.1)
    assert status(api).load.running == status(api).load.in_flight == 0
