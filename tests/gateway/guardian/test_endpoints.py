"""/v1/guard, /v1/guard/batch, /v1/guard/scan, /v1/moderations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.guardian.conftest import BAD, Moderation
from tests.support.client import Client, Response
from tests.support.gateways import KEY, Live, running
from tests.support.stub_engine import StubEngine

RULES = {"kind": "rules", "patterns": {"planted": BAD}, "secrets": True, "pii": False}


async def post(live: Live, path: str, body: object) -> Response:
    return await Client("127.0.0.1", live.port, KEY).request("POST", path, body)


@pytest.fixture
async def live(tmp_path: Path, moderator: Moderation) -> AsyncIterator[Live]:
    guard = {"evaluators": [RULES, moderator.evaluator()]}
    async with running(StubEngine(), tmp_path, guard=guard) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/guard", {"input": {"user": "hi"}}),
        ("/v1/guard/batch", {"inputs": [{"user": "hi"}]}),
        ("/v1/guard/scan", {"input": {"user": "hi"}}),
        ("/v1/moderations", {"input": "hi"}),
    ],
)
async def test_without_a_guard_they_are_501(stub: Live, path: str, body: object) -> None:
    answer = await post(stub, path, body)
    assert answer.status == 501
    assert answer.json()["error"]["code"] == "not_implemented"


async def test_one_input(live: Live) -> None:
    answer = (await post(live, "/v1/guard", {"input": {"user": f"a {BAD}"}, "risks": ["violence", "planted"]})).json()
    assert set(answer) == {"model", "flagged", "verdicts", "latency_ms"}
    assert answer["flagged"] is True
    by_risk = {each["risk"]: each for each in answer["verdicts"]}
    assert by_risk["planted"] == {"risk": "planted", "unsafe": True, "confidence": 1.0, "reasoning": None}
    assert by_risk["violence"]["confidence"] == 0.99
    fine = (await post(live, "/v1/guard", {"input": {"user": "a cat"}, "model": "rules", "format": "3.0"})).json()
    assert (fine["model"], fine["flagged"]) == ("rules", False)
    assert {each["risk"] for each in fine["verdicts"]} == {"planted", "secrets"}
    judged = await post(live, "/v1/guard", {"input": {"user": BAD, "assistant": "no"}, "model": "rules"})
    assert judged.json()["flagged"] is False


async def test_a_batch(live: Live) -> None:
    inputs = [{"user": BAD if index % 3 == 0 else f"text {index}"} for index in range(256)]
    answer = (await post(live, "/v1/guard/batch", {"inputs": inputs, "risks": ["planted"]})).json()
    assert set(answer) == {"model", "results", "latency_ms"}
    assert [each["index"] for each in answer["results"]] == list(range(256))
    assert [each["flagged"] for each in answer["results"]] == [index % 3 == 0 for index in range(256)]


async def test_a_scan(live: Live) -> None:
    answer = (await post(live, "/v1/guard/scan", {"input": {"user": f"a {BAD}"}})).json()
    assert answer["highest_risk"] == "planted"
    assert {each["risk"] for each in answer["verdicts"]} >= {"planted", "secrets", "violence", "harm"}
    assert (await post(live, "/v1/guard/scan", {"input": {"user": "a cat"}})).json()["highest_risk"] is None


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        ("", {"input": {"user": "x"}, "risks": ["nonsense"]}, "risks[0]", "invalid_value"),
        ("", {"input": {"user": "x"}, "risks": "harm"}, "risks", "invalid_type"),
        ("", {"input": {"user": "x"}, "format": "3.1"}, "format", "invalid_value"),
        ("", {"input": {"user": "x"}, "format": 3.2}, "format", "invalid_value"),
        ("", {"input": {"user": "x"}, "think": True}, "think", "invalid_value"),
        ("", {"input": {"user": "x"}, "format": "3.3", "think": 1}, "think", "invalid_type"),
        ("", {}, "input", "missing_required_parameter"),
        ("", {"input": {}}, "input.user", "missing_required_parameter"),
        ("", {"input": {"user": ""}}, "input.user", "empty_string"),
        ("", {"input": {"user": "x" * 200_001}}, "input.user", "string_above_max_length"),
        ("", {"input": {"user": None}}, "input.user", "missing_required_parameter"),
        ("", {"input": "x"}, "input", "invalid_type"),
        ("", {"input": {"user": "x", "context": "c"}}, "input.context", "invalid_value"),
        ("", {"input": {"user": "x"}, "risks": ["groundedness"]}, "risks[0]", "invalid_value"),
        ("", {"input": {"user": "x"}, "risks": ["evasiveness"]}, "risks[0]", "invalid_value"),
        ("", {"input": {"user": "x", "extra": 1}}, "input.extra", "unknown_parameter"),
        ("", {"input": {"user": "x"}, "extra": 1}, "extra", "unknown_parameter"),
        ("", {"input": {"user": "x"}, "model": "nobody"}, "model", "model_not_found"),
        ("", {"input": {"user": "x"}, "risks": ["evasiveness"] * 65}, "risks", "array_above_max_length"),
        ("/batch", {"inputs": []}, "inputs", "empty_array"),
        ("/batch", {"inputs": [{"user": "x"}] * 257}, "inputs", "array_above_max_length"),
        ("/batch", {"inputs": [{"user": "x"}, {}]}, "inputs[1].user", "missing_required_parameter"),
        ("/batch", {"inputs": [{"user": "x"}, 3]}, "inputs[1]", "invalid_type"),
        ("/scan", {"input": {"user": "x"}, "risks": ["harm"]}, "risks", "unknown_parameter"),
        ("/scan", {}, "input", "missing_required_parameter"),
    ],
)
async def test_bad_input_is_named(live: Live, path: str, body: object, param: str, code: str) -> None:
    answer = await post(live, f"/v1/guard{path}", body)
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert answer.status == (404 if code == "model_not_found" else 400)


async def test_a_known_risk_that_nobody_judges_is_501(live: Live) -> None:
    answer = await post(live, "/v1/guard", {"input": {"user": "x"}, "risks": ["jailbreaking"]})
    assert (answer.status, answer.json()["error"]["param"]) == (501, "risks[0]")


async def test_an_evaluator_that_fails_is_503(live: Live, moderator: Moderation) -> None:
    moderator.answer = b"nonsense"
    answer = await post(live, "/v1/guard", {"input": {"user": "x"}})
    assert (answer.status, answer.json()["error"]["code"]) == (503, "guardian_unavailable")
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("given", ["x", ["x", "y"], [{"type": "text", "text": "x"}]])
async def test_moderations(live: Live, given: Any) -> None:
    answer = (await post(live, "/v1/moderations", {"input": given, "model": "omni-moderation-latest"})).json()
    assert answer["id"].startswith("modr-")
    assert len(answer["results"]) == (1 if isinstance(given, str) else len(given))
    assert not any(each["flagged"] for each in answer["results"])
    flagged = (await post(live, "/v1/moderations", {"input": f"a {BAD}"})).json()["results"][0]
    assert flagged["flagged"] is True
    assert flagged["categories"]["violence"] is True
    assert flagged["categories"]["sexual"] is False
    assert flagged["category_scores"]["violence"] == 0.99
    assert set(flagged["categories"]) == set(flagged["category_scores"]) == set(flagged["category_applied_input_types"])


async def test_categories_that_nobody_judges_are_named(tmp_path: Path) -> None:
    async with running(StubEngine(), tmp_path, guard={"evaluators": [RULES]}) as live:
        result = (await post(live, "/v1/moderations", {"input": BAD})).json()["results"][0]
        assert result["flagged"] is True
        assert not any(result["categories"].values())
        assert set(result["categories_not_checked"]) == set(result["categories"])


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ("", "input", "empty_string"),
        ([], "input", "empty_array"),
        (["x", ""], "input[1]", "empty_string"),
        ([1], "input[0]", "invalid_type"),
        (["x" * 200_001], "input[0]", "string_above_max_length"),
        (None, "input", "missing_required_parameter"),
        ([{"type": "image_url", "image_url": {"url": "x"}}], "input[0].type", "unsupported_parameter"),
        ([{"type": "text"}], "input[0].text", "missing_required_parameter"),
    ],
)
async def test_bad_moderations_are_named(live: Live, given: Any, param: str, code: str) -> None:
    error = (await post(live, "/v1/moderations", {"input": given})).json()["error"]
    assert (error["param"], error["code"]) == (param, code)
