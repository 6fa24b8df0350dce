from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.protocol.usage import UsageRows
from gateway.settings import PriceSettings
from gateway.store.database import Database
from gateway.store.usage import UsageRepository
from gateway.usage.prices import PriceList
from gateway.usage.records import Settled
from tests.support.gateways import Live, running
from tests.support.rows import DAY, NOON, settled
from tests.support.stub_engine import StubEngine

ALL = "/v1/admin/usage"
OWN = "/v1/usage"
PRICES = PriceList({"m": PriceSettings(prompt=Decimal(1), completion=Decimal(2))})


@dataclass
class Service:
    live: Live
    database: Database

    def used(self, *rows: Settled) -> None:
        assert UsageRepository(self.database).insert(rows, PRICES) == []

    async def call(self, method: str, path: str, *, key: str | None = None, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key or self.live.key}"}
        async with httpx.AsyncClient(base_url=self.live.url, timeout=60) as client:
            return await client.request(method, path, headers=headers, **options)

    async def get(self, path: str, *, key: str | None = None) -> httpx.Response:
        return await self.call("GET", path, key=key)

    async def answer(self, path: str, *, key: str | None = None) -> dict[str, Any]:
        response = await self.get(path, key=key)
        assert response.status_code == 200, response.text
        UsageRows.model_validate_json(response.content)
        answer: dict[str, Any] = response.json()
        return answer

    async def rows(self, path: str, *, key: str | None = None) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = (await self.answer(path, key=key))["data"]
        return rows

    async def new_key(self, *scopes: str, tenant: str = "team") -> tuple[str, str]:
        """A key that works, and its public id."""
        response = await self.call(
            "POST", "/v1/admin/keys", json={"name": "x", "scopes": list(scopes), "tenant": tenant}
        )
        assert response.status_code == 200, response.text
        made = response.json()
        return made["key"], made["id"]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running(StubEngine(), tmp_path, with_store=True) as live:
        assert live.store is not None
        live.store.prepare()
        yield Service(live, live.store.database)


def numbers(row: dict[str, Any]) -> tuple[int, ...]:
    return (row["requests"], row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"],
            row["reasoning_tokens"])  # fmt: skip


async def test_sums_by_group(service: Service) -> None:
    service.used(
        settled("a"),
        settled("b", principal="key-2", completion_tokens=50),
        settled("c", received=NOON + DAY),
        settled("d", model="n", adapter="tuned"),
    )
    assert await service.answer(ALL) == {
        "object": "list",
        "data": [
            {
                "object": "usage",
                "requests": 4,
                "prompt_tokens": 28,
                "cached_tokens": 8,
                "completion_tokens": 65,
                "reasoning_tokens": 4,
                "cost": "0.000141",
            }
        ],
        "has_more": False,
    }
    rows = await service.rows(f"{ALL}?group_by=key,model,day")
    assert [(row["key"], row["model"], row["day"], numbers(row), row["cost"]) for row in rows] == [
        ("key-1", "m", "2026-03-01", (1, 7, 2, 5, 1), "0.000017"),
        ("key-1", "m", "2026-03-02", (1, 7, 2, 5, 1), "0.000017"),
        ("key-1", "n", "2026-03-01", (1, 7, 2, 5, 1), None),
        ("key-2", "m", "2026-03-01", (1, 7, 2, 50, 1), "0.000107"),
    ]
    rows = await service.rows(f"{ALL}?group_by=adapter,outcome,tenant")
    assert [(row["adapter"], row["outcome"], row["tenant"], row["requests"]) for row in rows] == [
        (None, "completed", "team", 3),
        ("tuned", "completed", "team", 1),
    ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("from=2026-03-02", 2),
        ("to=2026-03-01", 1),
        ("from=2026-03-02&to=2026-03-02", 1),
        ("key=key-2", 1),
        ("tenant=other", 1),
        ("model=n", 1),
        ("model=n&key=key-1", 0),
        ("key=%25", 0),
        ("tenant=", 0),
    ],
)
async def test_filters(service: Service, query: str, expected: int) -> None:
    service.used(
        settled("a"),
        settled("b", principal="key-2", model="n", received=NOON + DAY),
        settled("c", tenant="other", received=NOON + 2 * DAY),
    )
    [row] = await service.rows(f"{ALL}?{query}")
    assert row["requests"] == expected


