"""Keys, scopes, allow-lists, limits and usage as callers meet them: whole gateways over the stub engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.access.principal import Scope
from gateway.lifecycle import Gateway
from gateway.usage.records import Settled
from tests.support.client import Client
from tests.support.gateways import KEY, Live, eventually, running
from tests.support.redis_server import RedisServer
from tests.support.stub_engine import Faults, StubConfig, StubEngine

BODY: dict[str, Any] = {"model": "stub", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
CHAT = "/v1/chat/completions"


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    engine = StubEngine(StubConfig(step_seconds=0.001, prefix_block=4))
    async with running(engine, tmp_path, with_store=True, store={"poll_interval": 0.05}) as gateway:
        yield gateway


def client(live: Live, key: str = KEY) -> Client:
    return Client("127.0.0.1", live.port, key, timeout=30)


async def post(live: Live, path: str, body: dict[str, Any], key: str = KEY, **more: Any) -> Any:
    answer = await client(live, key).post(path, body, **more)
    assert answer is not None
    return answer


async def make_key(live: Live, **fields: Any) -> dict[str, Any]:
    answer = await post(live, "/v1/admin/keys", {"name": "test", **fields})
    assert answer.status == 200, answer.body
    made: dict[str, Any] = answer.json()
    return made


def error(answer: Any) -> tuple[int, str]:
    body = answer.json()["error"]
    # Anthropic's bodies have no codes, but types that say as much.
    known = {"authentication_error": "missing_api_key", "permission_error": "insufficient_scope"}
    return answer.status, body["code"] if "code" in body else known.get(body["type"], body["type"])


async def test_a_key_works_the_moment_it_is_made_and_ends_the_moment_it_is_revoked(live: Live) -> None:
    made = await make_key(live)
    assert (await post(live, CHAT, BODY, made["key"])).status == 200
    assert (await client(live).request("DELETE", f"/v1/admin/keys/{made['id']}")).status == 200
    refused = await post(live, CHAT, BODY, made["key"])
    assert error(refused) == (401, "invalid_api_key")
    assert refused.headers["www-authenticate"].startswith("Bearer ")
    unknown = await post(live, CHAT, BODY, "sk-0123456789abcdef-" + "A" * 43)
    assert unknown.body == refused.body


async def test_rotation_keeps_who_it_is_and_overlaps(live: Live) -> None:
    old = await make_key(live, tenant="t1")
    new = (await post(live, f"/v1/admin/keys/{old['id']}/rotate", {"overlap_seconds": 600})).json()
    assert new["id"] == old["id"]
    for key in (old["key"], new["key"]):
        assert (await post(live, CHAT, BODY, key)).status == 200
    last = (await post(live, f"/v1/admin/keys/{old['id']}/rotate", {})).json()
    for key in (old["key"], new["key"]):
        assert error(await post(live, CHAT, BODY, key)) == (401, "invalid_api_key")
    assert (await post(live, CHAT, BODY, last["key"])).status == 200
    rows = [entry for entry in live.ledger.entries if isinstance(entry, Settled)]
    assert {(row.principal, row.tenant) for row in rows} == {(old["id"], "t1")}


def routes_of(gateway: Gateway) -> list[tuple[str, str, Scope]]:
    assert gateway._front is not None
    return [(r.method, r.path, r.scope) for r in gateway._front._routes.routes if r.scope is not None]


async def test_every_route_asks_for_its_scope_and_nothing_else_opens_it(live: Live) -> None:
    keys = {scope: (await make_key(live, scopes=[scope.value]))["key"] for scope in Scope}
    nobody = Client("127.0.0.1", live.port, None, timeout=30)
    for method, path, wanted in routes_of(live.gateway):
        path = path.replace("{id}", "none").replace("{response_id}", "none").replace("{model}", "stub")
        body: dict[str, Any] | None = None if method in ("GET", "DELETE") else {}
        assert error(await nobody.request(method, path, body)) == (401, "missing_api_key"), path
        for scope, key in keys.items():
            answer = await client(live, key).request(method, path, body)
            if scope in (wanted, Scope.ADMIN):
                assert answer.status not in (401, 403), (method, path, scope)
            else:
                assert error(answer) == (403, "insufficient_scope"), (method, path, scope)
                assert wanted.value in answer.json()["error"]["message"]
                assert f'scope="{wanted.value}"' in answer.headers["www-authenticate"]


async def test_scopes_are_as_documented(live: Live) -> None:
    of_training = ("/v1/adapters", "/v1/repository/models")
    for method, path, scope in routes_of(live.gateway):
        uploads = path.startswith("/v1/repository/uploads/")
        if path.startswith("/v1/admin/") or (method != "GET" and path.startswith("/v1/models/")):
            assert scope is Scope.ADMIN
        elif uploads or (path.startswith(of_training) and method != "GET"):
            assert scope is Scope.TRAINING
        elif method == "POST" or (method, path) == ("DELETE", "/v1/responses/{response_id}"):
            assert scope is Scope.INFERENCE
        else:
            assert scope is Scope.READ_ONLY


async def test_unknown_paths_below_v1_are_for_readers(live: Live) -> None:
    nobody = Client("127.0.0.1", live.port, None, timeout=30)
    for path in ("/v1/nothing", "/nothing"):
        assert error(await nobody.get(path)) == (404, "unknown_url")
    assert error(await client(live, "sk-wrong").get("/v1/nothing")) == (401, "invalid_api_key")
    writer = (await make_key(live, scopes=["inference"]))["key"]
    assert error(await client(live, writer).get("/v1/nothing")) == (403, "insufficient_scope")
    assert error(await client(live).get("/v1/nothing")) == (404, "unknown_url")


async def test_hidden_models_are_like_models_that_do_not_exist(live: Live) -> None:
    blind = (await make_key(live, models=["other"]))["key"]
    hidden = await post(live, CHAT, BODY, blind)
    unknown = await post(live, CHAT, {**BODY, "model": "bogus"}, blind)
    assert error(hidden) == (404, "model_not_found")
    assert hidden.body == unknown.body
    assert (await client(live, blind).get("/v1/models")).json()["data"] == []
    assert error(await client(live, blind).get("/v1/models/stub")) == (404, "model_not_found")
    seeing = (await make_key(live, models=["stub"]))["key"]
    assert [each["id"] for each in (await client(live, seeing).get("/v1/models")).json()["data"]] == ["stub"]
    assert (await post(live, CHAT, BODY, seeing)).status == 200


async def test_denied_models_may_be_told(tmp_path: Path) -> None:
    async with running(StubEngine(), tmp_path, with_store=True, access={"model_denied": "403"}) as live:
        blind = (await make_key(live, models=["other"]))["key"]
        assert error(await post(live, CHAT, BODY, blind)) == (403, "model_not_allowed")


@pytest.mark.parametrize("policy", ["cut", "finish"])
async def test_streams_of_a_revoked_key(tmp_path: Path, policy: str) -> None:
    engine = StubEngine(StubConfig(step_seconds=0.01))
    async with running(engine, tmp_path, with_store=True, store={"on_revoke": policy}) as live:
        made = await make_key(live)
        body = {**BODY, "stream": True, "max_tokens": 60, "ignore_eos": True}
        stream = asyncio.create_task(client(live, made["key"]).stream(CHAT, body))
        await eventually(lambda: any(isinstance(each, Settled) is False for each in live.ledger.entries))
        await asyncio.sleep(0.1)
        assert (await client(live).request("DELETE", f"/v1/admin/keys/{made['id']}")).status == 200
        seen = await stream
        (row,) = [entry for entry in live.ledger.entries if isinstance(entry, Settled)]
        if policy == "cut":
            assert seen.ending == "error_event"
            assert (row.outcome, row.code) == ("error", "invalid_api_key")
            assert 0 < row.completion_tokens < 60
        else:
            assert seen.ending == "done"
            assert (row.outcome, row.completion_tokens) == ("completed", 60)


async def test_too_many_wrong_keys_of_one_address_are_not_looked_at(tmp_path: Path) -> None:
    async with running(StubEngine(), tmp_path, access={"max_failures_per_minute": 5}) as live:
        for number in range(5):
            assert error(await post(live, CHAT, BODY, f"sk-wrong-{number}")) == (401, "invalid_api_key")
        refused = await post(live, CHAT, BODY, "sk-wrong-again")
        assert error(refused) == (429, "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) >= 1
        # The one with the right key shares the address: it is told to wait too, and nobody else is.
        assert error(await post(live, CHAT, BODY)) == (429, "rate_limit_exceeded")


@pytest.mark.parametrize("header", ["x-forwarded-for", "x-real-ip", "forwarded", "x-tenant", "x-scope", "x-model"])
async def test_headers_of_untrusted_callers_change_nothing(tmp_path: Path, header: str) -> None:
    async with running(StubEngine(), tmp_path, limits={"address": {"burst": 2, "per_second": 0}}) as live:
        for number in range(2):
            answer = await post(live, CHAT, BODY, headers={header: f"203.0.113.{number}"})
            assert answer.status == 200
        assert error(await post(live, CHAT, BODY, headers={header: "203.0.113.9"})) == (429, "rate_limit_exceeded")
        assert {entry.client_ip for entry in live.access_log.entries} == {"127.0.0.1"}


async def test_a_trusted_proxy_tells_who_is_calling(tmp_path: Path) -> None:
    flags = {"limits": {"address": {"burst": 1, "per_second": 0}}, "access": {"trusted_proxies": ["127.0.0.0/8"]}}
    async with running(StubEngine(), tmp_path, **flags) as live:
        for number in range(3):
            answer = await post(live, CHAT, BODY, headers={"x-forwarded-for": f"1.1.1.1, 203.0.113.{number}"})
            assert answer.status == 200
        refused = await post(live, CHAT, BODY, headers={"x-forwarded-for": "9.9.9.9, 203.0.113.1"})
        assert error(refused) == (429, "rate_limit_exceeded")
        assert live.access_log.entries[-1].client_ip == "203.0.113.1"


async def test_limits_of_a_key_on_every_answer(live: Live) -> None:
    made = await make_key(live, quota={"requests_per_minute": 4, "tokens_per_minute": 10_000})
    mine = client(live, made["key"])
    plain = await mine.post(CHAT, BODY)
    assert plain is not None
    assert plain.headers["x-ratelimit-remaining-requests"] == "3"
    stream = await mine.stream(CHAT, {**BODY, "stream": True})
    assert stream.headers["x-ratelimit-remaining-requests"] == "2"
    wrong = await mine.post(CHAT, {**BODY, "temperature": 9})
    assert wrong is not None
    assert wrong.status == 400
    assert wrong.headers["x-ratelimit-remaining-requests"] == "2"
    assert (await mine.get("/v1/models")).headers["x-ratelimit-remaining-requests"] == "1"
    last = await mine.post(CHAT, BODY)
    refused = await mine.post(CHAT, BODY)
    assert last is not None
    assert refused is not None
    assert (last.status, error(refused)) == (200, (429, "rate_limit_exceeded"))
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    # What is certain to be refused is refused before its body is looked at.
    unread = await mine.post(CHAT, {**BODY, "temperature": 9})
    assert unread is not None
    assert error(unread) == (429, "rate_limit_exceeded")


async def test_tokens_are_reserved_exactly_and_given_back(live: Live) -> None:
    made = await make_key(live, quota={"tokens_per_minute": 500})
    mine = client(live, made["key"])
    answer = await mine.post(CHAT, {**BODY, "max_tokens": 300, "ignore_eos": False})
    assert answer is not None
    used = answer.json()["usage"]
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) == 500 - used["prompt_tokens"] - 300
    again = await mine.post(CHAT, {**BODY, "max_tokens": 8})
    assert again is not None
    expected = 500 - used["total_tokens"] - used["prompt_tokens"] - 8
    assert int(again.headers["x-ratelimit-remaining-tokens"]) == expected
    larger = await mine.post(CHAT, {**BODY, "max_tokens": 501})
    assert larger is not None
    assert error(larger) == (400, "request_exceeds_limit")
    assert larger.json()["error"]["param"] == "messages"
    assert larger.headers["x-should-retry"] == "false"


async def test_concurrency_is_given_back_on_every_ending(tmp_path: Path) -> None:
    engine = StubEngine(StubConfig(step_seconds=0.005), Faults(fail_requests=frozenset({2})))
    async with running(engine, tmp_path, limits={"key": {"concurrent": 1}}) as live:
        held = asyncio.create_task(post(live, CHAT, {**BODY, "max_tokens": 60, "ignore_eos": True}))
        await eventually(lambda: live.metric("sluice_requests_in_flight") == 1)
        refused = await post(live, CHAT, BODY)
        assert error(refused) == (429, "concurrency_limit_exceeded")
        assert (await held).status == 200
        assert (await post(live, CHAT, BODY)).status == 500
        assert (await post(live, CHAT, BODY)).status == 200


@pytest.mark.parametrize(
    ("cache", "shared"),
    [({}, False), ({"groups": {"team": ["one", "two"]}}, True), ({"isolation": False}, True)],
    ids=["default", "groups", "isolation"],
)
async def test_tenants_share_cached_prompts_only_if_it_is_set(
    tmp_path: Path, cache: dict[str, Any], shared: bool
) -> None:
    engine = StubEngine(StubConfig(prefix_block=4))
    async with running(engine, tmp_path, with_store=True, cache=cache) as live:
        one, two = [(await make_key(live, tenant=tenant))["key"] for tenant in ("one", "two")]

        async def cached(key: str) -> int:
            answer = await post(live, CHAT, BODY, key)
            found: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
            return found

        assert await cached(one) == 0
        assert await cached(one) > 0
        assert (await cached(two) > 0) is shared


async def test_the_openai_client_sees_its_limits_and_backs_off(live: Live) -> None:
    made = await make_key(live, quota={"requests_per_minute": 1})
    async with openai.AsyncOpenAI(api_key=made["key"], base_url=f"{live.url}/v1", max_retries=0) as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(model="stub", messages=BODY["messages"])
        assert raw.headers["x-ratelimit-limit-requests"] == "1"
        with pytest.raises(openai.RateLimitError) as refused:
            await sdk.chat.completions.create(model="stub", messages=BODY["messages"])
        assert refused.value.code == "rate_limit_exceeded"
        assert 1 <= int(refused.value.response.headers["retry-after"]) <= 70
    limited = await make_key(live, scopes=["read_only"])
    async with openai.AsyncOpenAI(api_key=limited["key"], base_url=f"{live.url}/v1", max_retries=0) as sdk:
        assert [model.id async for model in sdk.models.list()] == ["stub"]
        with pytest.raises(openai.PermissionDeniedError):
            await sdk.chat.completions.create(model="stub", messages=BODY["messages"])
    async with openai.AsyncOpenAI(api_key="sk-wrong", base_url=f"{live.url}/v1", max_retries=0) as sdk:
        with pytest.raises(openai.AuthenticationError):
            await sdk.models.list()


async def test_two_gateways_on_one_redis_are_one_limit(tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    flags: dict[str, Any] = {
        "redis_url": server.url,
        "limits": {"key": {"requests_per_minute": 30}, "redis_timeout": 2.0},
    }
    try:
        async with (
            running(StubEngine(), tmp_path / "a", **flags) as first,
            running(StubEngine(), tmp_path / "b", **flags) as second,
        ):
            answers = await asyncio.gather(*(post(each, CHAT, BODY) for each in (first, second) for _ in range(25)))
            statuses = sorted(answer.status for answer in answers)
            assert statuses == [200] * 30 + [429] * 20
    finally:
        server.kill()


async def test_a_key_made_at_one_replica_works_at_the_other(tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    flags: dict[str, Any] = {"redis_url": server.url, "state_dir": tmp_path, "store": {"poll_interval": 30.0}}
    try:
        async with (
            running(StubEngine(), with_store=True, **flags) as first,
            running(StubEngine(), with_store=True, **flags) as second,
        ):
            await asyncio.sleep(0.2)
            made = await make_key(first)

            async def works(wanted: int) -> bool:
                return bool((await post(second, CHAT, BODY, made["key"])).status == wanted)

            await eventually(lambda: works(200))
            await client(first).request("DELETE", f"/v1/admin/keys/{made['id']}")
            await eventually(lambda: works(401))
    finally:
        server.kill()


async def test_readiness_names_what_is_away_and_serves(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    async with running(StubEngine(), tmp_path, redis_url=server.url, limits={"key": {"concurrent": 5}}) as live:
        ready = await client(live).get("/readyz")
        assert (ready.status, ready.headers["x-degraded"]) == (200, "limits")
        assert (await post(live, CHAT, BODY)).status == 200
