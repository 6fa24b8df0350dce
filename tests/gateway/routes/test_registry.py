"""Public names over a whole gateway: who may change them, what they answer, where their arm is seen. Stub engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from gateway.protocol.registry import NameObject, NameObjects
from gateway.store.tables import audit
from gateway.usage.records import Admitted, Settled
from tests.support.gateways import Live, eventually, running
from tests.support.stub_engine import StubConfig, StubEngine

ADMIN = "/v1/admin/registry"


def flags(tmp_path: Path, **more: Any) -> dict[str, Any]:
    (tmp_path / "root").mkdir(exist_ok=True)
    adapters = {"enabled": True, "roots": [str(tmp_path / "root")], "poll_interval": 0.05}
    return {"with_store": True, "adapters": adapters, "store": {"poll_interval": 0.05}, **more}


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    engine = StubEngine(StubConfig(beside=(("vectors", "embed"),)))
    async with running(engine, tmp_path, **flags(tmp_path)) as gateway:
        yield gateway


def http(live: Live, key: str | None = None) -> httpx.AsyncClient:
    headers = live.authorization if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=live.url, headers=headers, timeout=30.0)


async def key_of(live: Live, **fields: Any) -> str:
    async with http(live) as owner:
        made = await owner.post("/v1/admin/keys", json={"name": "k", **fields})
    assert made.status_code == 200, made.text
    return str(made.json()["key"])


async def adapter(client: httpx.AsyncClient, tmp_path: Path, name: str, content: str = "") -> str:
    path = tmp_path / "root" / f"{name}{content}"
    path.mkdir(parents=True, exist_ok=True)
    made = await client.post("/v1/adapters", json={"name": name, "path": str(path), "shared": True})
    assert made.status_code == 200, made.text
    return str(made.json()["sha256"])


async def add(client: httpx.AsyncClient, name: str, target: str, **more: Any) -> dict[str, Any]:
    made = await client.post(ADMIN, json={"name": name, "target": target, **more})
    assert made.status_code == 200, made.text
    NameObject.model_validate(made.json())
    return dict(made.json())


async def act(client: httpx.AsyncClient, name: str, verb: str, **body: Any) -> dict[str, Any]:
    done = await client.post(f"{ADMIN}/{name}/{verb}", json=body or None)
    assert done.status_code == 200, done.text
    return dict(done.json())


def code(answer: httpx.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


async def complete(client: httpx.AsyncClient, model: str, **more: Any) -> httpx.Response:
    return await client.post("/v1/completions", json={"model": model, "prompt": "hello", "max_tokens": 4, **more})


async def test_the_life_of_a_name(live: Live, tmp_path: Path) -> None:
    async with http(live) as client:
        sha256 = await adapter(client, tmp_path, "poet")
        unknown = await complete(client, "assistant")
        assert unknown.status_code == 404
        draft = await add(client, "assistant", "stub", metadata={"commit": "3f2a"})
        assert (draft["active"], draft["versions"][0]["stage"]) == (None, "draft")
        assert (await complete(client, "assistant")).content == unknown.content
        await act(client, "assistant", "activate", version=1)
        plain = await complete(client, "assistant")
        assert (plain.json()["model"], plain.headers["x-sluice-arm"]) == ("assistant", "assistant@1")
        assert plain.json()["choices"] == (await complete(client, "stub")).json()["choices"]
        second = await add(client, "assistant", "poet", activate=True)
        assert [each["stage"] for each in second["versions"]] == ["retired", "active"]
        assert (second["versions"][1]["sha256"], second["versions"][1]["target"]) == (sha256, "stub:poet")
        verse = await complete(client, "assistant")
        assert verse.headers["x-sluice-arm"] == "assistant@2"
        assert verse.json()["choices"] == (await complete(client, "poet")).json()["choices"]
        assert verse.json()["choices"] != plain.json()["choices"]
        back = await act(client, "assistant", "rollback")
        assert back["active"] == 1
        assert (await complete(client, "assistant")).headers["x-sluice-arm"] == "assistant@1"
        assert (await client.get(f"{ADMIN}/assistant")).json() == back
        assert NameObjects.model_validate((await client.get(ADMIN)).json()).data[0].active == 1
        assert code(await client.delete(f"{ADMIN}/assistant@1")) == (409, "in_use", "version")
        assert (await client.delete(f"{ADMIN}/assistant@2")).status_code == 200
        assert (await client.delete(f"{ADMIN}/assistant")).json()["deleted"]
        assert (await complete(client, "assistant")).content == unknown.content


async def test_the_arm_is_in_header_log_metric_and_ledger(live: Live, tmp_path: Path) -> None:
    async with http(live) as client:
        await adapter(client, tmp_path, "poet")
        await add(client, "assistant", "stub:poet", activate=True)
        answer = await complete(client, "assistant")
        assert answer.headers["x-sluice-arm"] == "assistant@1"
        body = {"model": "assistant", "stream": True, "prompt": "hello", "max_tokens": 4}
        async with client.stream("POST", "/v1/completions", json=body) as stream:
            assert stream.headers["x-sluice-arm"] == "assistant@1"
            assert '"model":"assistant"' in (await stream.aread()).decode()
        refused = await client.post("/v1/embeddings", json={"model": "assistant", "input": "x"})
        assert (refused.status_code, refused.headers["x-sluice-arm"]) == (400, "assistant@1")
    lines = [entry for entry in live.access_log.entries if entry.arm and entry.status == 200]
    assert {(line.arm, line.model, line.adapter) for line in lines} == {("assistant@1", "stub", "poet")}
    rows = [row for row in live.ledger.entries if isinstance(row, Admitted | Settled)]
    assert len(rows) == 4
    assert {(row.arm, row.model, row.adapter) for row in rows} == {("assistant@1", "stub", "poet")}
    for outcome, count in (("succeeded", 2), ("refused", 1)):
        found = live.metric("sluice_registry_requests_total", name="assistant", arm="assistant@1", outcome=outcome)
        assert found == count


async def test_names_are_listed_for_those_who_may_use_them(live: Live) -> None:
    held, other = await key_of(live, models=["assistant"]), await key_of(live, models=["stub"])
    async with http(live) as owner, http(live, held) as in_it, http(live, other) as outside:
        await add(owner, "assistant", "stub", activate=True)
        await add(owner, "unborn", "stub")
        ids = {each["id"] for each in (await owner.get("/v1/models")).json()["data"]}
        assert ids == {"stub", "vectors", "assistant"}
        assert (await owner.get("/v1/models/assistant")).json()["kind"] == "generate"
        assert [each["id"] for each in (await in_it.get("/v1/models")).json()["data"]] == ["assistant"]
        # The name is what a key is held to, not what it stands for.
        assert (await complete(in_it, "assistant")).status_code == 200
        assert (await complete(in_it, "stub")).status_code == 404
        hidden, nothing = await complete(outside, "assistant"), await complete(outside, "nobody")
        assert (hidden.status_code, hidden.content) == (404, nothing.content)
        assert "x-sluice-arm" not in hidden.headers


async def test_what_does_not_fit_is_refused_by_name(live: Live, tmp_path: Path) -> None:
    async with http(live) as client:
        sha256 = await adapter(client, tmp_path, "poet")
        for name in ("stub", "vectors", "poet"):
            taken = await client.post(ADMIN, json={"name": name, "target": "stub"})
            assert code(taken) == (409, "already_exists", "name")
        for target in ("nobody", "stub:nobody", "vectors:poet"):
            missing = await client.post(ADMIN, json={"name": "a", "target": target})
            assert code(missing) == (404, "target_not_found", "target")
        for fields, param in (
            ({"name": "a:b", "target": "stub"}, "name"),
            ({"name": "a@1", "target": "stub"}, "name"),
            ({"target": "stub"}, "name"),
            ({"name": "a", "target": "stub", "sha256": "0" * 64}, "sha256"),
            ({"name": "a", "target": "stub", "metadata": {"k": 1}}, "metadata.k"),
            ({"name": "a", "target": "stub", "colour": "red"}, "colour"),
        ):
            refused = await client.post(ADMIN, json=fields)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text
        other = await client.post(ADMIN, json={"name": "a", "target": "poet", "sha256": "0" * 64})
        assert code(other) == (409, "sha256_mismatch", "sha256")
        await add(client, "a", "poet", sha256=sha256, activate=True)
        # A name is no target, and its name is nobody else's.
        assert code(await client.post(ADMIN, json={"name": "b", "target": "a"}))[1] == "target_not_found"
        path = str(tmp_path / "root" / "poet")
        assert code(await client.post("/v1/adapters", json={"name": "a", "path": path}))[1] == "already_exists"
        assert code(await client.post(f"{ADMIN}/a/activate", json={"version": 9})) == (
            404,
            "version_not_found",
            "version",
        )
        assert code(await client.post(f"{ADMIN}/nobody/rollback")) == (404, "name_not_found", "name")
        assert code(await client.post(f"{ADMIN}/a/rollback")) == (409, "nothing_before", "name")
        assert code(await client.post(f"{ADMIN}/a/reset", json={"version": 1})) == (409, "not_failed", "version")
        await add(client, "vec", "vectors", activate=True)
        assert code(await complete(client, "vec")) == (400, "model_kind_mismatch", "model")
        embedded = await client.post("/v1/embeddings", json={"model": "vec", "input": "x"})
        assert (embedded.json()["model"], embedded.headers["x-sluice-arm"]) == ("vec", "vec@1")


async def test_other_content_is_not_served_in_the_place_of_a_version(live: Live, tmp_path: Path) -> None:
    async with http(live) as client:
        await adapter(client, tmp_path, "poet")
        await add(client, "assistant", "poet", activate=True)
        await adapter(client, tmp_path, "poet", content="-changed")
        changed = await complete(client, "assistant")
        assert code(changed) == (503, "version_unavailable", "model")
        assert "retry-after" in changed.headers
        described = (await client.get(f"{ADMIN}/assistant")).json()["versions"][0]
        assert described["available"] is False
        await add(client, "assistant", "poet", activate=True)
        assert (await complete(client, "assistant")).headers["x-sluice-arm"] == "assistant@2"
        await client.delete("/v1/adapters/poet")
        assert code(await complete(client, "assistant"))[1] == "version_unavailable"


async def test_only_administrators_and_all_of_it_is_written_down(live: Live, tmp_path: Path) -> None:
    weak = await key_of(live, scopes=["inference", "read_only", "training"])
    narrow = await key_of(live, scopes=["admin"], models=["vectors"])
    async with http(live) as owner, http(live, weak) as other, http(live, narrow) as held:
        for method, path in (
            ("GET", ADMIN),
            ("POST", ADMIN),
            ("GET", f"{ADMIN}/a"),
            ("DELETE", f"{ADMIN}/a"),
            ("POST", f"{ADMIN}/a/activate"),
        ):
            assert (await other.request(method, path, json={})).status_code == 403
        beyond = await held.post(ADMIN, json={"name": "a", "target": "stub"})
        assert code(beyond) == (403, "insufficient_scope", "target")
        await add(owner, "a", "stub", activate=True)
        await owner.delete(f"{ADMIN}/a")
    assert live.store is not None
    store = live.store

    def acts() -> list[tuple[str, bool]]:
        store.audit.flush(5.0)
        with store.database.read() as connection:
            rows = connection.execute(select(audit.c.act, audit.c.allowed).order_by(audit.c.id)).all()
        return [(row.act, bool(row.allowed)) for row in rows if row.act.startswith("registry.")]

    assert acts() == [("registry.add", False), ("registry.add", True), ("registry.remove", True)]


async def test_replicas_agree(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    shared = {"store": {"poll_interval": 0.05, "url": url}}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with (
        running(StubEngine(), tmp_path / "one", **flags(tmp_path / "one", **shared)) as one,
        running(StubEngine(), tmp_path / "two", **flags(tmp_path / "two", **shared)) as two,
        http(one) as here,
        http(two) as there,
    ):
        await add(here, "assistant", "stub", activate=True)
        # Who changed it knows at once, the other one soon.
        assert (await complete(here, "assistant")).status_code == 200

        async def known() -> bool:
            return (await complete(there, "assistant")).status_code == 200

        await eventually(known, 30.0)
        await there.delete(f"{ADMIN}/assistant")

        async def gone() -> bool:
            return (await complete(here, "assistant")).status_code == 404

        await eventually(gone, 30.0)


async def test_a_store_that_goes_away_leaves_names_as_they_are(live: Live) -> None:
    assert live.store is not None
    path = live.store.database.path
    assert path is not None
    async with http(live) as client:
        await add(client, "assistant", "stub", activate=True)
        aside = path.rename(path.with_suffix(".away"))
        try:
            await eventually(lambda: "registry" in live.gateway.degraded(), 30.0)
            assert (await complete(client, "assistant")).status_code == 200
            away = await client.post(f"{ADMIN}/assistant/activate", json={"version": 1})
            assert code(away)[:2] == (503, "store_unavailable")
        finally:
            aside.rename(path)
        await eventually(lambda: "registry" not in live.gateway.degraded(), 30.0)


async def test_names_that_were_never_read_are_not_denied(tmp_path: Path) -> None:
    broken = {"store": {"poll_interval": 0.05, "url": f"sqlite:///{tmp_path}"}}  # a directory is no database
    async with running(StubEngine(), tmp_path, **flags(tmp_path, **broken)) as live, http(live) as client:
        assert (await complete(client, "stub")).status_code == 200
        assert code(await complete(client, "assistant"))[:2] == (503, "store_unavailable")


async def two_versions(client: httpx.AsyncClient, tmp_path: Path, name: str = "assistant") -> None:
    """Version 1 is active, 2 is an adapter's."""
    await adapter(client, tmp_path, "poet")
    await add(client, name, "stub", activate=True)
    await add(client, name, "poet")


