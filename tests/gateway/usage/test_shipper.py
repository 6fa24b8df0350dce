from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from gateway.settings import PriceSettings, SettingsError
from gateway.store.database import Database
from gateway.store.migrate import prepare
from gateway.store.tables import metadata, usage
from gateway.store.usage import UsageFilter, UsageRepository
from gateway.usage.file import rotated_files
from gateway.usage.ledger import PROCESS_LOST, JsonlLedger
from gateway.usage.life import Life
from gateway.usage.prices import PriceList
from gateway.usage.records import Settled, read_entries
from gateway.usage.shipper import Pace, Shipper
from tests.support.postgres import PostgresServer, postgres
from tests.support.rows import DAY, NOON, Journal, both, settled
from tests.support.stores import SECRET, OpenDatabase

ROOT = Path(__file__).parents[3]
HASTE = Pace(poll=0.005, first_retry=0.005, last_retry=0.02, share=1.0)
PRICES = PriceList({"m": PriceSettings(prompt=Decimal(1))})
LONG = 60.0


@dataclass
class Observed:
    """What the observer was told."""

    rows: int = 0
    skipped: int = 0
    behind: int = -1
    looked: float = 0.0
    available: list[bool] = field(default_factory=list)

    def usage_shipped(self, rows: int, behind: int) -> None:
        self.rows += rows
        self.behind = behind

    def usage_skipped(self, lines: int) -> None:
        self.skipped += lines

    def usage_looked(self, moment: float) -> None:
        self.looked = moment

    def usage_database(self, available: bool) -> None:
        self.available.append(available)


