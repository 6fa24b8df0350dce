"""Settings that change while the server runs: what is taken, what is refused, and one generation per request."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.gateways import Live, eventually, running
from tests.support.stub_engine import Faults, StubEngine

A = {"limits": {"max_tokens": 3, "key": {"requests_per_minute": 100_003}}}
B = {"limits": {"max_tokens": 5, "key": {"requests_per_minute": 100_005}}}
#: Many lines' worth of values in few.
BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{before}'] * 10)}]\n" for before, after in itertools.pairwise("abcdefghi")
)


def write(path: Path, values: Any) -> None:
    """As an editor or Kubernetes does it: whole, by one rename."""
    fresh = path.with_suffix(".new")
    fresh.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    fresh.rename(path)


@asynccontextmanager
async def reloadable(
    tmp_path: Path, values: Any, *, watch: float = 0.0, faults: Faults | None = None, **flags: Any
) -> AsyncIterator[tuple[Live, httpx.AsyncClient, Path]]:
    config = tmp_path / "sluice.yaml"
    write(config, values)
    flags["reload"] = {"watch_interval": watch}
    engine = StubEngine(faults=faults)
    async with (
        running(engine, tmp_path / "state", config=config, with_store=True, **flags) as live,
        httpx.AsyncClient(base_url=live.url, headers=live.authorization, timeout=60) as client,
    ):
        yield live, client, config


async def ask(client: httpx.AsyncClient) -> tuple[int, int]:
    """Tokens that were generated, and requests that the headers allow: both say which generation it was."""
    body = {"model": "stub", "messages": [{"role": "user", "content": "hello"}], "ignore_eos": True}
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    tokens = answer.json()["usage"]["completion_tokens"]
    return tokens, int(answer.headers["x-ratelimit-limit-requests"]) - 100_000


def generation(live: Live) -> float:
    return live.metric("sluice_config_generation")


def failures(live: Live) -> float:
    return live.metric("sluice_config_reload_failures_total")


async def test_what_can_change_changes_and_the_rest_is_named(tmp_path: Path) -> None:
    async with reloadable(tmp_path, A) as (live, client, config):
        assert await ask(client) == (3, 3)
        write(config, {**B, "port": 1, "admission": {"max_queue": 7}, "log": {"level": "info"}})
        answer = (await client.post("/v1/admin/reload")).json()
        assert answer == {
            "generation": 2,
            "changed": ["limits.key.requests_per_minute", "limits.max_tokens"],
            "needs_restart": ["admission.max_queue"],  # the port was given by a flag, which wins
            "workers_behind": 0,
        }
        assert await ask(client) == (5, 5)
        assert (generation(live), live.metric("sluice_config_restart_needed")) == (2, 1)
        again = (await client.post("/v1/admin/reload")).json()
        assert again == {
            "generation": 2,
            "changed": [],
            "needs_restart": ["admission.max_queue"],
            "workers_behind": 0,
        }


async def test_what_waits_for_a_restart_does_not_come_with_what_does_not(tmp_path: Path) -> None:
    async with reloadable(tmp_path, A) as (live, client, config):
        write(config, {**B, "allow_no_auth": True, "http": {"max_body_bytes": 1024}})
        answer = (await client.post("/v1/admin/reload")).json()
        assert answer["needs_restart"] == ["allow_no_auth", "http.max_body_bytes"]
        assert await ask(client) == (5, 5)
        long = {"model": "stub", "messages": [{"role": "user", "content": "x" * 2000}]}
        assert (await client.post("/v1/chat/completions", json=long)).status_code == 200
        async with httpx.AsyncClient(base_url=live.url) as stranger:
            assert (await stranger.get("/v1/models")).status_code == 401


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ("limits: {max_tokens: many}", "limits.max_tokens"),
        ("limits: {max_tokens: 5, no_such: 1}", "limits.no_such"),
        ("limits: {max_tokens: 5", "sluice.yaml"),
        ("- 1", "sluice.yaml"),
        (BOMB, "sluice.yaml"),
        ("x: " + "y" * 1_100_000, "sluice.yaml"),
        ("a: !!python/object/apply:os.system [exit]", "sluice.yaml"),
        ("api_key: sk-in-the-file-0123456789", "api_key"),
    ],
)
async def test_what_is_wrong_leaves_the_old_settings(tmp_path: Path, text: str, param: str) -> None:
    async with reloadable(tmp_path, A) as (live, client, config):
        write(config, text)
        answer = await client.post("/v1/admin/reload")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_config", param)
        assert len(answer.content) < 1100
        assert str(tmp_path) not in answer.text
        assert "sk-in-the-file" not in answer.text
        assert (generation(live), failures(live)) == (1, 1)
        assert await ask(client) == (3, 3)
        write(config, B)
        assert (await client.post("/v1/admin/reload")).json()["generation"] == 2
        assert await ask(client) == (5, 5)


async def test_a_file_that_is_gone(tmp_path: Path) -> None:
    async with reloadable(tmp_path, A) as (live, client, config):
        config.unlink()
        assert (await client.post("/v1/admin/reload")).status_code == 400
        assert (generation(live), failures(live)) == (1, 1)
        assert await ask(client) == (3, 3)


async def test_each_request_sees_one_generation_under_load(tmp_path: Path) -> None:
    """F64: rendering is slow, so that most requests are under way when the settings change."""
    async with reloadable(tmp_path, A, faults=Faults(render_seconds=0.01)) as (live, client, config):
        seen: set[tuple[int, int]] = set()
        over = False

        async def caller() -> None:
            while not over:
                seen.add(await ask(client))

        callers = [asyncio.ensure_future(caller()) for _ in range(8)]
        for turn in range(30):
            write(config, (B, A)[turn % 2])
            answer = await client.post("/v1/admin/reload")
            assert answer.json()["generation"] == turn + 2
            await asyncio.sleep(0.02)
        over = True
        await asyncio.gather(*callers)
        assert seen == {(3, 3), (5, 5)}
        assert failures(live) == 0


async def test_the_file_is_watched(tmp_path: Path) -> None:
    async with reloadable(tmp_path, A, watch=0.02) as (live, client, config):
        write(config, B)
        await eventually(lambda: generation(live) == 2, 30)
        assert await ask(client) == (5, 5)
        write(config, "limits: {max_tokens: [")
        await eventually(lambda: failures(live) == 1, 30)
        write(config, A)
        await eventually(lambda: generation(live) == 3, 30)
        assert (await ask(client), failures(live)) == ((3, 3), 1)


async def test_kubernetes_swaps_a_symbolic_link(tmp_path: Path) -> None:
    for name, values in (("one", A), ("two", B)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "sluice.yaml", values)
    (tmp_path / "data").symlink_to("one")
    config = tmp_path / "data" / "sluice.yaml"
    async with (
        running(StubEngine(), tmp_path / "state", config=config, reload={"watch_interval": 0.02}) as live,
        httpx.AsyncClient(base_url=live.url, headers=live.authorization, timeout=60) as client,
    ):
        (tmp_path / "fresh").symlink_to("two")
        os.replace(tmp_path / "fresh", tmp_path / "data")
        await eventually(lambda: generation(live) == 2, 30)
        assert await ask(client) == (5, 5)


async def test_the_key_of_a_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-first-0123456789abcdef")
    flags: dict[str, Any] = {"api_key": None, "api_key_file": file}
    async with reloadable(tmp_path, A, **flags) as (_, client, _):
        first, second = ({"authorization": f"Bearer sk-{name}-0123456789abcdef"} for name in ("first", "second"))
        file.write_text("sk-second-0123456789abcdef")
        answer = await client.post("/v1/admin/reload", headers=first)
        assert answer.json()["changed"] == ["api_key_file"]
        assert (await client.get("/v1/models", headers=first)).status_code == 401
        assert (await client.get("/v1/models", headers=second)).status_code == 200
        file.write_text("")
        refused = await client.post("/v1/admin/reload", headers=second)
        assert refused.json()["error"]["param"] == "api_key_file"
        assert (await client.get("/v1/models", headers=second)).status_code == 200


async def test_the_guards_policies_change(tmp_path: Path) -> None:
    def guard(action: str, **more: Any) -> dict[str, Any]:
        return {"guard": {"evaluators": [{"kind": "rules"}], "policy": {"input": True, "action": action}, **more}}

    body = {"model": "stub", "messages": [{"role": "user", "content": "mail me at jane.doe@example.com please"}]}
    async with reloadable(tmp_path, guard("block")) as (_, client, config):
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 400
        write(config, guard("annotate"))
        assert (await client.post("/v1/admin/reload")).json()["changed"] == ["guard.policy.action"]
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
        assert (await client.get("/v1/admin/guard")).json()["policy"]["action"] == "annotate"
        # What an administrator sets stays while the file says nothing new about it.
        set_by_hand = {"policy": {"input": True, "action": "block"}}
        assert (await client.put("/v1/admin/guard", json=set_by_hand)).status_code == 200
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 400
        write(config, {**guard("annotate"), "limits": {"max_tokens": 9}})
        assert (await client.post("/v1/admin/reload")).json()["changed"] == ["limits.max_tokens"]
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 400
        write(config, guard("annotate", models={"stub": {"risks": {"nobody-judges-this": 0.5}}}))
        assert (await client.post("/v1/admin/reload")).json()["error"]["code"] == "invalid_config"


async def test_only_administrators_and_it_is_audited(tmp_path: Path) -> None:
    async with reloadable(tmp_path, A) as (_, client, config):
        made = await client.post("/v1/admin/keys", json={"name": "app", "scopes": ["inference"]})
        weak = {"authorization": f"Bearer {made.json()['key']}"}
        assert (await client.post("/v1/admin/reload", headers=weak)).status_code == 403
        write(config, B)
        await client.post("/v1/admin/reload")
        write(config, "limits: 1")
        await client.post("/v1/admin/reload")

        async def rows() -> list[dict[str, Any]]:
            answer = await client.get("/v1/admin/audit")
            return [row for row in answer.json()["data"] if row["act"] == "config.reload"]

        await eventually(lambda: _has_two(rows), 30)
        assert [row["allowed"] for row in await rows()] == [False, True]


async def _has_two(rows: Any) -> bool:
    return len(await rows()) == 2
