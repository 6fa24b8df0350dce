"""/v1/embeddings, /v1/classify, /v1/rerank and /v1/score over the stub: the wire, the account, the refusals."""

from __future__ import annotations

import asyncio
import base64
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.types import ModelState
from gateway.store.audit import AuditFilter, read_audit
from tests.conformance.contract import assert_error
from tests.support.gateways import Live, eventually, running
from tests.support.stub_engine import LABELS, StubConfig, StubEngine

CONFIG = StubConfig(beside=(("embedder", "embed"), ("classifier", "classify"), ("scorer", "score")))


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    async with running(StubEngine(CONFIG), tmp_path) as live:
        yield live


@pytest.fixture
async def http(live: Live) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=live.url, headers=live.authorization, timeout=30) as client:
        yield client


async def embed(http: httpx.AsyncClient, given: Any, **more: Any) -> httpx.Response:
    return await http.post("/v1/embeddings", json={"model": "embedder", "input": given, **more})


async def vectors(http: httpx.AsyncClient, given: Any, **more: Any) -> list[list[float]]:
    answer = (await embed(http, given, **more)).json()
    assert [each["index"] for each in answer["data"]] == list(range(len(answer["data"])))
    return [each["embedding"] for each in answer["data"]]


async def test_texts_lists_and_token_ids_give_the_same(http: httpx.AsyncClient) -> None:
    (one,) = await vectors(http, "hello")
    assert await vectors(http, ["hello", "world", "hello"]) == [one, (await vectors(http, "world"))[0], one]
    ids = list(b"hello")  # the stub's tokens are bytes
    assert await vectors(http, ids) == [one]
    assert await vectors(http, [ids, list(b"world")]) == await vectors(http, ["hello", "world"])


async def test_numbers_and_base64_are_the_same(http: httpx.AsyncClient) -> None:
    numbers = await vectors(http, ["a", "b"])
    packed = await vectors(http, ["a", "b"], encoding_format="base64")
    for plain, encoded in zip(numbers, packed, strict=True):
        assert array("f", base64.b64decode(str(encoded))).tolist() == pytest.approx(plain, abs=1e-7)


async def test_usage_ledger_and_metrics_count_the_prompts_once(live: Live, http: httpx.AsyncClient) -> None:
    answer = (await embed(http, ["ab", "cde"])).json()
    assert answer["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    admitted, settled = live.ledger.entries
    assert (admitted.model, admitted.prompt_tokens, admitted.route) == ("embedder", 5, "/v1/embeddings")
    assert (settled.outcome, settled.prompt_tokens, settled.completion_tokens) == ("completed", 5, 0)  # type: ignore[union-attr]
    assert live.metric("sluice_tokens_total", model="embedder", kind="prompt") == 5
    assert live.engine.holds == 0


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_required_parameter", "input"),
        ({"input": ""}, "empty_string", "input"),
        ({"input": []}, "empty_array", "input"),
        ({"input": ["a", ""]}, "empty_string", "input"),
        ({"input": ["a"] * 257}, "array_above_max_length", "input"),
        ({"input": [[1]] * 257}, "array_above_max_length", "input"),
        ({"input": ["a", 1]}, "invalid_type", "input[1]"),
        ({"input": [-1]}, "integer_below_min_value", "input[0]"),
        ({"input": 1}, "invalid_type", "input"),
        ({"input": "a", "dimensions": 0}, "integer_below_min_value", "dimensions"),
        ({"input": "a", "dimensions": 9}, "invalid_value", "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "invalid_value", "encoding_format"),
        ({"input": "a", "truncate_prompt_tokens": 5}, "unsupported_parameter", "truncate_prompt_tokens"),
        ({"input": "a", "input_type": "query"}, "unsupported_parameter", "input_type"),
        ({"input": "a", "colour": 1}, "unknown_parameter", "colour"),
        ({"input": "a" * 9000}, "context_length_exceeded", "input"),
    ],
)
async def test_bad_input(live: Live, http: httpx.AsyncClient, body: dict[str, Any], code: str, param: str) -> None:
    answer = await http.post("/v1/embeddings", json={"model": "embedder", **body})
    assert_error(answer, 400, code, param)
    assert live.ledger.entries == []
    assert live.engine.holds == 0


