"""Policies that an administrator set: kept in the store, known to every replica, over when the settings change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.guardian.decreed import fingerprint
from gateway.guardian.guardian import Guardian
from gateway.settings.guard import GuardPolicies
from tests.gateway.guardian.conftest import BAD
from tests.support.client import Client
from tests.support.gateways import KEY, Live, eventually, running
from tests.support.stub_engine import StubEngine

CHAT = "/v1/chat/completions"
RULES = {"kind": "rules", "patterns": {"planted": BAD}, "secrets": False, "pii": False}
LENIENT = {"evaluators": [RULES], "policy": {"input": False}}
STRICT = {"policy": {"input": True}}
#: Replicas find changes by themselves, and soon.
POLLING = {"poll_interval": 0.05}


def replica(path: Path, guard: dict[str, Any] = LENIENT, **more: Any) -> Any:
    """A gateway over the store in ``path``."""
    return running(StubEngine(), path, with_store=True, guard=guard, store=POLLING, **more)


def client_of(live: Live) -> Client:
    return Client("127.0.0.1", live.port, KEY)


async def status(live: Live) -> int:
    body = {"model": "stub", "messages": [{"role": "user", "content": f"a {BAD}"}], "max_tokens": 4}
    answer = await client_of(live).post(CHAT, body)
    assert answer is not None
    return answer.status


async def put(live: Live, wanted: object) -> dict[str, Any]:
    answer = await client_of(live).request("PUT", "/v1/admin/guard", wanted)
    assert answer.status == 200, answer.body
    return dict(answer.json())


async def test_replicas_see_it_and_a_restart_keeps_it(tmp_path: Path) -> None:
    async with replica(tmp_path) as one, replica(tmp_path) as other:
        assert (await status(one), await status(other)) == (200, 200)
        assert (await put(one, STRICT))["source"] == "administrator"
        assert await status(one) == 400
        await eventually(lambda: _declared(other).policy.input)
        assert await status(other) == 400
        await client_of(other).request("DELETE", "/v1/admin/guard")
        assert await status(other) == 200
        await eventually(lambda: not _declared(one).policy.input)
        await put(one, STRICT)
    async with replica(tmp_path) as again:
        assert await status(again) == 400
        assert (await client_of(again).get("/v1/admin/guard")).json()["source"] == "administrator"
    async with replica(tmp_path, {**LENIENT, "policy": {"input": False, "timeout": 3}}) as changed:
        assert await status(changed) == 200, "a configuration that says something new wins"
        assert (await client_of(changed).get("/v1/admin/guard")).json()["source"] == "configuration"


def _declared(live: Live) -> GuardPolicies:
    guardian = live.gateway._pipeline._guard  # type: ignore[union-attr]
    assert isinstance(guardian, Guardian)
    return guardian.declared


async def test_the_audit_has_what_was_and_what_is(tmp_path: Path) -> None:
    async with replica(tmp_path) as live:
        await put(live, STRICT)
        await client_of(live).request("DELETE", "/v1/admin/guard")

        async def rows() -> list[dict[str, Any]]:
            found = (await client_of(live).get("/v1/admin/audit?act=guard.policy")).json()["data"]
            return [row["detail"] for row in found]

        async def told() -> bool:
            return len(await rows()) == 2

        await eventually(told)
        last, first = await rows()
        assert (first["changed"], first["before"]["policy"], first["policy"]) == (True, {"input": False}, STRICT)
        assert (last["changed"], last["before"], last["policy"]["policy"]) == (True, STRICT, {"input": False})


async def test_a_replica_that_cannot_apply_it_keeps_what_it_has_and_says_so(tmp_path: Path) -> None:
    async with replica(tmp_path) as live:
        await put(live, {"policy": {"input": True, "risks": ["planted"]}})
    without = {**RULES, "patterns": {"other": BAD}}
    async with replica(tmp_path, {**LENIENT, "evaluators": [without]}) as live:
        answer = await client_of(live).get("/readyz")
        assert answer.status == 200
        assert "guard policies" in answer.json()["degraded"]
        assert (await client_of(live).get("/v1/admin/guard")).json()["source"] == "configuration"
        await put(live, {"policy": {"input": True, "risks": ["other"]}})
        assert await status(live) == 400
        assert "degraded" not in (await client_of(live).get("/readyz")).json()


async def test_without_a_store_it_lasts_as_long_as_the_process(tmp_path: Path) -> None:
    async with running(StubEngine(), tmp_path, guard=LENIENT) as live:
        await put(live, STRICT)
        assert await status(live) == 400
        await client_of(live).request("DELETE", "/v1/admin/guard")
        assert await status(live) == 200


async def test_with_several_workers_it_reaches_all(tmp_path: Path) -> None:
    async with replica(tmp_path, workers=2) as one, replica(tmp_path, workers=2) as other:
        await put(one, STRICT)
        await eventually(lambda: _declared(other).policy.input)
        assert await status(other) == 400


async def test_a_store_that_is_away_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.store.database import StoreUnavailable
    from gateway.store.guard import PolicyRepository

    def away(self: PolicyRepository, document: str | None) -> None:
        raise StoreUnavailable("away")

    async with replica(tmp_path) as live:
        monkeypatch.setattr(PolicyRepository, "put", away)
        answer = await client_of(live).request("PUT", "/v1/admin/guard", STRICT)
        assert (answer.status, answer.json()["error"]["code"]) == (503, "store_unavailable")
        assert await status(live) == 200


def test_what_differs_for_some_counts_as_another_configuration() -> None:
    said = GuardPolicies.model_validate({"models": {"a": {"action": "block"}}})
    unsaid = GuardPolicies.model_validate({"models": {"a": {}}})
    assert fingerprint(said) != fingerprint(unsaid)
    assert fingerprint(unsaid) == fingerprint(GuardPolicies.model_validate({"models": {"a": {}}, "policy": {}}))
