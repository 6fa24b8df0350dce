from __future__ import annotations

import sqlite3
import threading

import pytest

from gateway.store.audit import AuditEntry, AuditFilter, AuditLog, forget_audit, read_audit, write_audit
from gateway.store.database import Database

DAY = 86_400.0


def entry(number: int, **changes: object) -> AuditEntry:
    values: dict[str, object] = {"ts": float(number), "actor": "me", "act": "key.create", "allowed": True}
    return AuditEntry(**{**values, "target": str(number), **changes})  # type: ignore[arg-type]


def targets(database: Database, wanted: AuditFilter | None = None) -> list[str | None]:
    rows, _ = read_audit(database, wanted or AuditFilter(), limit=1000)
    return [row.entry.target for row in rows]


def test_what_was_recorded_is_read_newest_first(database: Database) -> None:
    log = AuditLog(database)
    whole = AuditEntry(1.5, "a", "key.rotate", False, "k", {"param": "scopes"}, "10.0.0.1", "req-1")
    log.record(whole)
    log.record(entry(2))
    assert log.close(10)
    rows, more = read_audit(database, AuditFilter())
    assert [row.entry for row in rows] == [entry(2), whole]
    assert not more
    assert log.lost == 0


def test_long_and_strange_texts_are_clipped(database: Database) -> None:
    write_audit(database, [entry(1, actor="a" * 500, target="x\x00y", client_ip="1" * 100)])
    ((row,), _) = read_audit(database, AuditFilter())
    assert row.entry.target == "x\N{REPLACEMENT CHARACTER}y"
    assert (len(row.entry.actor), len(row.entry.client_ip or "")) == (128, 64)


def test_pages_and_filters(database: Database) -> None:
    write_audit(database, [entry(i, allowed=i % 2 == 0, act=f"act-{i % 3}", actor=f"who-{i % 5}") for i in range(30)])
    first, more = read_audit(database, AuditFilter(), limit=20)
    rest, no_more = read_audit(database, AuditFilter(), limit=20, before=first[-1].id)
    assert [row.entry.target for row in [*first, *rest]] == [str(i) for i in reversed(range(30))]
    assert (more, no_more) == (True, False)
    assert targets(database, AuditFilter(allowed=False, act="act-0", actor="who-4")) == ["9"]
    assert targets(database, AuditFilter(since=3.0, until=5.0)) == ["4", "3"]
    assert targets(database, AuditFilter(target="7")) == ["7"]
    assert targets(database, AuditFilter(actor="' OR 1=1 --")) == []


def test_old_rows_are_forgotten(database: Database) -> None:
    write_audit(database, [entry(i) for i in range(10)])
    assert forget_audit(database, before=4.0) == 4
    assert targets(database) == ["9", "8", "7", "6", "5", "4"]


def test_retention_is_applied_by_the_log_itself(sqlite_database: Database) -> None:
    write_audit(sqlite_database, [entry(1), entry(int(5 * DAY))])
    log = AuditLog(sqlite_database, retention_days=3, wall=lambda: 6 * DAY)
    log.record(entry(int(6 * DAY)))
    assert log.close(10)
    assert targets(sqlite_database) == [str(int(6 * DAY)), str(int(5 * DAY))]


def test_rows_wait_while_the_database_is_locked(sqlite_database: Database) -> None:
    assert sqlite_database.path is not None
    other = sqlite3.connect(sqlite_database.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    log = AuditLog(sqlite_database, retry=0.01)
    for i in range(1000):
        log.record(entry(i))
    assert not log.flush(0.3)
    other.execute("ROLLBACK")
    other.close()
    assert log.close(30)
    assert targets(sqlite_database) == [str(i) for i in reversed(range(1000))]
    assert log.lost == 0


def test_what_does_not_fit_is_counted(sqlite_database: Database) -> None:
    assert sqlite_database.path is not None
    other = sqlite3.connect(sqlite_database.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    lost: list[int] = []
    log = AuditLog(sqlite_database, capacity=10, retry=0.01, on_lost=lost.append)
    for i in range(25):
        log.record(entry(i))
    assert (log.lost, sum(lost)) == (15, 15)
    assert not log.close(0.1)
    assert (log.lost, sum(lost)) == (25, 25)
    other.execute("ROLLBACK")
    other.close()
    log.record(entry(99))
    assert log.lost == 26
    assert targets(sqlite_database) == []


def test_entries_that_cannot_be_written_do_not_hold_up_the_others(sqlite_database: Database) -> None:
    log = AuditLog(sqlite_database, linger=0.0)
    log.record(entry(1, detail={"not": object()}))
    assert log.flush(10)
    log.record(entry(2))
    assert log.close(10)
    assert targets(sqlite_database) == ["2"]
    assert log.lost == 1


def test_many_threads_lose_nothing(database: Database) -> None:
    log = AuditLog(database)

    def record(start: int) -> None:
        for i in range(start, start + 200):
            log.record(entry(i))

    threads = [threading.Thread(target=record, args=(start,)) for start in range(0, 1000, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.close(30)
    assert sorted(targets(database), key=lambda each: int(each or 0)) == [str(i) for i in range(1000)]


def test_closing_twice_is_harmless(sqlite_database: Database) -> None:
    log = AuditLog(sqlite_database)
    assert log.close(10)
    assert log.close(10)


@pytest.mark.parametrize("count", [0, 1, 257])
def test_flush_means_kept(sqlite_database: Database, count: int) -> None:
    log = AuditLog(sqlite_database)
    for i in range(count):
        log.record(entry(i))
    assert log.flush(30)
    assert len(targets(sqlite_database)) == count
    assert log.close(10)