async def test_a_long_list_of_token_ids_is_one_input(http: httpx.AsyncClient) -> None:
    assert len(await vectors(http, list(range(256)) * 2)) == 1
    assert len(await vectors(http, ["a"] * 256)) == 256


async def test_models_of_another_kind_are_refused_by_name(http: httpx.AsyncClient) -> None:
    assert_error(await embed(http, "a", model="stub"), 400, "model_kind_mismatch", "model")
    assert_error(await embed(http, "a", model="classifier"), 400, "model_kind_mismatch", "model")
    chat = {"model": "embedder", "messages": [{"role": "user", "content": "hello"}]}
    refused = await http.post("/v1/chat/completions", json=chat)
    assert_error(refused, 400, "model_kind_mismatch", "model")
    assert "'embed'" in refused.json()["error"]["message"]
    assert_error(
        await http.post("/v1/completions", json={"model": "scorer", "prompt": "a"}), 400, "model_kind_mismatch", "model"
    )
    assert_error(await embed(http, "a", model="nobody"), 404, "model_not_found", "model")


async def test_classes(http: httpx.AsyncClient) -> None:
    answer = await http.post(
        "/v1/classify", json={"model": "classifier", "input": ["a", "b"], "return_all_scores": True}
    )
    body = answer.json()
    assert set(body) == {"data", "model", "usage"}
    for index, each in enumerate(body["data"]):
        assert each["index"] == index
        assert tuple(each["scores"]) == LABELS
        assert each["score"] == max(each["scores"].values()) == each["scores"][each["label"]]
    plain = (await http.post("/v1/classify", json={"model": "classifier", "input": "a"})).json()
    assert set(plain["data"][0]) == {"label", "score", "index"}


async def test_without_a_classifier_it_is_501(stub: Live) -> None:
    async with httpx.AsyncClient(base_url=stub.url, headers=stub.authorization) as http:
        for model in ("stub", "nobody"):
            answer = await http.post("/v1/classify", json={"model": model, "input": "a"})
            assert_error(answer, 501, "not_configured")


async def test_documents_are_ranked(http: httpx.AsyncClient) -> None:
    documents = ["one", {"text": "two"}, "three", "one"]
    body = {"model": "scorer", "query": "q", "documents": documents}
    whole = (await http.post("/v1/rerank", json=body)).json()
    scores = [each["relevance_score"] for each in whole["results"]]
    assert scores == sorted(scores, reverse=True)
    assert sorted(each["index"] for each in whole["results"]) == [0, 1, 2, 3]
    places = [each["index"] for each in whole["results"]]
    assert places.index(0) < places.index(3)  # of equals the earlier
    top = (await http.post("/v1/rerank", json={**body, "top_n": 2, "return_documents": True})).json()
    assert [each["index"] for each in top["results"]] == places[:2]
    texts = ["one", "two", "three", "one"]
    assert [each["document"]["text"] for each in top["results"]] == [texts[place] for place in places[:2]]


async def test_scores_of_pairs(http: httpx.AsyncClient) -> None:
    body = {"model": "scorer", "text_1": "q", "text_2": ["one", "two"]}
    one_to_many = (await http.post("/v1/score", json=body)).json()
    side_by_side = (await http.post("/v1/score", json={**body, "text_1": ["q", "q"]})).json()
    assert [each["score"] for each in one_to_many["data"]] == [each["score"] for each in side_by_side["data"]]
    uneven = await http.post("/v1/score", json={**body, "text_1": ["a", "b", "c"]})
    assert_error(uneven, 400, "invalid_value", "text_1")
    assert_error(
        await http.post("/v1/rerank", json={"model": "scorer", "query": "q", "documents": [{"t": 1}]}),
        400,
        "unknown_parameter",
        "documents[0].t",
    )