class Ready:
    """Makes the database ready, as often as it was told."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self) -> None:
        prepare(self._database, SECRET)


@contextmanager
def shipping(path: Path, database: Database, **options: Any) -> Iterator[tuple[Shipper, Observed]]:
    observed = Observed()
    options = {"prepare": Ready(database), "pace": HASTE, "observer": observed, **options}
    shipper = Shipper(path, UsageRepository(database), PRICES, **options)
    shipper.start()
    try:
        yield shipper, observed
    finally:
        shipper.close(LONG)


def ship_all(path: Path, database: Database, **options: Any) -> Observed:
    with shipping(path, database, **options) as (shipper, observed):
        assert shipper.flush(LONG)
    return observed


def ids(database: Database) -> list[str]:
    with database.read() as connection:
        return sorted(connection.execute(select(usage.c.request_id)).scalars())


def journaled(path: Path) -> dict[str, Settled]:
    """What the journal says, the first ending of each request."""
    rows: dict[str, Settled] = {}
    for file in [*rotated_files(path), path]:
        for entry in read_entries(file):
            if isinstance(entry, Settled):
                rows.setdefault(entry.request_id, entry)
    return rows


def assert_equal(path: Path, database: Database) -> None:
    """The database holds what the journal says, to the token."""
    rows = journaled(path)
    columns = ("request_id", "outcome", "code", "prompt_tokens", "cached_tokens", "completion_tokens", "principal")
    with database.read() as connection:
        kept = sorted(connection.execute(select(*(usage.c[name] for name in columns))), key=lambda row: row[0])
    expected = [tuple(getattr(row, name) for name in columns) for row in rows.values()]
    assert [tuple(row) for row in kept] == sorted(expected, key=lambda row: row[0])


def eventually(check: Callable[[], object]) -> None:
    done = threading.Event()
    for _ in range(int(LONG / 0.005)):
        if check():
            return
        done.wait(0.005)
    raise AssertionError("it did not come to pass")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    written = Journal(tmp_path / "state" / "ledger.jsonl")
    yield written
    written.close()


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records if record.name == "sluice.usage"]


# -- the way of a row ---------------------------------------------------------------------------------------------


def test_settled_rows_arrive_with_their_cost(journal: Journal, database: Database) -> None:
    journal.write(both("a", "b"))
    with shipping(journal.path, database, wall=lambda: NOON) as (shipper, observed):
        assert shipper.flush(LONG)
        assert ids(database) == ["a", "b"]
        journal.write(both("c"))
        assert shipper.flush(LONG)
        assert_equal(journal.path, database)
    assert observed.looked == NOON
    assert (observed.rows, observed.behind, observed.skipped, observed.available) == (3, 0, 0, [True])
    [total], _ = UsageRepository(database).totals([], UsageFilter())
    assert total.cost == Decimal("0.000021")


def test_what_was_copied_is_not_copied_again(journal: Journal, sqlite_database: Database) -> None:
    journal.write(both("a"))
    assert ship_all(journal.path, sqlite_database).rows == 1
    journal.write(both("b"))
    assert ship_all(journal.path, sqlite_database).rows == 1
    assert ids(sqlite_database) == ["a", "b"]


def test_rows_arrive_without_anybody_asking(journal: Journal, sqlite_database: Database) -> None:
    with shipping(journal.path, sqlite_database):
        journal.write(both("a"))
        eventually(lambda: ids(sqlite_database) == ["a"])


def test_what_comes_until_the_close_is_copied(journal: Journal, sqlite_database: Database) -> None:
    slow = Pace(poll=LONG * 10, first_retry=LONG, last_retry=LONG)
    with shipping(journal.path, sqlite_database, pace=slow) as (shipper, _):
        assert shipper.flush(LONG)
        journal.write(both("a"))
        assert shipper.close(LONG)
        assert shipper.close(LONG)
    assert ids(sqlite_database) == ["a"]


def test_a_hundred_thousand_rows(tmp_path: Path, sqlite_database: Database) -> None:
    journal = Journal(tmp_path / "ledger.jsonl", max_bytes=16 * 1024 * 1024)
    journal.write(settled(f"r{number}") for number in range(100_000))
    journal.close()
    observed = ship_all(journal.path, sqlite_database)
    assert observed.rows == 100_000
    assert len(rotated_files(journal.path)) > 1
    with sqlite_database.read() as connection:
        found = connection.execute(select(func.count(), func.sum(usage.c.completion_tokens))).one()
    assert tuple(found) == (100_000, 500_000)
    assert ship_all(journal.path, sqlite_database).rows == 0


def test_rotation_under_load(tmp_path: Path, sqlite_database: Database) -> None:
    ledger = JsonlLedger(tmp_path / "ledger.jsonl", max_bytes=20_000)
    with shipping(ledger.path, sqlite_database) as (shipper, _):
        for number in range(3000):
            life = Life(ledger, f"r{number}")
            life.admitted(principal="p", tenant="t", route="/r", model="m", prompt_tokens=3, max_tokens=9, n=1)
            life.cached_tokens = 1
            life.completed(completion_tokens=number % 9, finish_reasons=("stop",))
            if number % 100 == 0:
                assert ledger.flush(LONG)
        assert ledger.close(LONG)
        assert shipper.flush(LONG)
    assert len(rotated_files(ledger.path)) > 20
    assert len(ids(sqlite_database)) == 3000
    assert_equal(ledger.path, sqlite_database)


# -- what is not a row --------------------------------------------------------------------------------------------


def test_garbage_is_counted_and_told_of_once(
    journal: Journal, sqlite_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    journal.write(both("a"))
    with shipping(journal.path, sqlite_database) as (shipper, observed):
        for _ in range(3):
            journal.write_bytes(b"not a row\n\x00\n")
            journal.write([settled(f"odd-{observed.skipped}", prompt_tokens=-1)])
            assert shipper.flush(LONG)
        journal.write(both("b"))
        assert shipper.flush(LONG)
    assert observed.skipped == 9
    assert observed.rows == 2
    assert ids(sqlite_database) == ["a", "b"]
    assert levels(caplog) == ["ERROR", "ERROR"]
    assert "odd-" in caplog.text


# -- crashes ------------------------------------------------------------------------------------------------------


def test_a_lost_bookmark_costs_work_and_nothing_else(journal: Journal, sqlite_database: Database) -> None:
    journal.write(both("a", "b"))
    ship_all(journal.path, sqlite_database)
    journal.path.with_suffix(".bookmark").unlink()
    assert ship_all(journal.path, sqlite_database).rows == 2
    assert_equal(journal.path, sqlite_database)


def test_a_database_that_lost_rows_gets_them_again(
    journal: Journal, tmp_path: Path, open_database: OpenDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    path, backup = tmp_path / "db" / "sluice.db", tmp_path / "backup.db"
    first = open_database(f"sqlite:///{path}")
    journal.write(both("a"))
    ship_all(journal.path, first)
    journal.rotate()
    journal.write(both("b"))
    with sqlite3.connect(path) as source, sqlite3.connect(backup) as target:
        source.backup(target)
    with shipping(journal.path, first) as (shipper, _):
        journal.write(both("c"))
        assert shipper.flush(LONG)
    first.close()
    # What is restored does not have "b" and "c".
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    shutil.copy(backup, path)
    second = open_database(f"sqlite:///{path}")
    assert ids(second) == ["a"]
    ship_all(journal.path, second)
    assert ids(second) == ["a", "b", "c"]
    assert "copied again" in caplog.text


def test_a_database_that_is_replaced_while_we_run_gets_everything(
    journal: Journal, tmp_path: Path, open_database: OpenDatabase
) -> None:
    path = tmp_path / "db" / "sluice.db"
    database = open_database(f"sqlite:///{path}")
    journal.write(both("a"))
    with shipping(journal.path, database) as (shipper, _):
        assert shipper.flush(LONG)
        fresh = open_database(f"sqlite:///{tmp_path / 'fresh.db'}")
        prepare(fresh, SECRET)
        fresh.close()
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        (tmp_path / "fresh.db").replace(path)
        journal.write(both("b"))
        eventually(lambda: shipper.flush(LONG))
    assert ids(database) == ["a", "b"]


WRITER = """
import sys
from pathlib import Path
from gateway.settings import Settings
from gateway.store.database import Database
from gateway.store.migrate import prepare
from gateway.store.usage import UsageRepository
from gateway.usage.ledger import JsonlLedger
from gateway.usage.life import Life
from gateway.usage.prices import PriceList
from gateway.usage.shipper import Pace, Shipper
from tests.gateway.usage.test_shipper import Observed, Ready

