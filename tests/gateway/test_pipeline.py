from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.limits.reserve import Demand, Headers
from gateway.pipeline import Pipeline
from gateway.usage.records import Settled
from tests.support.checker import EngineEvidence, Evidence, check, without_index
from tests.support.client import Client
from tests.support.gateways import KEY, Live, eventually, running
from tests.support.recorder import Recorder
from tests.support.stub_engine import Faults, StubConfig, StubEngine
from tests.support.wire import Leave

BODY: dict[str, Any] = {"model": "stub", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
CHAT = "/v1/chat/completions"


def client_of(live: Live, recorder: Recorder | None = None) -> Client:
    return Client("127.0.0.1", live.port, KEY, recorder=recorder, timeout=30)


async def balanced(live: Live, recorder: Recorder) -> None:
    """Ledger, clients and engine agree, and nothing is left."""
    await eventually(lambda: not live.metric("sluice_requests_in_flight") and not live.engine.request_states)
    evidence = Evidence(
        ledger=live.ledger.entries,
        clients=recorder.rows,
        engine=EngineEvidence(accounts=live.engine.accounts, leaks=live.engine.leaks()),
        gauges={"in flight": live.metric("sluice_requests_in_flight")},
        owner=without_index,
    )
    assert check(evidence) == []
    assert live.ledger.violations == []


async def test_draining_and_full_are_503_before_the_body_is_read(stub: Live) -> None:
    await stub.gateway.drain()
    answer = await client_of(stub).post(CHAT, BODY)
    assert answer is not None
    assert (answer.status, answer.json()["error"]["code"]) == (503, "shutting_down")
    assert answer.headers["connection"] == "close"
    assert int(answer.headers["retry-after"]) >= 1


async def test_more_than_may_be_in_flight_is_refused(tmp_path: Path) -> None:
    engine = StubEngine(faults=Faults(stall_first_token=True))
    async with running(engine, tmp_path, admission={"max_running": 2, "max_queue": 0}) as live:
        client = client_of(live)
        held = [asyncio.create_task(client.post(CHAT, BODY)) for _ in range(2)]
        await eventually(lambda: live.metric("sluice_requests_in_flight") == 2)
        refused = await client.post(CHAT, BODY)
        assert refused is not None
        assert (refused.status, refused.json()["error"]["code"]) == (503, "engine_overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        engine.faults.stall_first_token = False
        for task in held:
            answer = await task
            assert answer is not None
            assert answer.status == 200


async def test_a_process_short_of_memory_sheds_new_work(tmp_path: Path) -> None:
    async with running(StubEngine(), tmp_path, admission={"max_memory_fraction": 0.000001}) as live:
        answer = await client_of(live).post(CHAT, BODY)
        assert answer is not None
        assert (answer.status, answer.json()["error"]["code"]) == (503, "engine_overloaded")
        assert live.ledger.entries == []


@pytest.mark.parametrize("stream", [False, True])
async def test_deadlines(tmp_path: Path, stream: bool) -> None:
    engine = StubEngine(faults=Faults(stall_first_token=True))
    async with running(engine, tmp_path) as live:
        recorder = Recorder()
        client = client_of(live, recorder)
        headers = {"X-Request-Deadline-Ms": "100"}
        answer = await client.post(CHAT, {**BODY, "stream": stream}, headers=headers)
        assert answer is not None
        assert (answer.status, answer.json()["error"]["code"]) == (503, "queue_timeout")
        await balanced(live, recorder)


async def test_a_deadline_in_the_middle_of_a_stream_is_one_error_event(tmp_path: Path) -> None:
    engine = StubEngine(StubConfig(step_seconds=0.02, reply_tokens=None))
    async with running(engine, tmp_path) as live:
        recorder = Recorder()
        body = {**BODY, "stream": True, "max_tokens": 4000, "ignore_eos": True}
        stream = await client_of(live, recorder).stream(CHAT, body, headers={"X-Request-Deadline-Ms": "200"})
        assert stream.ending == "error_event"
        assert '"deadline_exceeded"' in stream.events[-1]
        assert len(stream.events) > 2
        await balanced(live, recorder)


@pytest.mark.parametrize("value", ["0", "-1", "soon", "1e3", "99999999999"])
async def test_deadlines_that_are_none(stub: Live, value: str) -> None:
    answer = await client_of(stub).post(CHAT, BODY, headers={"X-Request-Deadline-Ms": value})
    assert answer is not None
    assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_deadline")


async def test_engine_errors_become_clear_answers(tmp_path: Path) -> None:
    engine = StubEngine(faults=Faults(overload=7.0))
    async with running(engine, tmp_path) as live:
        recorder = Recorder()
        client = client_of(live, recorder)
        overloaded = await client.post(CHAT, BODY)
        assert overloaded is not None
        assert (overloaded.status, overloaded.json()["error"]["code"]) == (503, "engine_overloaded")
        assert int(overloaded.headers["retry-after"]) >= 7
        engine.faults.overload = None
        engine.die(restart_after=None)
        dead = await client.post(CHAT, BODY)
        assert dead is not None
        assert (dead.status, dead.json()["error"]["code"]) == (503, "engine_unavailable")
        ready = await client.get("/readyz")
        assert (ready.status, ready.json()) == (503, {"status": "not ready"})
        await balanced(live, recorder)


@pytest.mark.parametrize("how", [Leave.FIN, Leave.RST, Leave.CLOSE])
@pytest.mark.parametrize("body", [{"stream": True}, {"stream": True, "n": 8}], ids=["one", "fan-out"])
async def test_hanging_up_frees_the_slot(tmp_path: Path, how: Leave, body: dict[str, Any]) -> None:
    engine = StubEngine(StubConfig(step_seconds=0.01))
    async with running(engine, tmp_path) as live:
        recorder = Recorder()
        request = {**BODY, "max_tokens": 4000, "ignore_eos": True, **body}
        await client_of(live, recorder).stream(CHAT, request, leave_after_events=3, leave=how)
        await eventually(lambda: not engine.request_states, 2)
        await balanced(live, recorder)
        (row,) = [entry for entry in live.ledger.entries if isinstance(entry, Settled)]
        assert row.outcome == "cancelled"
        assert row.completion_tokens > 0


async def test_leaving_a_whole_answer_or_the_queue(tmp_path: Path) -> None:
    engine = StubEngine(StubConfig(step_seconds=0.01, max_running=1))
    async with running(engine, tmp_path) as live:
        recorder = Recorder()
        client = client_of(live, recorder)
        request = {**BODY, "max_tokens": 4000, "ignore_eos": True}
        leaving = [client.post(CHAT, request, leave_after=1.0, leave=Leave.RST) for _ in range(3)]
        assert await asyncio.gather(*leaving) == [None, None, None]
        await balanced(live, recorder)


async def test_a_batch_is_one_request(stub: Live) -> None:
    recorder = Recorder()
    body = {"model": "stub", "prompt": ["one", "two", "three"], "n": 2, "max_tokens": 3, "ignore_eos": True}
    answer = await client_of(stub, recorder).post("/v1/completions", body)
    assert answer is not None
    assert [choice["index"] for choice in answer.json()["choices"]] == list(range(6))
    assert answer.json()["usage"]["completion_tokens"] == 18
    await balanced(stub, recorder)
    assert len([entry for entry in stub.ledger.entries if isinstance(entry, Settled)]) == 1


async def test_one_failed_prompt_ends_the_batch_once(tmp_path: Path) -> None:
    engine = StubEngine(StubConfig(step_seconds=0.01), Faults(fail_requests=frozenset({2}), fail_after_tokens=2))
    async with running(engine, tmp_path) as live:
        recorder = Recorder()
        body = {"model": "stub", "prompt": ["one", "two", "three"], "max_tokens": 3000, "ignore_eos": True}
        answer = await client_of(live, recorder).post("/v1/completions", body)
        assert answer is not None
        assert (answer.status, answer.json()["error"]["code"]) == (500, "generation_failed")
        await balanced(live, recorder)


class Ledgered:
    """A limits policy that remembers what it was asked and told."""

    headers = ((b"x-ratelimit-limit-requests", b"7"),)

    def __init__(self) -> None:
        self.reserved: list[Demand] = []
        self.settled: list[int] = []

    def known(self, principal: object, address: object) -> Headers:
        return ()

    async def reserve(self, demand: Demand) -> Ledgered:
        self.reserved.append(demand)
        return self

    def settle(self, tokens: int) -> None:
        self.settled.append(tokens)


async def test_what_is_reserved_is_settled_once_on_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Ledgered()
    original = Pipeline.__init__

    def with_limits(self: Pipeline, **parts: Any) -> None:
        original(self, **{**parts, "limits": limits})

    monkeypatch.setattr(Pipeline, "__init__", with_limits)
    engine = StubEngine(StubConfig(step_seconds=0.01), Faults(fail_requests=frozenset({2})))
    async with running(engine, tmp_path) as live:
        client = client_of(live)
        answer = await client.post(CHAT, {**BODY, "ignore_eos": True})
        assert answer is not None
        assert answer.headers["x-ratelimit-limit-requests"] == "7"
        await client.post(CHAT, BODY)
        await client.stream(
            CHAT,
            {**BODY, "stream": True, "max_tokens": 4000, "ignore_eos": True},
            leave_after_events=2,
            leave=Leave.RST,
        )
        await eventually(lambda: len(limits.settled) == 3)
        engine.faults.overload = 1.0
        await client.post(CHAT, BODY)
        assert len(limits.settled) == len(limits.reserved) == 4
    prompt = limits.reserved[0].tokens - 8
    assert prompt > 0
    assert limits.settled[0] == prompt + 8
    assert prompt < limits.settled[2] < prompt + 4000
    assert limits.settled[3] == prompt


@pytest.mark.parametrize("seed", range(10))
async def test_chaos(tmp_path: Path, seed: int) -> None:
    """Random deaths, overloads, failures and hang-ups under honest load: every book agrees in the end."""
    import random

    luck = random.Random(seed)
    engine = StubEngine(StubConfig(step_seconds=0.002), Faults(fail_requests=frozenset(luck.choices(range(60), k=4))))
    async with running(engine, tmp_path) as live:
        recorder = Recorder()
        client = client_of(live, recorder)

        async def one(number: int) -> None:
            await asyncio.sleep(luck.random() * 0.5)
            body = {**BODY, "max_tokens": luck.randint(1, 80), "n": luck.choice([1, 1, 1, 3]), "ignore_eos": True}
            if luck.random() < 0.6:
                leave = luck.randint(1, 30) if luck.random() < 0.3 else None
                how = luck.choice([Leave.FIN, Leave.RST, Leave.CLOSE])
                await client.stream(CHAT, {**body, "stream": True}, leave_after_events=leave, leave=how)
            else:
                leave_after = luck.random() * 0.2 if luck.random() < 0.3 else None
                await client.post(CHAT, body, leave_after=leave_after, leave=Leave.RST)

        async def trouble() -> None:
            for _ in range(4):
                await asyncio.sleep(luck.random() * 0.2)
                engine.faults.overload = luck.choice([None, None, 1.0])
                if luck.random() < 0.5:
                    engine.die(restart_after=0.05)
            engine.faults.overload = None

        await asyncio.gather(trouble(), *map(one, range(60)))
        await balanced(live, recorder)


async def test_a_streams_pace_and_its_tenant_are_counted(stub: Live) -> None:
    client = Client("127.0.0.1", stub.port, KEY)
    body = {"model": "stub", "prompt": "pace", "max_tokens": 12, "ignore_eos": True}
    await client.stream("/v1/completions", {**body, "stream": True})
    await client.post("/v1/completions", body)
    labels = {"route": "/v1/completions", "model": "stub"}
    assert stub.metric("sluice_inter_token_seconds_count", **labels) == 1, "a whole answer has no pace"
    assert 0 <= stub.metric("sluice_inter_token_seconds_sum", **labels) < 5
    assert stub.metric("sluice_tenant_tokens_total", tenant="default", kind="completion") == 24
    assert stub.metric("sluice_tenant_tokens_total", tenant="default", kind="prompt") == 8
    assert stub.metric("sluice_tenant_requests_total", tenant="default", outcome="completed") == 2
    assert stub.metric("sluice_completion_tokens_count", model="stub") == 2
