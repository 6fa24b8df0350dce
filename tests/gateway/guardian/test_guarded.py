"""Whole requests under guard, over real sockets: what is on the wire, in the ledger, in the audit."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import SettingsError
from tests.gateway.guardian.conftest import BAD, Moderation
from tests.support.checker import EngineEvidence, Evidence, check, without_index
from tests.support.client import Client
from tests.support.gateways import KEY, Live, eventually, running
from tests.support.recorder import Recorder
from tests.support.stub_engine import Faults, StubConfig, StubEngine

CHAT = "/v1/chat/completions"
RULES = {"kind": "rules", "patterns": {"planted": BAD}, "secrets": False, "pii": False}

GRANITE = {"kind": "model", "model": "stub"}


def body(content: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "stub", "messages": [{"role": "user", "content": content}], "max_tokens": 60, **more}


def client_of(live: Live, recorder: Recorder | None = None) -> Client:
    return Client("127.0.0.1", live.port, KEY, recorder=recorder, timeout=30)


async def balanced(live: Live, recorder: Recorder) -> None:
    await eventually(lambda: not live.metric("sluice_requests_in_flight") and not live.engine.request_states)
    evidence = Evidence(
        ledger=live.ledger.entries,
        clients=recorder.rows,
        engine=EngineEvidence(accounts=live.engine.accounts, leaks=live.engine.leaks()),
        owner=without_index,
    )
    assert check(evidence) == []
    assert live.ledger.violations == []


@pytest.mark.parametrize("stream", [False, True])
async def test_r10_blocked_input_is_a_400_that_says_why(tmp_path: Path, stream: bool) -> None:
    recorder = Recorder()
    async with running(StubEngine(), tmp_path, with_store=True, guard={"evaluators": [RULES]}) as live:
        client = client_of(live, recorder)
        fine = await client.post(CHAT, body("hello"))
        assert fine is not None
        assert fine.status == 200
        assert "x-guardian-flagged" not in fine.headers
        answer = await client.post(CHAT, body(f"say {BAD}", stream=stream))
        assert answer is not None
        assert answer.status == 400
        error = answer.json()["error"]
        assert (error["type"], error["param"], error["code"]) == (
            "invalid_request_error", "messages", "content_policy_violation",
        )  # fmt: skip
        assert error["verdicts"] == [{"risk": "planted", "unsafe": True, "confidence": 1.0}]
        assert answer.headers["x-should-retry"] == "false"
        await balanced(live, recorder)
        assert live.metric("sluice_guard_verdicts_total", risk="planted", stage="input", outcome="flagged") >= 1
        assert live.metric("sluice_guard_actions_total", stage="input", action="block") == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_verdict_that_comes_late_stops_what_already_runs(
    tmp_path: Path, moderator: Moderation, stream: bool
) -> None:
    recorder = Recorder()
    moderator.seconds = 0.2
    engine = StubEngine(StubConfig(step_seconds=0.005))
    guard = {"evaluators": [moderator.evaluator()]}
    async with running(engine, tmp_path, guard=guard) as live:
        client = client_of(live, recorder)
        answer = await client.post(CHAT, body(f"say {BAD}", stream=stream, ignore_eos=True, max_tokens=2000))
        assert answer is not None
        assert answer.status == 400
        assert answer.json()["error"]["code"] == "content_policy_violation"
        await balanced(live, recorder)
        accounts = list(engine.accounts.values())
        assert [each.ending for each in accounts] == ["aborted"]
        assert 0 < accounts[0].generated < 1000


async def test_the_answer_waits_for_its_verdict_and_runs_meanwhile(tmp_path: Path, moderator: Moderation) -> None:
    moderator.seconds = 0.3
    engine = StubEngine(StubConfig(reply_tokens=30))
    async with running(engine, tmp_path, guard={"evaluators": [moderator.evaluator()]}) as live:
        client = client_of(live)
        running_request = asyncio.ensure_future(client.stream(CHAT, body(stream=True)))
        await eventually(lambda: any(each.ending == "finished" for each in engine.accounts.values()))
        assert not running_request.done()
        result = await running_request
        assert result.status == 200
        assert result.events[-1] == "[DONE]"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"seconds": 5.0}, "timeout"),
        ({"dies": True}, "unreachable"),
        ({"status": b"500 Broken"}, "refused"),
        ({"status": b"302 Found"}, "refused"),
        ({"answer": b"yes, it is safe"}, "nonsense"),
        ({"answer": b"{}"}, "nonsense"),
        ({"answer": b'{"results": []}'}, "nonsense"),
        ({"answer": b'{"results": [{"categories": {}, "category_scores": {}}]}'}, "nonsense"),
        ({"answer": b'{"results": [{"categories": {}, "category_scores": {"violence": NaN}}]}'}, "nonsense"),
        ({"answer": b'{"results": [{"categories": {}, "category_scores": {"violence": 1e999}}]}'}, "nonsense"),
        ({"answer": b'{"results": [{"categories": {}, "category_scores": {"violence": -1}}]}'}, "nonsense"),
        ({"answer": b'{"results": [{"categories": {}, "category_scores": {"violence": true}}]}'}, "nonsense"),
        ({"answer": b'{"results": [{"categories": {}, "category_scores": {"violence": "0.1"}}]}'}, "nonsense"),
        ({"answer": b"x" * 300_000}, "nonsense"),
        ({"answer": b"[" * 100_000}, "nonsense"),
        ({"answer": b"null"}, "nonsense"),
        ({"answer": b""}, "nonsense"),
        ({"answer": b'{"results": [{"categories": {}, "category_scores": {"violence": 1.0000001}}]}'}, "nonsense"),
        ({"answer": b'{"results": [{"categories": [], "category_scores": {"violence": 0.1}}]}'}, "nonsense"),
        ({"answer": b'{"results": [{"category_scores": {"violence": 0.1}}]}'}, "nonsense"),
        ({"answer": b'{"results": [{"categories": {}, "category_scores": {"violence": null}}]}'}, "nonsense"),
        ({"status": b"204 Nothing"}, "refused"),
    ],
)
@pytest.mark.parametrize("stage", ["input", "output"])
async def test_f47_f48_f49_no_verdict_is_503_or_let_through_by_policy(
    tmp_path: Path, moderator: Moderation, fault: dict[str, Any], reason: str, stage: str
) -> None:
    for name, value in fault.items():
        setattr(moderator, name, value)
    stages = {"input": stage == "input", "output": stage == "output"}
    for on_failure in ("closed", "open"):
        policy = {"on_failure": on_failure, "timeout": 0.2, **stages}
        guard = {"evaluators": [moderator.evaluator()], "policy": policy}
        async with running(StubEngine(), tmp_path / on_failure, guard=guard) as live:
            recorder = Recorder()
            client = client_of(live, recorder)
            whole, streamed = await client.post(CHAT, body()), await client.stream(CHAT, body(stream=True))
            assert whole is not None
            if on_failure == "closed":
                assert (whole.status, whole.json()["error"]["code"]) == (503, "guardian_unavailable")
                assert whole.json()["error"]["type"] == "server_error"
                assert int(whole.headers["retry-after"]) >= 1
                assert streamed.status == 503 or streamed.ending == "error_event"
                assert streamed.status == 503 or not streamed.text()
            else:
                assert (whole.status, streamed.status) == (200, 200)
                assert streamed.events[-1] == "[DONE]"
            assert live.metric("sluice_guard_failures_total", evaluator="moderation", reason=reason) >= 1
            await balanced(live, recorder)


async def test_f49_an_evaluator_that_is_dead_is_left_alone_and_tried_again(
    tmp_path: Path, moderator: Moderation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.guardian.seat.REST_SECONDS", 0.3)
    monkeypatch.setattr("gateway.guardian.guardian.PROBE_SECONDS", 600.0)
    moderator.status = b"500 Broken"
    async with running(StubEngine(), tmp_path, guard={"evaluators": [moderator.evaluator()]}) as live:
        client = client_of(live)
        for _ in range(6):
            await client.post(CHAT, body())
        await eventually(lambda: bool(live.gateway.degraded()))
        asked = len(moderator.asked)
        await client.post(CHAT, body())
        assert len(moderator.asked) == asked
        assert live.gateway.degraded() == ["guard evaluator moderation does not answer"]
        assert (await client.get("/healthz")).status == 200
        moderator.status = b"200 OK"
        await asyncio.sleep(0.35)
        answer = await client.post(CHAT, body())
        assert answer is not None
        assert answer.status == 200
        assert live.gateway.degraded() == []


@pytest.mark.parametrize("unready", [False, True])
async def test_f49_readiness_names_an_evaluator_that_is_gone_and_by_policy_says_not_ready(
    tmp_path: Path, moderator: Moderation, monkeypatch: pytest.MonkeyPatch, unready: bool
) -> None:
    """One request met it; nobody asks after that, and yet it is named, and found again."""
    monkeypatch.setattr("gateway.guardian.seat.REST_SECONDS", 0.1)
    monkeypatch.setattr("gateway.guardian.guardian.PROBE_SECONDS", 0.02)
    named = "guard evaluator moderation does not answer"
    guard = {"evaluators": [moderator.evaluator()], "unready_on_failure": unready}
    async with running(StubEngine(), tmp_path, guard=guard) as live:
        client = client_of(live)
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        moderator.dies = True
        await client.post(CHAT, body())

        async def told() -> bool:
            return named in (await client.get("/readyz")).json().get("degraded", [])

        await eventually(told)
        answer = await client.get("/readyz")
        assert answer.headers["x-degraded"] == named
        assert answer.status == (503 if unready else 200)
        assert answer.headers.get("x-not-ready") == (named if unready else None)
        assert live.metric("sluice_guard_evaluator_available", evaluator="moderation") == 0
        moderator.dies = False

        async def well() -> bool:
            return bool((await client.get("/readyz")).json() == {"status": "ready"})

        await eventually(well)
        assert live.metric("sluice_guard_evaluator_available", evaluator="moderation") == 1


async def test_f47_a_text_that_an_evaluator_fails_on_takes_the_guard_from_nobody(
    tmp_path: Path, moderator: Moderation
) -> None:
    """It answers others: it is not left alone, however often somebody sends what it cannot take."""
    moderator.fails_on = "crash"
    async with running(StubEngine(), tmp_path, guard={"evaluators": [moderator.evaluator()]}) as live:
        client = client_of(live)
        for number in range(20):
            failed = await client.post(CHAT, body(f"crash {number}"))
            assert failed is not None
            assert failed.status == 503
            fine = await client.post(CHAT, body(f"hello {number // 7}"))
            assert fine is not None
            assert fine.status == 200, number
        assert live.gateway.degraded() == []


async def test_half_a_surrogate_pair_is_judged_too(tmp_path: Path, moderator: Moderation) -> None:
    async with running(StubEngine(), tmp_path, guard={"evaluators": [moderator.evaluator()]}) as live:
        for text, status in (("a \\ud800 b", 200), (f"a \\ud800 {BAD}", 400)):
            answer = await client_of(live).post(CHAT, body(text))
            assert answer is not None
            assert answer.status == status


async def test_questions_at_once_are_bounded(tmp_path: Path, moderator: Moderation) -> None:
    moderator.seconds = 0.02
    guard = {"evaluators": [moderator.evaluator()], "concurrency": 3, "policy": {"timeout": 20}}
    async with running(StubEngine(), tmp_path, guard=guard) as live:
        client = client_of(live)
        answers = await asyncio.gather(*(client.post(CHAT, body(f"question {i}")) for i in range(20)))
        assert all(each is not None and each.status == 200 for each in answers)
        assert moderator.most == 3


async def test_a_client_that_leaves_while_held_back_takes_everything_with_it(
    tmp_path: Path, moderator: Moderation
) -> None:
    moderator.seconds = 30
    engine = StubEngine(StubConfig(step_seconds=0.005))
    recorder = Recorder()
    guard = {"evaluators": [moderator.evaluator()], "policy": {"timeout": 60, "output": True}}
    async with running(engine, tmp_path, guard=guard) as live:
        client = client_of(live, recorder)
        sent = body(stream=True, ignore_eos=True, max_tokens=5000)
        await client.post(CHAT, sent, leave_after=0.3)
        await eventually(lambda: not engine.request_states)
        await eventually(lambda: not moderator.running)
        assert [each.ending for each in engine.accounts.values()] == ["aborted"]
        await balanced(live, recorder)


async def test_the_engine_dies_in_mid_check(tmp_path: Path, moderator: Moderation) -> None:
    moderator.seconds = 0.3
    engine = StubEngine(StubConfig(step_seconds=0.005))
    recorder = Recorder()
    guard = {"evaluators": [moderator.evaluator()], "policy": {"output": True}}
    async with running(engine, tmp_path, guard=guard) as live:
        client = client_of(live, recorder)
        waiting = asyncio.ensure_future(client.post(CHAT, body(ignore_eos=True, max_tokens=5000)))
        await eventually(lambda: bool(engine.request_states))
        await asyncio.sleep(0.05)
        engine.die()
        answer = await waiting
        assert answer is not None
        assert (answer.status, answer.json()["error"]["code"]) == (503, "engine_unavailable")
        await balanced(live, recorder)


async def test_annotate_lets_it_through_with_a_header(tmp_path: Path) -> None:
    guard = {"evaluators": [RULES], "policy": {"action": "annotate", "output": True}}
    async with running(StubEngine(), tmp_path, guard=guard) as live:
        client = client_of(live)
        for stream in (False, True):
            fine = await client.stream(CHAT, body(stream=stream))
            flagged = await client.stream(CHAT, body(f"say {BAD}", stream=stream))
            assert (fine.status, flagged.status) == (200, 200)
            assert "x-guardian-flagged" not in fine.headers
            assert flagged.headers["x-guardian-flagged"] == "true"
        assert live.metric("sluice_guard_actions_total", stage="input", action="annotate") == 2


async def test_redact_takes_it_out_of_the_prompt(tmp_path: Path) -> None:
    guard = {"evaluators": [{"kind": "rules"}], "policy": {"action": "redact"}}
    engine = StubEngine()
    async with running(engine, tmp_path, guard=guard) as live:
        client = client_of(live)
        prompts: list[str] = []
        render = engine.render_chat

        async def spy(model: str, conversation: Any) -> Any:
            prompts.append(conversation.messages[0].content)
            return await render(model, conversation)

        engine.render_chat = spy  # type: ignore[method-assign]
        answer = await client.post(CHAT, body("I am jane@mail.example.org, call +1 650-253-0000 now"))
        assert answer is not None
        assert answer.status == 200
        assert prompts == ["I am [REDACTED], call [REDACTED] now"]
        split = body("write to jane@mail", messages=[
            {"role": "user", "content": "write to jane@mail"}, {"role": "user", "content": ".example.org"},
        ])  # fmt: skip
        refused = await client.post(CHAT, split)
        assert refused is not None
        assert refused.status == 400


async def test_shadow_only_counts(tmp_path: Path) -> None:
    guard = {"evaluators": [RULES], "policy": {"action": "shadow", "output": True}}
    async with running(StubEngine(), tmp_path, guard=guard) as live:
        answer = await client_of(live).post(CHAT, body(f"say {BAD}"))
        assert answer is not None
        assert answer.status == 200
        assert "x-guardian-flagged" not in answer.headers
        await eventually(lambda: live.metric("sluice_guard_actions_total", stage="input", action="shadow") == 1)
    guard["policy"] = {"action": "shadow", "sample": 0.0}
    async with running(StubEngine(), tmp_path / "none", guard=guard) as live:
        await client_of(live).post(CHAT, body(f"say {BAD}"))
        await asyncio.sleep(0.05)
        assert live.metric("sluice_guard_actions_total", stage="input", action="shadow") == 0


async def test_policies_by_route_and_model_and_the_more_particular_wins(tmp_path: Path) -> None:
    guard = {
        "evaluators": [RULES],
        "policy": {"input": False},
        "models": {"stub": {"input": True}},
        "routes": {CHAT: {"action": "annotate"}},
    }
    async with running(StubEngine(), tmp_path, guard=guard) as live:
        client = client_of(live)
        chat = await client.post(CHAT, body(f"say {BAD}"))
        assert chat is not None
        assert chat.status == 200
        assert chat.headers["x-guardian-flagged"] == "true"
        text = await client.post("/v1/completions", {"model": "stub", "prompt": BAD})
        assert text is not None
        assert text.status == 400


async def test_system_and_tools_can_be_left_out(tmp_path: Path) -> None:
    guard: dict[str, Any] = {"evaluators": [RULES], "policy": {"system": False, "tools": False}}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": BAD},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": BAD, "tool_call_id": "c"},
    ]
    async with running(StubEngine(), tmp_path, guard=guard) as live:
        answer = await client_of(live).post(CHAT, body(messages=messages))
        assert answer is not None
        assert answer.status == 200


async def test_a_long_conversation_is_not_judged_again(tmp_path: Path, moderator: Moderation) -> None:
    engine = StubEngine(StubConfig(context_length=100_000))
    async with running(engine, tmp_path, guard={"evaluators": [moderator.evaluator()]}) as live:
        client = client_of(live)
        messages = [{"role": "user", "content": f"turn {i} " + "word " * 100} for i in range(20)]
        assert (await client.post(CHAT, body(messages=messages))) is not None
        first = len(moderator.asked)
        messages.append({"role": "user", "content": "one more"})
        assert (await client.post(CHAT, body(messages=messages))) is not None
        assert len(moderator.asked) - first <= 3 < first
        assert live.metric("sluice_guard_cache_total", outcome="hit") > 0


async def test_what_is_longer_than_the_window_is_judged_to_its_end(tmp_path: Path, moderator: Moderation) -> None:
    guard = {"evaluators": [moderator.evaluator(window=256)]}
    async with running(StubEngine(StubConfig(context_length=100_000)), tmp_path, guard=guard) as live:
        client = client_of(live)
        for at in (0, 250, 253, 3000, 6000):
            text = ("pad " * 2000)[:at] + BAD + ("pad " * 2000)[at:6000]
            answer = await client.post(CHAT, body(text))
            assert answer is not None
            assert answer.status == 400, at
        assert all(len(text) <= 256 for text in moderator.asked)


async def test_a_stub_that_fails_is_still_one_clear_error(tmp_path: Path) -> None:
    recorder = Recorder()
    engine = StubEngine(faults=Faults(fail_requests=frozenset({1}), fail_after_tokens=5))
    guard = {"evaluators": [RULES], "policy": {"output": True}}
    async with running(engine, tmp_path, guard=guard) as live:
        answer = await client_of(live, recorder).post(CHAT, body())
        assert answer is not None
        assert answer.json()["error"]["code"] == "generation_failed"
        await balanced(live, recorder)


async def test_a_block_is_in_the_audit_log_by_its_hash(tmp_path: Path) -> None:
    for kept in (False, True):
        guard = {"evaluators": [RULES], "audit_text": kept}
        async with running(StubEngine(), tmp_path / str(kept), with_store=True, guard=guard) as live:
            client = client_of(live)
            await client.post(CHAT, body(f"say {BAD}"))
            await client.post("/v1/completions", {"model": "stub", "prompt": f"say {BAD}"})

            async def told(live: Live = live, client: Client = client) -> bool:
                rows = (await client.get("/v1/admin/audit?act=guard.block")).json()["data"]
                return len(rows) == 2

            await eventually(told)
            rows = (await client.get("/v1/admin/audit?act=guard.block")).json()["data"]
            assert {row["target"] for row in rows} == {CHAT, "/v1/completions"}
            detail = rows[0]["detail"]
            assert detail["risks"] == {"planted": 1.0}
            assert detail["sha256"] == [hashlib.sha256(f"say {BAD}".encode()).hexdigest()]
            assert (BAD in str(rows)) is kept


async def test_policies_change_while_it_runs_and_the_change_is_audited(tmp_path: Path) -> None:
    guard = {"evaluators": [RULES], "policy": {"input": False}}
    async with running(StubEngine(), tmp_path, with_store=True, guard=guard) as live:
        client = client_of(live)
        shown = (await client.get("/v1/admin/guard")).json()
        assert shown["policy"]["input"] is False
        assert shown["evaluators"] == [{"name": "rules", "risks": ["planted"], "available": True}]
        before = await client.post(CHAT, body(BAD))
        changed = await client.request("PUT", "/v1/admin/guard", {"policy": {"input": True, "risks": ["planted"]}})
        assert changed.status == 200, changed.body
        assert changed.json()["policy"]["risks"] == {"planted": 0.5}
        after = await client.post(CHAT, body(BAD))
        assert before is not None
        assert after is not None
        assert (before.status, after.status) == (200, 400)

        async def told() -> bool:
            return bool((await client.get("/v1/admin/audit?act=guard.policy")).json()["data"])

        await eventually(told)


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({"policy": {"risks": ["nonsense"]}}, "policy"),
        ({"policy": {"action": "explode"}}, "policy.action"),
        ({"policy": {"timeout": 0}}, "policy.timeout"),
        ({"policy": {"extra": 1}}, "policy.extra"),
        ({"extra": {}}, "extra"),
    ],
)
async def test_a_policy_that_cannot_be_is_refused(tmp_path: Path, wanted: Any, param: str) -> None:
    async with running(StubEngine(), tmp_path, guard={"evaluators": [RULES]}) as live:
        answer = await client_of(live).request("PUT", "/v1/admin/guard", wanted)
        assert answer.status == 400
        assert answer.json()["error"]["param"] == param


async def test_a_key_may_have_a_policy_of_its_own(tmp_path: Path) -> None:
    guard = {"evaluators": [RULES], "keys": {"lenient": {"input": False}}}
    async with running(StubEngine(), tmp_path, with_store=True, guard=guard) as live:
        owner = client_of(live)
        made = await owner.request("POST", "/v1/admin/keys", {"name": "k", "guard_policy": "lenient"})
        assert made.json()["guard_policy"] == "lenient"
        client = Client("127.0.0.1", live.port, made.json()["key"])
        for key, status in ((client, 200), (owner, 400)):
            answer = await key.post(CHAT, body(BAD))
            assert answer is not None
            assert answer.status == status


@pytest.mark.parametrize(
    ("guard", "said"),
    [
        ({"evaluators": [RULES], "policy": {"risks": ["harm"]}}, "no evaluator judges it"),
        ({"evaluators": [RULES, RULES]}, "one name"),
        ({"evaluators": [{"kind": "rules", "patterns": {"x": "("}}]}, "not a regular expression"),
        ({"evaluators": [{"kind": "nobody"}]}, "guard.evaluators"),
        ({"policy": {"stream": {"window": 64, "hold_back": 65}}}, "smaller"),
        ({"evaluators": [RULES], "policy": {"risks": []}}, "nothing would be looked for"),
        ({"evaluators": [RULES], "policy": {"risks": {}}}, "nothing would be looked for"),
        ({"evaluators": [RULES], "policy": {"risks": {"planted": float("nan")}}}, "guard.policy.risks"),
        ({"evaluators": [RULES], "policy": {"risks": {"planted": 1.5}}}, "guard.policy.risks"),
        ({"evaluators": [RULES], "policy": {"risks": {"planted": -0.1}}}, "guard.policy.risks"),
        ({"evaluators": [RULES], "policy": {"sample": 1.1}}, "guard.policy.sample"),
        ({"evaluators": [RULES], "policy": {"timeout": float("inf")}}, "guard.policy.timeout"),
        ({"evaluators": [RULES], "routes": {"/v1/chat/completion": {"output": True}}}, "no such route is guarded"),
        ({"evaluators": [RULES], "routes": {CHAT: {"risks": {"nobody": 0.5}}}}, "no evaluator judges it"),
        ({"evaluators": [{"kind": "rules", "secrets": False, "pii": False}]}, "judge nothing"),
        ({"evaluators": [{"kind": "rules", "patterns": {"x": ".*"}}]}, "matches an empty text"),
        ({"evaluators": [GRANITE], "policy": {"risks": ["groundedness"]}}, "has a context"),
        ({"evaluators": [GRANITE], "policy": {"risks": ["evasiveness"]}}, "risk of answers"),
        ({"evaluators": [{"kind": "model", "model": "stub", "risks": ["x"]}]}, "not one of"),
    ],
)
async def test_settings_that_cannot_be_are_refused_at_start(tmp_path: Path, guard: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        async with running(StubEngine(), tmp_path, guard=guard):
            pass


async def test_what_was_kept_before_there_was_a_guard_is_judged_when_it_is_continued(tmp_path: Path) -> None:
    guard = {"evaluators": [RULES], "policy": {"input": False}}
    kept = {"store": True}
    async with running(StubEngine(), tmp_path, with_store=True, guard=guard, responses=kept) as live:
        client = client_of(live)
        first = await client.post("/v1/responses", {"model": "stub", "input": f"a {BAD}", "max_output_tokens": 16})
        assert first is not None
        assert first.status == 200, first.body
        await client.request("PUT", "/v1/admin/guard", {})
        again = {"model": "stub", "input": "go on", "previous_response_id": first.json()["id"]}
        answer = await client.post("/v1/responses", again)
        assert answer is not None
        assert answer.status == 400
        assert answer.json()["error"]["code"] == "content_policy_violation"