path, url, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
ledger = JsonlLedger(path, max_bytes=50_000)
database = Database(url, timeout=30)
pace = Pace(poll=0.001, first_retry=0.01, last_retry=0.05)
repository = UsageRepository(database)
shipper = Shipper(path, repository, PriceList({}), prepare=Ready(database), observer=Observed(), pace=pace)
shipper.start()
number = 0
while True:
    life = Life(ledger, f"{name}-{number}")
    life.admitted(principal="p", route="/r", model="m", prompt_tokens=number, max_tokens=9, n=1)
    if number % 10:
        life.completed(completion_tokens=number % 9, finish_reasons=("stop",))
    number += 1
    if number % 100 == 0:
        ledger.flush(30)
    if number == 1000:
        shipper.flush(30)
        print("going", flush=True)
"""


def writer(path: Path, url: str, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), url, name],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def kill_when_going(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process.stdout.close()


@pytest.mark.slow
def test_a_process_killed_in_the_middle_again_and_again(
    tmp_path: Path, store_url: str, open_database: OpenDatabase
) -> None:
    path = tmp_path / "ledger.jsonl"
    for turn in range(3):
        kill_when_going(writer(path, store_url, f"turn{turn}"))
    database = open_database(store_url)
    ledger = JsonlLedger(path)
    assert ledger.close(LONG)
    ship_all(path, database)
    assert_equal(path, database)
    rows = journaled(path)
    lost = [row for row in rows.values() if row.code == PROCESS_LOST]
    assert len(rows) >= 3000
    assert {f"turn{turn}-{number}" for turn in range(3) for number in range(0, 1000, 10)} <= {
        row.request_id for row in lost
    }
    assert all(row.completion_tokens == 0 and row.principal == "p" for row in lost)


@pytest.mark.slow
def test_two_processes_with_journals_of_their_own_share_one_database(
    tmp_path: Path, store_url: str, open_database: OpenDatabase
) -> None:
    paths = [tmp_path / name / "ledger.jsonl" for name in "ab"]
    processes = [writer(path, store_url, path.parent.name) for path in paths]
    for process in processes:
        kill_when_going(process)
    database = open_database(store_url)
    for path in paths:
        assert JsonlLedger(path).close(LONG)
        ship_all(path, database)
    rows = {**journaled(paths[0]), **journaled(paths[1])}
    assert ids(database) == sorted(rows)


# -- faults -------------------------------------------------------------------------------------------------------


def test_a_locked_database_is_waited_for(
    journal: Journal, sqlite_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    assert sqlite_database.path is not None
    journal.write(both("a"))
    with shipping(journal.path, sqlite_database) as (shipper, observed):
        assert shipper.flush(LONG)
        blocker = sqlite3.connect(sqlite_database.path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        for number in range(20):
            journal.write(both(f"b{number}"))
        eventually(lambda: observed.available == [True, False])
        assert not shipper.flush(LONG)
        eventually(lambda: observed.behind > 0)
        blocker.execute("COMMIT")
        blocker.close()
        eventually(lambda: shipper.flush(LONG))
        assert_equal(journal.path, sqlite_database)
        assert observed.available == [True, False, True]
        assert observed.behind == 0
    assert levels(caplog) == ["ERROR", "WARNING"]


def test_a_database_that_is_away_at_the_start_and_comes(
    journal: Journal, tmp_path: Path, open_database: OpenDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "db").write_text("in the way")
    database = open_database(f"sqlite:///{tmp_path / 'db' / 'sluice.db'}")
    journal.write(both("a"))
    with shipping(journal.path, database) as (shipper, observed):
        eventually(lambda: observed.behind == journal.path.stat().st_size)
        assert not shipper.flush(LONG)
        (tmp_path / "db").unlink()
        eventually(lambda: shipper.flush(LONG))
    assert ids(database) == ["a"]
    assert observed.available == [False, True]
    assert levels(caplog) == ["ERROR", "WARNING"]


def test_a_store_of_another_deployment_is_not_written(
    journal: Journal, sqlite_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise SettingsError("secret: another one")

    journal.write(both("a"))
    with shipping(journal.path, sqlite_database, prepare=refuse) as (shipper, _):
        assert not shipper.flush(LONG)
    assert ids(sqlite_database) == []
    assert "secret: another one" in caplog.text


def test_a_bug_stops_nothing_for_good_and_is_told_of_once(
    journal: Journal, sqlite_database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.write(both("a"))
    with shipping(journal.path, sqlite_database) as (shipper, observed):
        assert shipper.flush(LONG)
        with monkeypatch.context() as patch:

            def broken(*_arguments: object) -> list[str]:
                raise ZeroDivisionError("a bug")

            patch.setattr(UsageRepository, "insert", broken)
            journal.write(both("b"))
            assert not shipper.flush(LONG)
            assert not shipper.flush(LONG)
        eventually(lambda: shipper.flush(LONG))
    assert ids(sqlite_database) == ["a", "b"]
    assert observed.available == [True, False, True]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert errors[0].exc_info is not None


def test_a_bookmark_that_cannot_be_written_stops_nothing(
    journal: Journal, sqlite_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    journal.path.with_suffix(".bookmark").mkdir()
    with shipping(journal.path, sqlite_database) as (shipper, observed):
        for name in "abc":
            journal.write(both(name))
            assert shipper.flush(LONG)
    assert observed.rows == 3
    assert ids(sqlite_database) == ["a", "b", "c"]
    assert sum("cannot be written down" in message for message in caplog.messages) == 1


def test_an_end_while_the_database_is_away_leaves_the_rows_to_the_next_start(
    journal: Journal, sqlite_database: Database
) -> None:
    assert sqlite_database.path is not None
    elsewhere = sqlite_database.path.with_name("elsewhere")
    with shipping(journal.path, sqlite_database) as (shipper, _):
        assert shipper.flush(LONG)
        sqlite_database.path.rename(elsewhere)
        journal.write(both("a"))
        assert not shipper.close(LONG)
    elsewhere.rename(sqlite_database.path)
    ship_all(journal.path, sqlite_database)
    assert ids(sqlite_database) == ["a"]


FULL = """
import json, resource, signal, sys
from pathlib import Path
from gateway.store.database import Database
from gateway.store.usage import UsageRepository
from gateway.usage.prices import PriceList
from gateway.usage.shipper import Shipper
from tests.gateway.usage.test_shipper import HASTE, Observed, Ready, eventually, ids
from tests.support.rows import Journal, both

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
database = Database(f"sqlite:///{folder / 'sluice.db'}")
Ready(database)()
journal = Journal(folder / "ledger.jsonl", max_bytes=20_000)
observed = Observed()
shipper = Shipper(journal.path, UsageRepository(database), PriceList({}), prepare=Ready(database), observer=observed,
                  pace=HASTE)