async def arms_of(client: httpx.AsyncClient, users: int, name: str = "assistant") -> list[str]:
    answers = await asyncio.gather(*[complete(client, name, user=f"u{index}") for index in range(users)])
    return [answer.headers["x-sluice-arm"] for answer in answers]


async def test_traffic_is_divided_by_user_and_weights_change_live(live: Live, tmp_path: Path) -> None:
    async with http(live) as client:
        await two_versions(client, tmp_path)
        await add(client, "assistant", "stub:poet")

        async def divide(*weights: float, stick_to: str = "user") -> list[str]:
            arms = [{"version": number, "weight": weight} for number, weight in enumerate(weights, start=1)]
            done = await client.put(f"{ADMIN}/assistant/split", json={"arms": arms, "stick_to": stick_to})
            assert done.status_code == 200, done.text
            NameObject.model_validate(done.json())
            return await arms_of(client, 60)

        even = await divide(1, 1, 1)
        assert set(even) == {"assistant@1", "assistant@2", "assistant@3"}
        assert await arms_of(client, 60) == even
        more = await divide(1, 1, 8)
        # Whoever moved, moved to the arm that gained.
        assert {after for before, after in zip(even, more, strict=True) if before != after} == {"assistant@3"}
        assert len(set(await divide(1, 1, 1, stick_to="key"))) == 1
        assert len(set(await divide(1, 1, 1, stick_to="request"))) == 3
        assert await divide(1, 1, 1) == even
        safe = await complete(client, "assistant", user="u0")
        chat = {"model": "assistant", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4}
        named = await client.post("/v1/chat/completions", json={**chat, "safety_identifier": "u0", "user": "u7"})
        assert named.headers["x-sluice-arm"] == safe.headers["x-sluice-arm"] == even[0]
        assert (await client.delete(f"{ADMIN}/assistant/split")).json()["split"] is None
        assert set(await arms_of(client, 10)) == {"assistant@1"}


