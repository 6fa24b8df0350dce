from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from gateway.settings import PriceSettings
from gateway.store.database import Database, StoreUnavailable
from gateway.store.migrate import prepare
from gateway.store.tables import usage
from gateway.store.usage import GROUPS, UsageFilter, UsageRepository, UsageTotal, usage_day
from gateway.usage.prices import PriceList
from gateway.usage.records import Settled
from tests.support.rows import DAY, NOON, settled
from tests.support.stores import SECRET, OpenDatabase

FREE = PriceList({})
ALL = UsageFilter()
PRICES = PriceList({"m": PriceSettings(prompt=Decimal(3), cached=Decimal("0.3"), completion=Decimal(15))})


@pytest.fixture
def repository(database: Database) -> UsageRepository:
    return UsageRepository(database)


def count(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(usage)).scalar_one()


def groups(repository: UsageRepository, *names: str, wanted: UsageFilter = ALL) -> dict[tuple[str | None, ...], int]:
    totals, has_more = repository.totals(names, wanted)
    assert not has_more
    return {tuple(total.group[name] for name in names): total.requests for total in totals}


def test_a_row_becomes_a_row(repository: UsageRepository, database: Database) -> None:
    row = settled("chatcmpl-1", adapter="a", arm="n@2", outcome="error", code="engine_unavailable")
    assert repository.insert([row], PRICES) == []
    with database.read() as connection:
        [kept] = connection.execute(select(usage)).mappings()
    assert dict(kept) == {
        "request_id": "chatcmpl-1",
        "http_request_id": "http-chatcmpl-1",
        "received": NOON,
        "day": "2026-03-01",
        "tenant": "team",
        "principal": "key-1",
        "route": "/v1/chat/completions",
        "model": "m",
        "adapter": "a",
        "arm": "n@2",
        "outcome": "error",
        "code": "engine_unavailable",
        "prompt_tokens": 7,
        "cached_tokens": 2,
        "completion_tokens": 5,
        "reasoning_tokens": 1,
        "ttft": 0.3,
        "duration": 0.4,
        "cost_nanos": 5 * 3000 + 2 * 300 + 5 * 15000,
    }


def test_the_first_writing_stays(repository: UsageRepository, database: Database) -> None:
    assert not repository.holds("a")
    repository.insert([settled("a"), settled("a", completion_tokens=50), settled("b")], FREE)
    repository.insert([settled("b", completion_tokens=60), settled("c"), settled("a")], PRICES)
    assert count(database) == 3
    assert repository.holds("a")
    [total], _ = repository.totals([], ALL)
    assert (total.requests, total.completion_tokens) == (3, 15)


def test_many_rows_are_written_or_none(repository: UsageRepository, database: Database) -> None:
    rows = [settled(f"r{number}") for number in range(1001)]
    repository.insert(rows, FREE)
    assert count(database) == 1001

    class Broken(PriceList):
        def cost_nanos(self, row: Settled) -> int | None:
            if row.request_id == "new-900":
                raise RuntimeError("broken")
            return None

    with pytest.raises(RuntimeError):
        repository.insert([settled(f"new-{number}") for number in range(901)], Broken({}))
    assert count(database) == 1001


def test_rows_that_no_table_holds_are_left_out_and_named(repository: UsageRepository, database: Database) -> None:
    odd = [
        settled("huge", prompt_tokens=2**63),
        settled("negative", completion_tokens=-1),
        settled("never", received=1e300),
        settled("before", received=-1e18),
    ]
    fine = [settled("largest", prompt_tokens=2**63 - 1, cached_tokens=0), settled("last")]
    assert repository.insert([fine[0], *odd, fine[1]], FREE) == ["huge", "negative", "never", "before"]
    assert count(database) == 2


def test_texts_are_made_to_fit(repository: UsageRepository) -> None:
    row = settled("i" * 100, tenant="t\x00" + "t" * 300, http_request_id="\x00" * 300, principal="", route="", model="")
    assert repository.insert([row], FREE) == []
    assert repository.holds("i" * 100)
    assert groups(repository, "tenant", "key", "model") == {("t\ufffd" + "t" * 126, "unknown", "unknown"): 1}


def test_every_grouping_adds_up(repository: UsageRepository) -> None:
    rows = [
        settled(
            f"r{number}",
            principal=f"key-{number % 3}",
            tenant=f"team-{number % 2}",
            model="mn"[number % 2],
            adapter=[None, "a"][number % 4 == 0],
            arm=[None, "n@1"][number % 6 == 0],
            received=NOON + number % 5 * DAY,
            outcome=["completed", "cancelled"][number % 7 == 0],
        )
        for number in range(50)
    ]
    repository.insert(rows, PRICES)
    attributes = {"key": "principal", **{name: name for name in ("tenant", "model", "adapter", "arm", "outcome")}}
    values = [{"day": usage_day(row.received)} | {n: getattr(row, a) for n, a in attributes.items()} for row in rows]
    assert values[0].keys() == GROUPS.keys()
    for size in range(len(GROUPS) + 1):
        for names in combinations(GROUPS, size):
            expected = Counter(tuple(value[name] for name in names) for value in values)
            assert groups(repository, *names) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (UsageFilter(key="key-1"), {"a", "b"}),
        (UsageFilter(tenant="other"), {"c"}),
        (UsageFilter(model="n"), {"b", "d"}),
        (UsageFilter(key="key-1", model="n"), {"b"}),
        (UsageFilter(first_day="2026-03-02"), {"b", "c"}),
        (UsageFilter(last_day="2026-03-01"), {"a", "d"}),
        (UsageFilter(first_day="2026-03-02", last_day="2026-03-02"), {"b"}),
        (UsageFilter(key="nobody"), set()),
    ],
)
def test_filters(repository: UsageRepository, wanted: UsageFilter, expected: set[str]) -> None:
    rows = [
        settled("a"),
        settled("b", model="n", received=NOON + DAY),
        settled("c", principal="key-2", tenant="other", received=NOON + 2 * DAY),
        settled("d", principal="key-2", model="n"),
    ]
    # Each has its own adapter, so that groups show who was found.
    repository.insert([_named(row) for row in rows], FREE)
    assert {name for [name] in groups(repository, "adapter", wanted=wanted)} == expected


