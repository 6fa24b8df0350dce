"""JWTs, addresses and failures as a caller meets them: a whole gateway, a real issuer's endpoint, real HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.usage.records import Settled
from tests.support.gateways import KEY, Live, running
from tests.support.issuer import AUDIENCE, ISSUER, KeyServer, claims, jwk, key_server, signed, silence
from tests.support.stub_engine import StubEngine


@asynccontextmanager
async def gateway(tmp_path: Path, server: KeyServer, **flags: Any) -> AsyncIterator[tuple[Live, httpx.AsyncClient]]:
    issuer = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": server.url()}
    async with (
        running(StubEngine(), tmp_path, jwt=[issuer], **flags) as live,
        httpx.AsyncClient(base_url=live.url, trust_env=False) as client,
    ):
        yield live, client


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    async with key_server() as server:
        server.publish(jwk("RS256", "one"))
        yield server


def bearer(token: bytes | str, **headers: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token if isinstance(token, str) else token.decode()}", **headers}


CHAT = {"model": "stub", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}


async def test_static_keys_and_jwts_together(tmp_path: Path, server: KeyServer) -> None:
    async with gateway(tmp_path, server) as (live, client):
        token = signed(claims(scope="inference read_only"))
        for credential in (KEY, token):
            assert (await client.get("/v1/models", headers=bearer(credential))).status_code == 200
        model = (await client.get("/v1/models", headers=bearer(token))).json()["data"][0]["id"]
        answer = await client.post("/v1/chat/completions", json={**CHAT, "model": model}, headers=bearer(token))
        assert answer.status_code == 200
        assert live.access_log.entries[-1].principal.startswith("jwt-")  # type: ignore[union-attr]
        refused = await client.get("/v1/models", headers=bearer("neither"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("changes", "status", "kind", "code"),
    [
        ({"exp": int(time.time()) - 60}, 401, "invalid_request_error", "token_expired"),
        ({"aud": "other"}, 401, "invalid_request_error", "invalid_token"),
        ({"scope": ["inference admin"]}, 403, "permission_error", "insufficient_scope"),
        ({"scope": 7}, 403, "permission_error", "insufficient_scope"),
    ],
)
async def test_refusals_on_the_wire(
    tmp_path: Path, server: KeyServer, changes: dict[str, Any], status: int, kind: str, code: str
) -> None:
    async with gateway(tmp_path, server) as (_, client):
        answer = await client.post("/v1/chat/completions", json=CHAT, headers=bearer(signed(claims(**changes))))
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (status, kind, code)
        assert answer.headers["www-authenticate"].startswith('Bearer realm="sluice", error="')


async def test_an_issuer_that_is_away_is_503_for_its_tokens_only(tmp_path: Path, server: KeyServer) -> None:
    server.answers.clear()
    async with gateway(tmp_path, server) as (_, client):
        away = await client.get("/v1/models", headers=bearer(signed(claims(scope="read_only"))))
        assert (away.status_code, away.json()["error"]["code"]) == (503, "auth_unavailable")
        assert int(away.headers["retry-after"]) >= 1
        assert (await client.get("/v1/models", headers=bearer(KEY))).status_code == 200
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.headers["x-degraded"]) == (200, "jwks")


async def test_u17_unknown_kids_in_a_flood(tmp_path: Path, server: KeyServer) -> None:
    async with gateway(tmp_path, server, access={"max_failures_per_minute": 10_000}) as (_, client):
        server.answers["/jwks"] = silence
        for number in range(200):
            token = signed(claims(), header={"alg": "RS256", "kid": f"kid-{number}"})
            assert (await client.get("/v1/models", headers=bearer(token))).status_code == 401
        assert server.asked == ["/jwks"]
        good = bearer(signed(claims(scope="read_only")))
        assert (await client.get("/v1/models", headers=good)).status_code == 200


async def test_u35_headers_that_name_somebody_are_nobody_s(tmp_path: Path, server: KeyServer) -> None:
    async with gateway(tmp_path, server) as (live, client):
        token = bearer(signed(claims()))
        names = {"X-Scope": "admin", "X-Tenant": "other", "X-User": "root", "X-Model": "gpt"}
        model = (await client.get("/v1/models", headers=bearer(KEY))).json()["data"][0]["id"]
        for headers in (token, {**token, **names}):
            answer = await client.post("/v1/chat/completions", json={**CHAT, "model": model}, headers=headers)
            assert answer.status_code == 200
            assert (await client.get("/v1/models", headers=headers)).status_code == 403
        assert len({(row.principal, row.tenant) for row in live.ledger.entries if isinstance(row, Settled)}) == 1


async def test_u36_wrong_tokens_end_in_429_before_they_are_looked_at(tmp_path: Path, server: KeyServer) -> None:
    async with gateway(tmp_path, server, access={"max_failures_per_minute": 5}) as (live, client):
        bad = bearer(signed(claims(aud="other")))
        answers = [(await client.get("/v1/models", headers=bad)) for _ in range(8)]
        assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 3
        error = answers[-1].json()["error"]
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 75
        assert live.metric("sluice_jwt_refusals_total", reason="audience") == 5
        # The right one has to wait as well: there is no telling before it is looked at.
        assert (await client.get("/v1/models", headers=bearer(KEY))).status_code == 429


async def test_u32_a_caller_cannot_choose_its_address(tmp_path: Path, server: KeyServer) -> None:
    """Or it would have a new one for every guess."""
    async with gateway(tmp_path, server, access={"max_failures_per_minute": 3}) as (_, client):
        statuses = []
        for number in range(6):
            address = f"198.51.100.{number}"
            headers = {"X-Forwarded-For": address, "Forwarded": f"for={address}", "X-Real-IP": address}
            statuses.append((await client.get("/v1/models", headers=bearer("wrong", **headers))).status_code)
        assert statuses == [401] * 3 + [429] * 3


async def test_behind_a_trusted_proxy_one_caller_does_not_lock_out_another(tmp_path: Path, server: KeyServer) -> None:
    access = {"max_failures_per_minute": 3, "trusted_proxies": ["127.0.0.0/8"]}
    async with gateway(tmp_path, server, access=access) as (_, client):
        guesser = {"X-Forwarded-For": "10.9.8.7, 198.51.100.1"}
        statuses = [(await client.get("/v1/models", headers=bearer("wrong", **guesser))).status_code for _ in range(5)]
        assert statuses == [401] * 3 + [429] * 2
        other = {"X-Forwarded-For": "198.51.100.1, 198.51.100.2"}
        assert (await client.get("/v1/models", headers=bearer(KEY, **other))).status_code == 200