async def test_a_caller_who_leaves_and_an_engine_that_fails_each_end_once(live: Live, http: httpx.AsyncClient) -> None:
    live.engine.faults.pool_fails = True
    assert (await embed(http, "a")).status_code == 500
    live.engine.faults.pool_fails = False
    live.engine.faults.pool_seconds = 30
    task = asyncio.ensure_future(embed(http, "a"))
    await eventually(lambda: live.metric("sluice_requests_in_flight") == 1)
    task.cancel()
    await eventually(lambda: live.metric("sluice_requests_in_flight") == 0)
    outcomes = [row.outcome for row in live.ledger.entries if hasattr(row, "outcome")]
    assert outcomes == ["error", "cancelled"]
    assert live.engine.leaks() == []
    assert live.ledger.violations == []


async def test_unloaded_models(tmp_path: Path) -> None:
    for policy, status, code in (("503", 503, "model_not_loaded"), ("404", 404, "model_not_found")):
        async with (
            running(StubEngine(CONFIG), tmp_path / policy, pool={"unloaded": policy}) as live,
            httpx.AsyncClient(base_url=live.url, headers=live.authorization) as http,
        ):
            gone = await http.delete("/v1/models/stub")
            assert gone.json() == {"id": "stub", "object": "model", "deleted": True}
            chat = {"model": "stub", "messages": [{"role": "user", "content": "hello"}]}
            assert_error(await http.post("/v1/chat/completions", json=chat), status, code, "model")
            listed = [model["id"] for model in (await http.get("/v1/models")).json()["data"]]
            assert ("stub" in listed) is (policy == "503")
            back = await http.post("/v1/models/stub/load")
            assert (back.status_code, back.json()["state"]) == (200, "ready")
            assert (await http.post("/v1/chat/completions", json=chat)).status_code == 200
            assert_error(await http.delete("/v1/models/nobody"), 404, "model_not_found", "model")
            assert_error(await http.post("/v1/models/a/b/load"), 404, "model_not_found", "model")


async def test_loads_and_unloads_are_in_the_audit_log(tmp_path: Path) -> None:
    async with (
        running(StubEngine(CONFIG), tmp_path, with_store=True) as live,
        httpx.AsyncClient(base_url=live.url, headers=live.authorization) as http,
    ):
        unloaded = await http.delete("/v1/models/stub")
        await http.post("/v1/models/stub/load")
        await http.post("/v1/models/nobody/load")
        assert live.store is not None
        assert live.store.audit.flush(30)
        rows, _ = read_audit(live.store.database, AuditFilter(target="stub"))
        nobody, _ = read_audit(live.store.database, AuditFilter(target="nobody"))
    entries = [row.entry for row in reversed(rows)]
    assert [(entry.act, entry.allowed) for entry in entries] == [("model.unload", True), ("model.load", True)]
    assert entries[0].request_id == unloaded.headers["x-request-id"]
    assert nobody == []


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (ModelState.LOADING, "model_loading"),
        (ModelState.FAILED, "model_failed"),
        (ModelState.UNLOADING, "model_not_loaded"),
        (ModelState.COLD, "model_not_loaded"),
    ],
)
async def test_each_state_has_its_code(stub: Live, state: ModelState, code: str) -> None:
    stub.engine.model_state = state
    async with httpx.AsyncClient(base_url=stub.url, headers=stub.authorization) as http:
        chat = {"model": "stub", "messages": [{"role": "user", "content": "hello"}]}
        assert_error(await http.post("/v1/chat/completions", json=chat), 503, code, "model", "server_error")
    assert stub.ledger.entries == []


async def test_a_load_takes_no_fields(http: httpx.AsyncClient) -> None:
    refused = await http.post("/v1/models/embedder/load", json={"path": "../elsewhere"})
    assert_error(refused, 400, "unknown_parameter", "path")
    assert (await http.post("/v1/models/embedder/load", json={})).status_code == 200
