"""Clients, ledger, database and engine agree to the token, whatever happened in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from gateway.app import create_app
from gateway.lifecycle import Gateway
from gateway.observability.metrics import Metrics
from gateway.settings import load
from gateway.store.database import Database
from gateway.store.opened import Store
from gateway.store.usage import UsageFilter, UsageRepository
from gateway.usage.file import rotated_files
from gateway.usage.ledger import JsonlLedger
from gateway.usage.prices import PriceList
from gateway.usage.records import read_entries
from gateway.usage.shipper import Pace, Shipper
from tests.support.checker import EngineEvidence, Evidence, check, stored_usage, without_index
from tests.support.client import Client
from tests.support.gateways import KEY, SECRET, RecordedAccessLog, eventually
from tests.support.recorder import Recorder
from tests.support.stub_engine import Faults, StubConfig, StubEngine
from tests.support.wire import Leave

HASTE = Pace(poll=0.005, first_retry=0.005, last_retry=0.02, share=1.0)
PREFIX = "the same beginning of many a conversation, long enough to be worth a place in the cache. "
LONG = 60.0


@dataclass
class World:
    """A gateway with its ledger in a file and its usage in a database."""

    gateway: Gateway
    engine: StubEngine
    ledger: JsonlLedger
    shipper: Shipper
    database: Database
    metrics: Metrics
    port: int
    recorder: Recorder = field(default_factory=Recorder)

    def client(self, key: str = KEY) -> Client:
        return Client("127.0.0.1", self.port, key, recorder=self.recorder, timeout=LONG)

    def value(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name) or 0.0

    async def evidence(self) -> Evidence:
        await eventually(lambda: not self.value("sluice_requests_in_flight") and not self.engine.request_states)
        assert await asyncio.to_thread(self.ledger.flush, LONG)
        assert await asyncio.to_thread(self.shipper.flush, LONG)
        accounts = self.engine.accounts
        ledger = self.ledger.path
        return Evidence(
            ledger=[row for file in [*rotated_files(ledger), ledger] for row in read_entries(file)],
            clients=self.recorder.rows,
            engine=EngineEvidence(
                accounts=accounts,
                generation_tokens=sum(account.emitted for account in accounts.values()),
                prompt_tokens=sum(account.prompt_tokens for account in accounts.values()),
                cached_tokens=sum(account.cached for account in accounts.values()),
                leaks=self.engine.leaks(),
            ),
            gauges={"in flight": self.value("sluice_requests_in_flight")},
            owner=without_index,
            stored=stored_usage(self.database),
        )


@asynccontextmanager
async def world(folder: Path, engine: StubEngine, url: str | None = None) -> AsyncIterator[World]:
    flags: dict[str, Any] = {"port": 0, "api_key": KEY, "state_dir": folder}
    if url is not None:
        flags["store"] = {"url": url}
    settings = load(flags=flags)
    store = Store.open(settings, SECRET)
    ledger, metrics = JsonlLedger(folder / "ledger.jsonl", max_bytes=20_000), Metrics()
    shipper = Shipper(
        ledger.path,
        UsageRepository(store.database),
        PriceList(settings.usage.prices),
        prepare=store.prepare,
        observer=metrics,
        pace=HASTE,
    )
    shipper.start()
    gateway = create_app(
        settings, engine, secret=SECRET, ledger=ledger, access_log=RecordedAccessLog(), metrics=metrics, store=store
    )
    port = await gateway.listen()
    await gateway.start_engine()
    try:
        yield World(gateway, engine, ledger, shipper, store.database, metrics, port)
    finally:
        await gateway.stop()
        ledger.close(LONG)
        shipper.close(LONG)
        store.close(LONG)


def chat(luck: random.Random, **changes: Any) -> dict[str, Any]:
    content = PREFIX * luck.randrange(3) + f"number {luck.randrange(5)}"
    body = {"model": "stub", "messages": [{"role": "user", "content": content}], "max_tokens": luck.randrange(1, 20)}
    return body | changes


async def one(client: Client, luck: random.Random) -> None:
    """A request of some kind, with some fate."""
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    match luck.randrange(6):
        case 0:
            await client.post("/v1/chat/completions", chat(luck))
        case 1:
            await client.post("/v1/chat/completions", chat(luck, n=luck.randrange(1, 4)))
        case 2:
            prompts = [PREFIX + str(number) for number in range(luck.randrange(1, 4))]
            await client.post("/v1/completions", {"model": "stub", "prompt": prompts, "max_tokens": 3})
        case 3:
            await client.stream("/v1/chat/completions", chat(luck, **stream))
        case 4:
            leave = luck.choice(list(Leave))
            await client.stream(
                "/v1/chat/completions", chat(luck, **stream), leave_after_events=luck.randrange(4), leave=leave
            )
        case _:
            await client.post("/v1/chat/completions", chat(luck, max_tokens=0))


async def key_of(world: World, **fields: Any) -> tuple[str, str]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{world.port}", timeout=LONG) as client:
        headers = {"authorization": f"Bearer {KEY}"}
        response = await client.post("/v1/admin/keys", headers=headers, json={"name": "x", **fields})
    assert response.status_code == 200, response.text
    made = response.json()
    return made["key"], made["id"]


async def test_everybody_agrees_to_the_token(tmp_path: Path, store_url: str) -> None:
    engine = StubEngine(StubConfig(prefix_block=8, step_seconds=0.001))
    luck = random.Random(11)
    async with world(tmp_path, engine, store_url) as here:
        await asyncio.to_thread(here.shipper.flush, LONG)
        keys = [await key_of(here, tenant=tenant) for tenant in ("team", "other")]
        for _ in range(10):
            await asyncio.gather(*(one(here.client(luck.choice(keys)[0]), luck) for _ in range(20)))
        evidence = await here.evidence()
        assert check(evidence) == []
        # It was not for want of something to compare.
        assert evidence.stored is not None
        assert len(evidence.stored) > 100
        assert sum(row["cached_tokens"] for row in evidence.stored) > 100
        assert {row["principal"] for row in evidence.stored} == {key_id for _, key_id in keys}
        assert {row["tenant"] for row in evidence.stored} == {"team", "other"}
        assert {row["outcome"] for row in evidence.stored} >= {"completed", "cancelled"}
        assert rotated_files(here.ledger.path)
        totals, _ = UsageRepository(here.database).totals([], UsageFilter())
        assert totals[0].completion_tokens == evidence.engine.generation_tokens


async def test_a_database_that_comes_and_goes_is_complete_afterwards(tmp_path: Path) -> None:
    engine = StubEngine(
        StubConfig(prefix_block=8), Faults(fail_requests=frozenset(range(10, 90, 7)), fail_after_tokens=2)
    )
    luck = random.Random(5)
    async with world(tmp_path, engine) as here:
        assert await asyncio.to_thread(here.shipper.flush, LONG)
        assert here.database.path is not None
        for turn in range(6):
            elsewhere = here.database.path.with_name("elsewhere")
            if turn % 2:
                here.database.path.rename(elsewhere)
            await asyncio.gather(*(one(here.client(), luck) for _ in range(15)))
            if turn % 2:
                await eventually(lambda: not here.value("sluice_usage_database_available"))
                elsewhere.rename(here.database.path)
                await eventually(lambda: bool(here.value("sluice_usage_database_available")))
        evidence = await here.evidence()
        assert check(evidence) == []
        assert {row["code"] for row in evidence.stored or ()} >= {None, "generation_failed"}
        assert here.value("sluice_usage_rows_shipped_total") == len(evidence.stored or ())
        assert here.value("sluice_usage_behind_bytes") == 0


async def test_a_lie_of_the_database_is_found_here_too(tmp_path: Path) -> None:
    async with world(tmp_path, StubEngine()) as here:
        for _ in range(3):
            await here.client().post("/v1/chat/completions", chat(random.Random(1)))
        evidence = await here.evidence()
        assert check(evidence) == []
        with here.database.begin() as connection:
            connection.exec_driver_sql("UPDATE usage SET completion_tokens = completion_tokens + 1")
        lies = Evidence(evidence.ledger, evidence.clients, stored=stored_usage(here.database))
        assert {violation.rule for violation in check(lies)} == {"store"}
