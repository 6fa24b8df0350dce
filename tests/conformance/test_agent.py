"""The agent loop with the real model: a forced call of a real tool, then an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conformance.contract import events_of
from tests.support.gateways import Borrowed, Live, Threaded, listen
from tests.support.tool_server import ToolServer, tool_server

pytestmark = pytest.mark.engine

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server() -> Iterator[ToolServer]:
    with tool_server() as tools:
        yield tools


@pytest.fixture(scope="module")
def agents(real: Threaded, server: ToolServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    tool = {
        "description": "The weather of a city",
        "method": "GET",
        "url": f"{server.url}/weather/{{city}}",
        "parameters": PARAMETERS,
    }

    async def begin() -> Live:
        live = await listen(
            Borrowed(real.live.engine),
            tmp_path_factory.mktemp("agents"),
            agent={"http": {"get_weather": tool}},
            admission={"max_wait": 600.0},
        )
        await live.gateway.start_engine()
        return live

    live = real.run(begin())
    yield live
    real.run(live.gateway.stop())


def test_a_real_model_with_a_real_tool(agents: Live, server: ToolServer) -> None:
    body = {
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": "What is the weather in Rome?"}],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_tokens": 60,
        "agent": {"max_steps": 2},
    }

    def ask(**fields: Any) -> httpx.Response:
        url = f"{agents.url}/v1/agent"
        return httpx.post(url, json={**body, **fields}, headers=agents.authorization, timeout=170)

    response = ask()
    assert response.status_code == 200, response.text
    answer = response.json()
    called, told, last = answer["messages"]
    (call,) = called["tool_calls"]
    city = json.loads(call["function"]["arguments"])["city"]
    assert server.paths == [f"/weather/{city}"]
    assert told == {"role": "tool", "tool_call_id": call["id"], "content": '{"sky": "clear", "degrees": 21}'}
    assert last["role"] == "assistant"
    assert answer["stop_reason"] in ("no_tools", "max_steps", "max_tokens")
    assert answer["steps"][1]["usage"]["prompt_tokens"] > answer["steps"][0]["usage"]["prompt_tokens"]
    assert answer["usage"]["total_tokens"] == sum(step["usage"]["total_tokens"] for step in answer["steps"])

    events = [json.loads(event) for event in events_of(ask(stream=True).text) if event != "[DONE]"]
    final = events[-1]["response"]
    assert [message["content"] for message in final["messages"]] == [m["content"] for m in answer["messages"]]
    assert final["stop_reason"] == answer["stop_reason"]
    deltas = [event["delta"] for event in events if event["type"] == "agent.message.delta"]
    assert "".join(deltas) == "".join(m["content"] or "" for m in answer["messages"] if m["role"] == "assistant")