shipper.start()
names = [f"r{number}" for number in range(500)]
size = max(each.stat().st_size for each in folder.iterdir())
# A file-size limit is a disk that is full for the database and not for the journal, whose files are smaller.
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20_000, resource.RLIM_INFINITY))
journal.write(both(*names))
eventually(lambda: False in observed.available)
refused = not shipper.flush(30)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
eventually(lambda: shipper.flush(30))
shipper.close(30)
print(json.dumps(dict(refused=refused, complete=ids(database) == sorted(names), available=observed.available[-2:])))
"""


@pytest.mark.slow
def test_a_disk_that_is_full_for_the_database_only(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=True,
    )
    assert json.loads(result.stdout) == {"refused": True, "complete": True, "available": [False, True]}


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """Faults of it are nobody else's."""
    with postgres() as server:
        yield server


@pytest.mark.slow
def test_a_server_that_stops_freezes_and_comes_back(
    journal: Journal, own_server: PostgresServer, open_database: OpenDatabase
) -> None:
    database = open_database(own_server.new_database())
    with shipping(journal.path, database) as (shipper, observed):
        journal.write(both("a"))
        eventually(lambda: shipper.flush(LONG))
        own_server.stop()
        try:
            journal.write(both("b"))
            eventually(lambda: observed.available[-1] is False)
            assert not shipper.flush(LONG)
        finally:
            own_server.start()
        eventually(lambda: shipper.flush(LONG))
        assert ids(database) == ["a", "b"]
        own_server.freeze()
        try:
            journal.write(both("c"))
            assert not shipper.flush(1.0)
        finally:
            own_server.thaw()
        eventually(lambda: shipper.flush(LONG))
        assert ids(database) == ["a", "b", "c"]