async def test_pages(service: Service) -> None:
    service.used(*(settled(f"r{number}", principal=f"key-{number:02}") for number in range(25)))
    found: list[str] = []
    more = True
    while more:
        page = await service.answer(f"{ALL}?group_by=key&limit=10&offset={len(found)}")
        found += [row["key"] for row in page["data"]]
        more = page["has_more"]
    assert found == [f"key-{number:02}" for number in range(25)]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("form=2026-03-01", "form"),
        ("first_day=2026-03-01", "first_day"),
        ("key=a&key=a", "key"),
        ("from=2026-3-1", "from"),
        ("from=2026-02-30", "from"),
        ("from=0", "from"),
        ("from=2026-03-01T00:00:00", "from"),
        ("to=", "to"),
        ("from=2026-03-02&to=2026-03-01", "to"),
        ("group_by=colour", "group_by[0]"),
        ("group_by=key,colour", "group_by[1]"),
        ("group_by=key,key", "group_by"),
        ("group_by=", "group_by[0]"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=many", "limit"),
        ("offset=-1", "offset"),
        ("key=%00", "key"),
        ("tenant=" + "t" * 129, "tenant"),
        ("key=%ff", None),
        ("key", None),
        ("&".join(f"a{number}=1" for number in range(100)), None),
    ],
)
async def test_a_wrong_query_is_refused_by_name(service: Service, query: str, param: str | None) -> None:
    response = await service.get(f"{ALL}?{query}")
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_a_caller_sees_its_own_usage_and_nobody_elses(service: Service) -> None:
    key, key_id = await service.new_key("read_only")
    service.used(settled("a", principal=key_id), settled("b", principal=key_id, model="n"), settled("c"))
    assert [row["requests"] for row in await service.rows(OWN, key=key)] == [2]
    rows = await service.rows(f"{OWN}?group_by=model", key=key)
    assert [(row["model"], row["requests"]) for row in rows] == [("m", 1), ("n", 1)]
    assert [row["requests"] for row in await service.rows(f"{OWN}?model=n", key=key)] == [1]
    for query in ("key=key-1", "tenant=team", "group_by=key", "group_by=tenant"):
        assert (await service.get(f"{OWN}?{query}", key=key)).status_code == 400


async def test_scopes(service: Service) -> None:
    reader, _ = await service.new_key("read_only")
    runner, _ = await service.new_key("inference")
    admin, _ = await service.new_key("admin")
    for key, path, status in (
        (reader, OWN, 200),
        (admin, OWN, 200),
        (admin, ALL, 200),
        (reader, ALL, 403),
        (runner, ALL, 403),
        (runner, OWN, 403),
        ("sk-nobody", OWN, 401),
        ("sk-nobody", ALL, 401),
    ):
        assert (await service.get(path, key=key)).status_code == status, (path, status)
    assert (await service.call("POST", ALL)).status_code == 405


async def test_a_store_that_is_away_is_a_503_that_says_when_to_come_back(service: Service) -> None:
    assert service.database.path is not None
    elsewhere = service.database.path.with_name("elsewhere")
    service.database.path.rename(elsewhere)
    response = await service.get(ALL)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "store_unavailable"
    assert int(response.headers["retry-after"]) >= 1
    elsewhere.rename(service.database.path)
    assert (await service.get(ALL)).status_code == 200


async def test_reading_waits_for_no_writer(service: Service) -> None:
    assert service.database.path is not None
    service.used(settled("a"))
    writer = sqlite3.connect(service.database.path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    try:
        assert (await service.rows(ALL))[0]["requests"] == 1
    finally:
        writer.execute("ROLLBACK")
        writer.close()


async def test_the_routes_are_described(service: Service) -> None:
    document = (await service.get("/openapi.yaml")).text
    assert ALL in document
    assert OWN in document
