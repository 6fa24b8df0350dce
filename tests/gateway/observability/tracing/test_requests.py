"""One trace per request, from its head to the engine's phases: over the stub engine, with what can go wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.support.gateways import Live, eventually, running
from tests.support.otlp import Collector, collector
from tests.support.scripted_engine import Says, ScriptedEngine
from tests.support.stub_engine import Faults, StubConfig, StubEngine
from tests.support.tool_server import tool_server

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}
CANARY = "zanzibar-canary"


@pytest.fixture
def taken() -> Iterator[Collector]:
    with collector() as receiver:
        yield receiver


@asynccontextmanager
async def traced(
    taken: Collector, state_dir: Path, engine: StubEngine | None = None, **flags: Any
) -> AsyncIterator[tuple[Live, httpx.AsyncClient]]:
    """Spans are all there when the block has ended: a gateway that stops sends what it has."""
    tracing = {"otlp_endpoint": taken.url, **flags.pop("tracing", {})}
    async with (
        running(engine or StubEngine(), state_dir, tracing=tracing, **flags) as live,
        httpx.AsyncClient(base_url=live.url, headers=live.authorization, timeout=60) as client,
    ):
        yield live, client


def body(content: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "stub", "max_tokens": 5, "messages": [{"role": "user", "content": content}], **fields}


async def test_a_request_is_one_trace(taken: Collector, tmp_path: Path) -> None:
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    async with traced(taken, tmp_path) as (live, client):
        answer = await client.post("/v1/chat/completions", json=body(stream=True, temperature=0.5), headers=headers)
        assert answer.status_code == 200
    assert taken.paths[0] == "/v1/traces"
    assert {span.trace for span in taken.spans} == {TRACE}
    server = taken.named("POST /v1/chat/completions")
    assert (server.parent, server.is_server, server.failed) == (SPAN, True, False)
    expected = {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "url.path": "/v1/chat/completions",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "client.address": "127.0.0.1",
        "sluice.request_id": answer.headers["x-request-id"],
        "sluice.outcome": "completed",
        "sluice.principal": "static",
        "sluice.tenant": "default",
        "sluice.model": "stub",
        "sluice.streaming": True,
    }
    assert server.attributes == expected
    assert [each.name for each in taken.children(server)] == ["read", "render", "reserve", "queue", "chat stub"]
    chat = taken.named("chat stub")
    attributes = dict(chat.attributes)
    assert attributes.pop("gen_ai.response.time_to_first_chunk") > 0
    assert attributes.pop("gen_ai.response.id").startswith("chatcmpl-")
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "stub",
        "gen_ai.response.model": "stub",
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.usage.input_tokens": 8,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.response.finish_reasons": ["length"],
    }
    assert [each.name for each in taken.children(chat)] == ["queued", "prefill", "decode"]
    for span in taken.spans:
        assert server.begin <= span.begin <= span.end <= server.end
    assert [entry.trace_id for entry in live.access_log.entries] == [TRACE]
    assert live.metric("sluice_trace_spans_exported_total") == len(taken.spans)
    assert taken.resource["service.name"] == "sluice"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("traceparent", f"00-{TRACE}-{SPAN}")],
        [("traceparent", f"00-{'0' * 32}-{SPAN}-01")],
        [("traceparent", f"00-{TRACE}-{SPAN}-01"), ("traceparent", f"00-{TRACE}-{SPAN}-01")],
    ],
)
async def test_without_a_valid_parent_a_trace_begins(
    taken: Collector, tmp_path: Path, headers: list[tuple[str, str]]
) -> None:
    async with traced(taken, tmp_path) as (live, client):
        answer = await client.post("/v1/chat/completions", json=body(), headers=[*client.headers.items(), *headers])
        assert answer.status_code == 200
    (server,) = taken.servers()
    assert server.parent == ""
    assert server.trace not in (TRACE, "0" * 32)
    assert live.access_log.entries[0].trace_id == server.trace


async def test_a_parent_that_is_not_kept_is_followed(taken: Collector, tmp_path: Path) -> None:
    async with traced(taken, tmp_path) as (live, client):
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-00"}
        assert (await client.post("/v1/chat/completions", json=body(), headers=headers)).status_code == 200
        text = (await client.get("/metrics", headers=OPENMETRICS)).text
    assert not taken.spans
    assert "trace_id" not in text
    assert live.access_log.entries[0].trace_id == TRACE


async def test_exemplars_lead_from_histograms_to_traces(taken: Collector, tmp_path: Path) -> None:
    async with traced(taken, tmp_path) as (_, client):
        await client.post("/v1/chat/completions", json=body(stream=True))
        await client.get("/healthz")
        answer = await client.get("/metrics", headers=OPENMETRICS)
        plain = (await client.get("/metrics")).text
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}  # type: ignore[no-untyped-call]
    (server,) = taken.servers()
    for name in ("sluice_request_duration_seconds", "sluice_time_to_first_token_seconds"):
        (exemplar,) = [sample.exemplar for sample in families[name].samples if sample.exemplar is not None]
        assert exemplar.labels == {"trace_id": server.trace, "span_id": server.id}
    assert "trace_id" not in plain
    assert "# EOF" not in plain


async def test_probes_scrapes_and_nothing_else_go_unseen(taken: Collector, tmp_path: Path) -> None:
    async with traced(taken, tmp_path) as (_, client):
        for path in ("/healthz", "/readyz", "/metrics", "/v1/models", "/v1/nothing-here"):
            await client.get(path)
        await client.request("DELETE", "/v1/chat/completions")
    assert sorted(taken.names() - {"reserve"}) == ["DELETE", "GET", "GET /v1/models"]
    assert taken.named("GET").attributes["error.type"] == "unknown_url"
    assert "url.path" not in taken.named("GET").attributes


@pytest.mark.parametrize(
    ("fields", "status", "code", "failed"),
    [
        ({"model": "other"}, 404, "model_not_found", False),
        ({"temperature": 99}, 400, None, False),
        ({"messages": []}, 400, None, False),
    ],
)
async def test_what_is_refused(
    taken: Collector, tmp_path: Path, fields: dict[str, Any], status: int, code: str | None, failed: bool
) -> None:
    async with traced(taken, tmp_path) as (_, client):
        answer = await client.post("/v1/chat/completions", json=body(**fields))
    (server,) = taken.servers()
    attributes = server.attributes
    assert (attributes["http.response.status_code"], attributes["sluice.outcome"]) == (status, "rejected")
    assert attributes["error.type"] == (code or answer.json()["error"]["code"])
    assert server.failed is failed


async def test_what_the_engine_breaks(taken: Collector, tmp_path: Path) -> None:
    engine = StubEngine(faults=Faults(fail_requests=frozenset({1}), fail_after_tokens=2))
    async with traced(taken, tmp_path, engine) as (_, client):
        answer = await client.post("/v1/chat/completions", json=body(stream=True))
        assert answer.status_code == 200
    server, chat = taken.servers()[0], taken.named("chat stub")
    assert server.failed
    assert chat.failed
    assert server.attributes["error.type"] == chat.attributes["error.type"]
    assert server.attributes["sluice.outcome"] == "error"
    assert chat.attributes["gen_ai.usage.output_tokens"] == 2


async def test_who_hangs_up(taken: Collector, tmp_path: Path) -> None:
    engine = StubEngine(StubConfig(step_seconds=0.05))
    async with traced(taken, tmp_path, engine) as (live, client):
        async with client.stream("POST", "/v1/chat/completions", json=body(stream=True, max_tokens=4000)) as stream:
            await anext(stream.aiter_lines())
        await eventually(lambda: len(live.access_log.entries) == 1)
    server = taken.servers()[0]
    assert server.attributes["sluice.outcome"] == "cancelled"
    assert not server.failed
    assert taken.named("chat stub").attributes["error.type"] == "cancelled"


@pytest.mark.parametrize(("answer", "hang"), [(503, False), (400, False), (200, True)])
async def test_a_collector_that_fails_costs_no_answer(
    taken: Collector, tmp_path: Path, answer: int, hang: bool
) -> None:
    taken.answer, taken.hang = answer, hang
    async with traced(taken, tmp_path, tracing={"queue_size": 512, "timeout": 0.5}) as (live, client):
        for _ in range(100):
            assert (await client.post("/v1/chat/completions", json=body())).status_code == 200
    reasons = ("queue_full", "export_failed", "shutdown")
    dropped = sum(live.metric("sluice_trace_spans_dropped_total", reason=reason) for reason in reasons)
    assert dropped == 100 * 9
    assert live.metric("sluice_trace_spans_exported_total") == 0


async def test_nobody_listens(taken: Collector, tmp_path: Path) -> None:
    with collector() as gone:
        port = gone.port
    tracing = {"otlp_endpoint": f"http://127.0.0.1:{port}", "timeout": 0.5}
    async with traced(taken, tmp_path, tracing=tracing) as (live, client):
        assert (await client.post("/v1/chat/completions", json=body())).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
    assert live.metric("sluice_trace_spans_dropped_total", reason="export_failed") == 9


async def test_the_guards_part(taken: Collector, tmp_path: Path) -> None:
    guard = {"evaluators": [{"kind": "rules"}], "policy": {"input": True, "output": True, "action": "block"}}
    async with traced(taken, tmp_path, guard=guard) as (_, client):
        assert (await client.post("/v1/chat/completions", json=body())).status_code == 200
        refused = await client.post("/v1/chat/completions", json=body("mail me at jane.doe@example.com please"))
        assert refused.status_code == 400
    served, blocked = taken.servers()
    assert blocked.attributes["error.type"] == "content_policy_violation"
    looks = [span for span in taken.spans if span.name == "guard input"]
    assert {span.parent for span in looks} == {served.id, blocked.id}
    flagged = next(span for span in looks if span.parent == blocked.id)
    assert flagged.attributes["sluice.guard.flagged"]
    assert [each.name for each in taken.children(flagged)] == ["evaluate rules"]
    assert "guard output" in taken.names()


async def test_an_agents_turns_and_tools(taken: Collector, tmp_path: Path) -> None:
    with tool_server() as tools:
        tool: dict[str, Any] = {"description": "weather", "url": f"{tools.url}/weather/{{city}}", "method": "GET"}
        tool["parameters"] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        agent = {"http": {"weather": tool, "failing": {**tool, "url": f"{tools.url}/failing", "parameters": {}}}}
        engine = ScriptedEngine(
            Says(calls=(("weather", f'{{"city": "{CANARY}"}}'), ("failing", "{}"))), Says("It is fine.")
        )
        async with traced(taken, tmp_path, engine, agent=agent) as (_, client):
            asked = {
                "model": "stub",
                "messages": [{"role": "user", "content": "How is it?"}],
                "agent": {"on_tool_error": "continue"},
            }
            answer = await client.post("/v1/agent", json=asked)
            assert answer.status_code == 200
    run = taken.named("invoke_agent")
    assert run.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert run.parent == taken.named("POST /v1/agent").id
    inside = [each.name for each in taken.children(run)]
    assert inside.count("chat stub") == 2
    assert {"execute_tool weather", "execute_tool failing"} <= set(inside)
    call = taken.named("execute_tool weather")
    assert call.attributes["gen_ai.tool.name"] == "weather"
    assert call.attributes["gen_ai.tool.call.id"] == answer.json()["steps"][0]["tool_calls"][0]["id"]
    assert taken.named("execute_tool failing").failed
    assert not any(CANARY.encode() in each for each in taken.bodies)


async def test_no_secret_and_no_text_leaves(taken: Collector, tmp_path: Path) -> None:
    key, word = "sk-canary-0123456789abcdef", "canary-password-42"
    flags: dict[str, Any] = {"api_key": key, "guard": {"evaluators": [{"kind": "rules"}], "policy": {"input": True}}}
    async with traced(taken, tmp_path, **flags) as (live, client):
        owner = {"authorization": f"Bearer {key}"}
        request = body(f"My secret is {CANARY}", stop=[CANARY], user=CANARY, metadata={"note": CANARY})
        assert (await client.post("/v1/chat/completions", json=request, headers=owner)).status_code == 200
        assert (await client.post(f"/v1/chat/completions?token={word}", json=request, headers=owner)).status_code
        assert (await client.post("/v1/completions", json={"model": CANARY, "prompt": CANARY}, headers=owner)).is_error
        assert (await client.get(f"/v1/models/{key}", headers=owner)).is_error
        assert (await client.get(f"/{word}", headers=owner)).is_error
        said = live.engine.accounts
        assert said
    assert len(taken.servers()) == 5
    everything = b"".join(taken.bodies)
    for canary in (CANARY, key, word, "0123456789abcdef"):
        assert canary.encode() not in everything