@pytest.mark.slow
def test_a_frozen_server_does_not_hold_up_the_end(
    journal: Journal, own_server: PostgresServer, open_database: OpenDatabase
) -> None:
    database = open_database(own_server.new_database())
    with shipping(journal.path, database) as (shipper, _):
        assert shipper.flush(LONG)
        own_server.freeze()
        try:
            journal.write(both("a"))
            assert not shipper.close(0.5)
        finally:
            own_server.thaw()
    ship_all(journal.path, database)
    assert ids(database) == ["a"]


# -- retention ----------------------------------------------------------------------------------------------------


def test_old_rows_are_forgotten_and_not_copied_again(journal: Journal, sqlite_database: Database) -> None:
    journal.write([settled(f"r{day}", received=NOON + day * DAY) for day in range(10)])
    ship_all(journal.path, sqlite_database)
    today = NOON + 9 * DAY
    ship_all(journal.path, sqlite_database, retention_days=3, wall=lambda: today)
    assert ids(sqlite_database) == ["r6", "r7", "r8", "r9"]
    journal.path.with_suffix(".bookmark").unlink()
    assert ship_all(journal.path, sqlite_database, retention_days=3, wall=lambda: today).rows == 4
    assert ids(sqlite_database) == ["r6", "r7", "r8", "r9"]


