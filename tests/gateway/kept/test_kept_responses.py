"""Responses that are kept, as their callers meet them: whole gateways over the stub engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import SettingsError
from gateway.usage.records import Settled
from tests.support.client import Client
from tests.support.gateways import KEY, Live, eventually, running
from tests.support.itemised import events_of
from tests.support.stub_engine import Faults, StubConfig, StubEngine

PATH = "/v1/responses"


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    engine = StubEngine(StubConfig(reply_tokens=5))
    kept = {"store": True, "max_bytes": 2000, "max_per_tenant": 50}
    async with running(engine, tmp_path, with_store=True, store={"poll_interval": 0.05}, responses=kept) as gateway:
        await eventually(lambda: not gateway.gateway.degraded())
        yield gateway


def client(live: Live, key: str = KEY) -> Client:
    return Client("127.0.0.1", live.port, key, timeout=30)


async def create(live: Live, key: str = KEY, **fields: Any) -> Any:
    answer = await client(live, key).post(PATH, {"model": "stub", "input": "hello", **fields})
    assert answer is not None
    return answer


async def kept(live: Live, key: str = KEY, **fields: Any) -> Any:
    answer = await create(live, key, **fields)
    assert answer.status == 200, answer.body
    assert answer.json()["store"] is True
    return answer.json()


async def ask(live: Live, method: str, path: str, key: str = KEY) -> tuple[int, Any]:
    answer = await client(live, key).request(method, f"{PATH}/{path}")
    return answer.status, answer.json()


async def make_key(live: Live, tenant: str) -> str:
    answer = await client(live).post("/v1/admin/keys", {"name": "test", "tenant": tenant})
    assert answer is not None
    made: str = answer.json()["key"]
    return made


async def test_a_response_is_there_the_moment_it_is_answered(live: Live) -> None:
    made = await kept(live, metadata={"a": "b"})
    assert await ask(live, "GET", made["id"]) == (200, made)
    assert await ask(live, "DELETE", made["id"]) == (200, {"id": made["id"], "object": "response", "deleted": True})
    for method, path in (("GET", made["id"]), ("DELETE", made["id"]), ("GET", f"{made['id']}/input_items")):
        status, body = await ask(live, method, path)
        assert (status, body["error"]["code"]) == (404, "response_not_found")


async def test_a_stream_is_kept_as_its_last_event_says(live: Live) -> None:
    stream = await client(live).stream(PATH, {"model": "stub", "input": "hello", "stream": True})
    last = events_of(stream.body)[-1]
    assert last["type"] == "response.completed"
    assert await ask(live, "GET", last["response"]["id"]) == (200, last["response"])


async def test_not_to_be_kept(live: Live) -> None:
    answer = await create(live, store=False)
    assert answer.json()["store"] is False
    assert (await ask(live, "GET", answer.json()["id"]))[0] == 404


async def test_going_on_from_a_response(live: Live) -> None:
    first = await kept(live, instructions="be brief")
    second = await kept(live, input="more", previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    assert second["instructions"] is None
    _, page = await ask(live, "GET", f"{second['id']}/input_items?order=asc")
    said = [(item["role"], item["content"][0]["text"]) for item in page["data"]]
    assert said == [("user", "hello"), ("assistant", first["output"][0]["content"][0]["text"]), ("user", "more")]
    text = [{"role": role, "content": content} for role, content in said]
    apart = await kept(live, input=text)
    assert apart["usage"]["input_tokens"] == second["usage"]["input_tokens"]
    await ask(live, "DELETE", first["id"])
    third = await create(live, input="x", previous_response_id=second["id"])
    assert third.status == 200
    gone = await create(live, previous_response_id=first["id"])
    assert (gone.status, gone.json()["error"]["code"]) == (400, "previous_response_not_found")


async def test_another_tenants_response_is_none_at_all(live: Live) -> None:
    mine, other = await make_key(live, "mine"), await make_key(live, "other")
    made = await kept(live, mine)
    assert (await ask(live, "GET", made["id"], await make_key(live, "mine")))[0] == 200
    unknown = "resp_" + "0" * 32
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items")):
        theirs = await client(live, other).request(method, f"{PATH}/{made['id']}{path}")
        nobodys = await client(live, other).request(method, f"{PATH}/{unknown}{path}")
        assert (theirs.status, theirs.body) == (nobodys.status, nobodys.body)
        assert theirs.status == 404
    before = [await create(live, other, previous_response_id=each) for each in (made["id"], unknown)]
    assert before[0].body == before[1].body
    assert before[0].status == 400
    assert (await ask(live, "GET", made["id"], mine))[0] == 200


async def test_pages_of_input_items(live: Live) -> None:
    items = [{"role": "user", "content": str(number)} for number in range(5)]
    made = (await kept(live, input=items))["id"]

    async def page(query: str) -> Any:
        return (await ask(live, "GET", f"{made}/input_items?{query}"))[1]

    def texts(found: Any) -> list[str]:
        return [item["content"][0]["text"] for item in found["data"]]

    newest = await page("limit=2")
    assert (texts(newest), newest["has_more"]) == (["4", "3"], True)
    assert newest["first_id"] == newest["data"][0]["id"]
    rest = await page(f"limit=3&after={newest['last_id']}")
    assert (texts(rest), rest["has_more"]) == (["2", "1", "0"], False)
    assert texts(await page("order=asc&limit=1")) == ["0"]
    for query, param in (("limit=0", "limit"), ("order=x", "order"), ("after=x", "after"), ("include=x", "include")):
        assert (await page(query))["error"]["param"] == param
    assert (await ask(live, "GET", f"{made}?stream=true"))[1]["error"]["param"] == "stream"


async def test_a_conversation_too_large_to_keep_is_refused_before_it_runs(live: Live) -> None:
    answer = await create(live, input="x" * 2500)
    assert (answer.status, answer.json()["error"]["code"]) == (400, "conversation_too_large")
    assert (await create(live, input="x" * 2500, store=False)).status == 200
    assert len([entry for entry in live.ledger.entries if isinstance(entry, Settled)]) == 1


async def test_what_cannot_be_kept_is_said_counted_and_still_answered(live: Live) -> None:
    assert live.store is not None
    assert live.store.database.path is not None
    live.store.database.path.rename(live.store.database.path.with_suffix(".away"))
    stream = await client(live).stream(PATH, {"model": "stub", "input": "hello", "stream": True})
    for whole in ((await create(live)).json(), events_of(stream.body)[-1]["response"]):
        assert (whole["status"], whole["store"]) == ("completed", False)
    assert live.metric("sluice_responses_lost_total") == 2
    assert "responses" in live.gateway.degraded()
    status, body = await ask(live, "GET", whole["id"])
    assert (status, body["error"]["code"]) == (503, "store_unavailable")
    again = await create(live, previous_response_id=whole["id"])
    assert (again.status, again.json()["error"]["code"]) == (503, "store_unavailable")


async def test_strange_ids_are_not_found(live: Live) -> None:
    for path in ("resp_" + "a" * 300, "%27%20OR%201=1", "a%00b", "..", "%ff"):
        assert (await ask(live, "GET", path))[0] == 404


async def test_where_nothing_is_kept(stub: Live) -> None:
    for method, path in (("GET", "resp_1"), ("DELETE", "resp_1"), ("GET", "resp_1/input_items")):
        status, body = await ask(stub, method, path)
        assert (status, body["error"]["code"]) == (404, "response_not_found")
        assert "responses.store" in body["error"]["message"]
    answer = await create(stub)
    assert answer.json()["store"] is False
    for refused in (await create(stub, store=True), await create(stub, previous_response_id="resp_1")):
        error = refused.json()["error"]
        assert (refused.status, error["code"]) == (400, "unsupported_parameter")
        assert error["param"] in ("store", "previous_response_id")


async def test_keeping_needs_a_database(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"responses\.store"):
        async with running(StubEngine(), tmp_path, responses={"store": True}):
            pass


async def test_a_failure_in_mid_stream_is_one_event_and_nothing_is_kept(tmp_path: Path) -> None:
    engine = StubEngine(StubConfig(reply_tokens=50), Faults(fail_requests=frozenset({1}), fail_after_tokens=3))
    async with running(engine, tmp_path, with_store=True, responses={"store": True}) as live:
        stream = await client(live).stream(PATH, {"model": "stub", "input": "hello", "stream": True})
        events = events_of(stream.body)
        assert [event["type"] for event in events].count("response.failed") == 1
        assert events[-1]["type"] == "response.failed"
        assert (await ask(live, "GET", events[-1]["response"]["id"]))[0] == 404
        (row,) = [entry for entry in live.ledger.entries if isinstance(entry, Settled)]
        assert (row.outcome, row.code, row.completion_tokens) == ("error", "generation_failed", 3)


async def test_a_failure_in_a_message_is_one_event(tmp_path: Path) -> None:
    engine = StubEngine(StubConfig(reply_tokens=50), Faults(fail_requests=frozenset({1}), fail_after_tokens=3))
    async with running(engine, tmp_path) as live:
        body = {"model": "stub", "max_tokens": 20, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        stream = await client(live).stream("/v1/messages", body, headers={"x-request-id": "req-1"})
        event = {"type": "api_error", "message": "The generation failed."}
        assert events_of(stream.body)[-1] == {"type": "error", "error": event, "request_id": "req-1"}
        assert b"message_stop" not in stream.body


async def test_errors_of_messages_in_anthropics_words(stub: Live) -> None:
    def body(**fields: Any) -> dict[str, Any]:
        return {"model": "stub", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], **fields}

    async def post(content: Any, key: str | None = KEY, **headers: str) -> Any:
        path = "/v1/messages"
        return await Client("127.0.0.1", stub.port, key, timeout=30).post(path, content, headers=headers)

    for answer, status, kind in (
        (await post(body(), None), 401, "authentication_error"),
        (await post(body(), None, **{"x-api-key": "sk-wrong"}), 401, "authentication_error"),
        (await post(body(), **{"x-api-key": "sk-other"}), 400, "invalid_request_error"),
        (await post(body(model="nope")), 404, "not_found_error"),
        (await post(b"{"), 400, "invalid_request_error"),
        (await post(body(), **{"anthropic-version": "2020-01-01"}), 400, "invalid_request_error"),
    ):
        assert answer.status == status
        assert answer.headers["request-id"] == answer.headers["x-request-id"]
        told = json.loads(answer.body)
        assert set(told) == {"type", "error", "request_id"}
        assert set(told["error"]) == {"type", "message"}
        assert (told["error"]["type"], told["request_id"]) == (kind, answer.headers["request-id"])
    for version in ("2023-06-01", "2026-10-21"):
        headers = {"x-api-key": KEY, "anthropic-version": version}
        assert (await post(body(), None, **headers)).status == 200
    # Elsewhere it is no credential.
    answer = await Client("127.0.0.1", stub.port, None, timeout=30).request("GET", "/v1/models", headers=headers)
    assert answer.status == 401


async def test_a_body_too_large_is_told_in_anthropics_words(tmp_path: Path) -> None:
    async with running(StubEngine(), tmp_path, http={"max_body_bytes": 2000}) as live:
        answer = await client(live).post("/v1/messages", {"model": "stub", "messages": "x" * 3000})
        assert answer is not None
        assert (answer.status, answer.json()["type"]) == (413, "error")
