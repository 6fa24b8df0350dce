"""The guard on real vLLM, over real sockets: a stream that is cut, and an engine that stops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.guardian.model import GUARDIAN
from gateway.usage.records import Settled
from tests.support.client import Client
from tests.support.gateways import KEY, Borrowed, Live, Threaded, eventually, listen

pytestmark = pytest.mark.engine

MODEL = "smollm2-135m-instruct"
CHAT = "/v1/chat/completions"
QUESTION = "What is the capital of France? Answer with one word."


@pytest.fixture(scope="module")
def guarded(real: Threaded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A second gateway over the session's engine, with rules and a guard model that is the model itself."""
    guard = {
        "evaluators": [
            {"kind": "rules", "patterns": {"capital": "paris", "planted": "zorblax"}, "secrets": False, "pii": False},
            {"kind": "model", "model": MODEL, "format": "yes-no", "risks": ["harm", "violence"]},
        ],
        "policy": {"output": True, "timeout": 120.0, "risks": ["capital", "planted"]},
        "routes": {"/v1/completions": {"output": False, "risks": {"harm": 0.0, "violence": 0.0}}},
    }
    engine: Any = Borrowed(real.live.engine)
    live = real.run(listen(engine, tmp_path_factory.mktemp("guarded"), guard=guard))
    yield live
    real.run(live.gateway.stop())


def body(content: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 64, **more}


def client(live: Live) -> Client:
    return Client("127.0.0.1", live.port, KEY, timeout=120)


def rows(live: Live) -> list[Settled]:
    return [entry for entry in live.ledger.entries if isinstance(entry, Settled)]


def test_the_model_says_it_without_a_guard(real: Threaded) -> None:
    answer = real.run(client(real.live).stream(CHAT, body(QUESTION, stream=True)))
    assert "paris" in answer.text().lower()


@pytest.mark.parametrize("stream", [True, False])
def test_what_it_must_not_say_is_never_sent(real: Threaded, guarded: Live, stream: bool) -> None:
    sent = body(QUESTION, stream=stream, max_tokens=400, ignore_eos=True, logprobs=True, top_logprobs=2)
    answer = real.run(client(guarded).stream(CHAT, sent))
    wire = answer.body.decode() + "\n".join(answer.events)
    assert answer.status == 200, wire
    assert '"finish_reason":"content_filter"' in wire
    assert "paris" not in wire.lower()
    row = rows(guarded)[-1]
    assert (row.outcome, row.finish_reasons) == ("completed", ("content_filter",))
    assert 0 < row.completion_tokens < 400
    core = real.live.engine.core
    real.run(eventually(lambda: core.unfinished == 0, 60.0))


def test_harmless_answers_are_whole(real: Threaded, guarded: Live) -> None:
    question = body("Write one sentence about rivers.", stream=True)
    plain = real.run(client(real.live).stream(CHAT, question))
    watched = real.run(client(guarded).stream(CHAT, question))
    assert watched.text() == plain.text()
    assert watched.events[-1] == "[DONE]"


def test_blocked_input_is_refused_and_leaves_nothing(real: Threaded, guarded: Live) -> None:
    answer = real.run(client(guarded).post(CHAT, body("What is a zorblax?")))
    assert answer is not None
    assert (answer.status, answer.json()["error"]["code"]) == (400, "content_policy_violation")
    core = real.live.engine.core
    real.run(eventually(lambda: core.unfinished == 0, 60.0))


def test_a_guard_model_shares_the_engine_and_has_an_account(real: Threaded, guarded: Live) -> None:
    """At a threshold of nothing everything is flagged: the verdict came from the model, for both risks at once."""
    answer = real.run(client(guarded).post("/v1/completions", {"model": MODEL, "prompt": "The river", "max_tokens": 4}))
    assert answer is not None
    assert answer.status == 400, answer.body
    verdicts = {each["risk"]: each["confidence"] for each in answer.json()["error"]["verdicts"]}
    assert set(verdicts) == {"harm", "violence"}
    assert all(0.0 < score < 1.0 for score in verdicts.values())
    asked = [row for row in rows(guarded) if row.principal == GUARDIAN]
    assert asked
    assert all((row.tenant, row.route, row.outcome) == (GUARDIAN, "(guard)", "completed") for row in asked)


def test_verdicts_on_request(real: Threaded, guarded: Live) -> None:
    asked = {"input": {"user": "How do rivers form?"}, "risks": ["harm", "violence"], "model": "model"}
    answer = real.run(client(guarded).request("POST", "/v1/guard", asked)).json()
    assert {each["risk"] for each in answer["verdicts"]} == {"harm", "violence"}
    assert all(0.0 < each["confidence"] < 1.0 for each in answer["verdicts"])