def test_a_last_row_that_was_forgotten_is_no_reason_to_copy_again(
    journal: Journal, sqlite_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    journal.write(both("a"))
    ship_all(journal.path, sqlite_database)
    later = NOON + 100 * DAY
    for _ in range(2):
        observed = ship_all(journal.path, sqlite_database, retention_days=3, wall=lambda: later)
        assert observed.rows == 0
        assert ids(sqlite_database) == []
    assert "copied again" not in caplog.text


def test_as_good_as_for_ever(journal: Journal, sqlite_database: Database) -> None:
    journal.write([settled("a", received=1.0), settled("b")])
    assert ship_all(journal.path, sqlite_database, retention_days=10**9).rows == 2


def test_forgetting_goes_on_by_the_hour(journal: Journal, sqlite_database: Database) -> None:
    now = [NOON]
    journal.write(both("a"))
    with shipping(journal.path, sqlite_database, retention_days=1, wall=lambda: now[0]) as (shipper, _):
        assert shipper.flush(LONG)
        assert ids(sqlite_database) == ["a"]
        now[0] += 2 * DAY
        eventually(lambda: ids(sqlite_database) == [])


# -- the law ------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(st.integers(0, 30), min_size=1, max_size=5)),
        st.tuples(st.just("rotate"), st.none()),
        st.tuples(st.just("ship"), st.none()),
        st.tuples(st.just("crash"), st.sampled_from(["before the bookmark", "lost bookmark", "old bookmark"])),
        st.tuples(st.just("torn line"), st.none()),
        st.tuples(st.just("garbage"), st.none()),
        st.tuples(st.just("database lost"), st.none()),
    ),
    max_size=14,
)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_whatever_happens_the_database_is_the_set_of_settled_rows(
    tmp_path_factory: pytest.TempPathFactory, steps: Sequence[tuple[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("law")
    database = Database(f"sqlite:///{folder / 'sluice.db'}")
    bookmark = folder / "ledger.bookmark"
    journal = Journal(folder / "ledger.jsonl")

    def ship() -> None:
        ship_all(journal.path, database, prepare=lambda: None)

    try:
        with database.migrating() as connection:
            metadata.create_all(connection)
        old: bytes | None = None
        for step, detail in steps:
            match step:
                case "write":
                    journal.write(settled(f"r{number}") for number in detail)
                case "rotate":
                    journal.rotate()
                    journal.write([settled(f"first-{len(rotated_files(journal.path))}")])
                    journal.reopen()
                case "ship":
                    ship()
                case "crash":
                    before = bookmark.read_bytes() if bookmark.exists() else None
                    ship()
                    restored = {"before the bookmark": before, "lost bookmark": None, "old bookmark": old}[detail]
                    if restored is None:
                        bookmark.unlink(missing_ok=True)
                    else:
                        bookmark.write_bytes(restored)
                    old = before
                case "torn line":
                    journal.write_bytes(b'{"event":"settled","request_id":"to')
                    ship()
                    journal.reopen()
                case "garbage":
                    journal.write_bytes(b"\xff garbage\n")
                case "database lost":
                    with database.begin() as connection:
                        connection.execute(usage.delete())
        ship()
        assert_equal(journal.path, database)
    finally:
        journal.close()
        database.close()