async def test_splits_and_canaries_that_make_no_sense(live: Live, tmp_path: Path) -> None:
    async with http(live) as client:
        await two_versions(client, tmp_path)
        one, split, canary = {"version": 1, "weight": 1}, f"{ADMIN}/assistant/split", f"{ADMIN}/assistant/canary"
        for path, body, status, param in (
            (split, {"arms": []}, 400, "arms"),
            (split, {"arms": [one, one]}, 400, "arms"),
            (split, {"arms": [{"version": 1, "weight": 0}]}, 400, "arms[0].weight"),
            (split, {"arms": [{"version": 9, "weight": 1}]}, 404, "arms[0].version"),
            (split, {"arms": [one], "stick_to": "moon"}, 400, "stick_to"),
            (canary, {"version": 1}, 409, "version"),
            (canary, {"version": 2, "steps": [50, 5]}, 400, "steps"),
            (canary, {"version": 2, "steps": [101]}, 400, "steps[0]"),
            (canary, {"version": 2, "min_success_rate": 2}, 400, "min_success_rate"),
            (canary, {"version": 2, "colour": "red"}, 400, "colour"),
        ):
            answer = await client.put(path, json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
        for path in (split, canary):
            assert (await client.delete(path)).status_code == 409


async def begin(client: httpx.AsyncClient, name: str = "assistant", **rules: Any) -> dict[str, Any]:
    body = {"version": 2, "steps": [30, 100], "min_requests": 5, "min_seconds": 0, "max_latency_ratio": None, **rules}
    begun = await client.put(f"{ADMIN}/{name}/canary", json=body)
    assert begun.status_code == 200, begun.text
    return dict(begun.json())


async def described(client: httpx.AsyncClient, name: str = "assistant") -> dict[str, Any]:
    found = (await client.get(f"{ADMIN}/{name}")).json()
    NameObject.model_validate(found)
    return dict(found)


async def test_weights_are_held_to_what_can_be_told_apart(live: Live) -> None:
    """The smallest of floats would divide traffic by anything but the weights."""
    async with http(live) as client:
        for _ in range(2):
            await add(client, "assistant", "stub")
        for weight, expected in ((5e-324, "decimal_below_min_value"), (1e-7, "decimal_below_min_value")):
            arms = [{"version": number, "weight": weight} for number in (1, 2)]
            refused = await client.put(f"{ADMIN}/assistant/split", json={"arms": arms})
            assert code(refused) == (400, expected, "arms[0].weight")
        arms = [{"version": number, "weight": 1e-6} for number in (1, 2)]
        assert (await client.put(f"{ADMIN}/assistant/split", json={"arms": arms})).status_code == 200
        heard = {(await complete(client, "assistant", user=f"u{n}")).headers["x-sluice-arm"] for n in range(24)}
        assert heard == {"assistant@1", "assistant@2"}


async def test_an_adapter_and_a_public_name_do_not_both_get_a_name(live: Live, tmp_path: Path) -> None:
    (tmp_path / "root" / "a").mkdir()
    async with http(live) as client:
        for number in range(10):
            body = {"name": f"r{number}", "path": str(tmp_path / "root" / "a")}
            one, other = await asyncio.gather(
                client.post(ADMIN, json={"name": f"r{number}", "target": "stub"}),
                client.post("/v1/adapters", json=body),
            )
            assert sorted((one.status_code, other.status_code)) == [200, 409]
            assert code(max(one, other, key=lambda each: each.status_code)) == (409, "already_exists", "name")


async def test_a_good_canary_is_promoted_by_itself(live: Live, tmp_path: Path) -> None:
    async with http(live) as client:
        await two_versions(client, tmp_path)
        begun = await begin(client)
        assert (begun["canary"]["percent"], begun["active"]) == (30, 1)
        early = set(await arms_of(client, 4))
        assert early <= {"assistant@1", "assistant@2"}

        async def promoted() -> bool:
            await arms_of(client, 12)
            return bool((await described(client))["active"] == 2)

        await eventually(promoted, 60.0)
        after = await described(client)
        assert (after["canary"], after["history"]) == (None, [1])
        assert set(await arms_of(client, 10)) == {"assistant@2"}
        assert live.metric("sluice_registry_canary_turns_total", name="assistant", outcome="promoted") == 1
        back = await act(client, "assistant", "rollback")
        assert back["active"] == 1


async def test_a_bad_canary_is_rolled_back_by_itself_and_stays_so(live: Live, tmp_path: Path) -> None:
    async with http(live) as client:
        await two_versions(client, tmp_path)
        await client.delete("/v1/adapters/poet")  # version 2 cannot be served any more
        await begin(client)

        async def rolled_back() -> bool:
            await asyncio.gather(*[complete(client, "assistant", user=f"u{index}") for index in range(12)])
            return (await described(client))["canary"] is None

        await eventually(rolled_back, 60.0)
        version = (await described(client))["versions"][1]
        assert (version["stage"], "failed" in version["reason"]) == ("failed", True)
        assert set(await arms_of(client, 10)) == {"assistant@1"}
        again = await client.put(f"{ADMIN}/assistant/canary", json={"version": 2})
        assert code(again) == (409, "version_failed", "version")
        assert code(await client.post(f"{ADMIN}/assistant/activate", json={"version": 2}))[1] == "version_failed"
        await act(client, "assistant", "reset", version=2)
        assert (await begin(client))["canary"]["version"] == 2
    assert live.store is not None
    live.store.audit.flush(5.0)
    with live.store.database.read() as connection:
        rows = connection.execute(select(audit.c.act, audit.c.actor)).all()
    assert ("registry.canary.rolled_back", "canary") in [(row.act, row.actor) for row in rows]


async def test_what_is_the_callers_own_fault_does_not_count(live: Live, tmp_path: Path) -> None:
    async with http(live) as client:
        await two_versions(client, tmp_path)
        await begin(client, steps=[99], min_requests=3)
        body = {"model": "assistant", "input": "x"}
        wrong = [client.post("/v1/embeddings", json={**body, "user": str(number)}) for number in range(30)]
        assert {answer.status_code for answer in await asyncio.gather(*wrong)} == {400}
        await asyncio.sleep(0.3)
        canary = (await described(client))["canary"]
        assert [(each["succeeded"], each["failed"]) for each in canary["outcomes"]] == [(0, 0), (0, 0)]


async def test_outcomes_of_all_replicas_count_and_one_of_them_acts(tmp_path: Path) -> None:
    shared = {"store": {"poll_interval": 0.05, "url": f"sqlite:///{tmp_path / 'shared.db'}"}}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with (
        running(StubEngine(), tmp_path / "one", **flags(tmp_path / "one", **shared)) as one,
        running(StubEngine(), tmp_path / "two", **flags(tmp_path / "two", **shared)) as two,
        http(one) as here,
        http(two) as there,
    ):
        for _ in range(2):
            await add(here, "assistant", "stub", activate=False)
        await act(here, "assistant", "activate", version=1)
        await begin(here, steps=[50, 100], min_requests=40)

        async def asked_of_both() -> bool:
            users = [f"u{number}" for number in range(8)]
            await asyncio.gather(*[complete(each, "assistant", user=user) for each in (here, there) for user in users])
            return bool((await described(here))["active"] == 2)

        async def known() -> bool:
            return (await complete(there, "assistant")).status_code == 200

        await eventually(known, 30.0)
        await eventually(asked_of_both, 60.0)
        turns = [
            each.metric("sluice_registry_canary_turns_total", name="assistant", outcome=outcome)
            for outcome in ("stepped", "promoted")
            for each in (one, two)
        ]
        assert (turns[0] + turns[1], turns[2] + turns[3]) == (1, 1)