def _named(row: Settled) -> Settled:
    return settled(row.request_id, adapter=row.request_id, principal=row.principal, tenant=row.tenant,
                   model=row.model, received=row.received)  # fmt: skip


def test_days_are_utc(repository: UsageRepository) -> None:
    midnight = NOON + DAY / 2
    repository.insert([settled("a", received=midnight - 0.001), settled("b", received=midnight)], FREE)
    assert groups(repository, "day") == {("2026-03-01",): 1, ("2026-03-02",): 1}


def test_nothing_is_a_sum_too(repository: UsageRepository) -> None:
    assert repository.totals([], ALL) == ([UsageTotal({}, 0, 0, 0, 0, 0, None)], False)
    assert repository.totals(["key"], ALL) == ([], False)


def test_pages_meet(repository: UsageRepository) -> None:
    rows = [settled(f"r{number}", adapter=None if number == 0 else f"a{number:02}") for number in range(25)]
    repository.insert(rows, FREE)
    found: list[str | None] = []
    more = True
    while more:
        totals, more = repository.totals(["adapter"], ALL, limit=10, offset=len(found))
        found += [total.group["adapter"] for total in totals]
    assert found == [None, *(f"a{number:02}" for number in range(1, 25))]
    assert repository.totals(["adapter"], ALL, limit=25)[1] is False


def test_costs_add_up_where_there_are_prices_and_beyond_64_bits(repository: UsageRepository) -> None:
    dear = PriceList({"m": PriceSettings(prompt=Decimal(10) ** 9), "n": PriceSettings(prompt=Decimal("0.001"))})
    full = [settled(f"r{number}", prompt_tokens=9_000_000, cached_tokens=0, completion_tokens=0) for number in range(5)]
    cheap = settled("cheap", model="n", prompt_tokens=1, cached_tokens=0, completion_tokens=0)
    repository.insert([*full, cheap, settled("free", model="x")], dear)
    costs = {total.group["model"]: total.cost for total in repository.totals(["model"], ALL)[0]}
    assert costs == {"m": Decimal(45_000_000_000), "n": Decimal("0.000000001"), "x": None}
    [total], _ = repository.totals([], ALL)
    assert total.cost == Decimal("45000000000.000000001")


def test_old_rows_are_forgotten_a_few_at_a_time(repository: UsageRepository, database: Database) -> None:
    repository.insert([settled(f"r{number}", received=NOON + number % 4 * DAY) for number in range(40)], FREE)
    assert repository.purge("2026-03-03", limit=15) == 15
    assert repository.purge("2026-03-03", limit=15) == 5
    assert repository.purge("2026-03-03", limit=15) == 0
    assert groups(repository, "day") == {("2026-03-03",): 10, ("2026-03-04",): 10}


def test_a_store_that_is_away_says_so(sqlite_database: Database) -> None:
    assert sqlite_database.path is not None
    sqlite_database.path.rename(sqlite_database.path.with_name("elsewhere"))
    repository = UsageRepository(sqlite_database)
    for action in (
        lambda: repository.insert([settled("a")], FREE),
        lambda: repository.holds("a"),
        lambda: repository.totals([], ALL),
        lambda: repository.purge("2026-01-01"),
    ):
        with pytest.raises(StoreUnavailable):
            action()


ROWS = st.lists(
    st.builds(
        lambda number, tokens, model: settled(f"r{number}", completion_tokens=tokens, model=model),
        st.integers(0, 20),
        st.integers(0, 100),
        st.sampled_from("mn"),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(batches=st.lists(ROWS, max_size=6))
def test_whatever_is_written_twice_counts_once(
    tmp_path_factory: pytest.TempPathFactory, batches: Sequence[Sequence[Settled]]
) -> None:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('store') / 'sluice.db'}")
    try:
        prepare(database, SECRET)
        repository = UsageRepository(database)
        first: dict[str, Settled] = {}
        for batch in batches:
            repository.insert(batch, PRICES)
            for row in batch:
                first.setdefault(row.request_id, row)
        [total], _ = repository.totals([], ALL)
        assert total.requests == len(first)
        assert total.completion_tokens == sum(row.completion_tokens for row in first.values())
        nanos = [PRICES.cost_nanos(row) for row in first.values()]
        priced = [each for each in nanos if each is not None]
        assert total.cost == (Decimal(sum(priced)) / 10**9 if priced else None)
    finally:
        database.close()


@pytest.mark.slow
def test_two_processes_write_one_table(store_url: str, open_database: OpenDatabase) -> None:
    prepare(open_database(store_url), SECRET)
    source = """
import sys
from gateway.store.database import Database
from gateway.store.usage import UsageRepository
from gateway.usage.prices import PriceList
from tests.support.rows import settled
repository = UsageRepository(Database(sys.argv[1], timeout=30))
for batch in range(50):
    repository.insert([settled(f"{sys.argv[2]}{batch}-{n}") for n in range(10)] + [settled("shared")], PriceList({}))
"""
    writers = [subprocess.Popen([sys.executable, "-c", source, store_url, name]) for name in "ab"]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    assert count(open_database(store_url)) == 1001
