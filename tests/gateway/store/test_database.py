from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import exc, insert, select

from gateway.settings import SettingsError
from gateway.store.database import Database, StoreUnavailable
from gateway.store.migrate import prepare
from gateway.store.tables import facts
from tests.support.postgres import PostgresServer, postgres
from tests.support.stores import SECRET, OpenDatabase


def put(database: Database, name: str, value: str = "x") -> None:
    with database.begin() as connection:
        connection.execute(insert(facts).values(name=name, value=value))


def names(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(select(facts.c.name)).scalars()) - {"secret_fingerprint"}


# -- transactions -----------------------------------------------------------------------------------------------------


def test_a_block_is_committed_as_a_whole_or_not_at_all(database: Database) -> None:
    put(database, "kept")

    def fail_after_writing() -> None:
        with database.begin() as connection:
            connection.execute(insert(facts).values(name="lost", value="x"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_writing()
    assert names(database) == {"kept"}


def test_a_broken_rule_is_a_bug_and_no_fault_of_the_store(database: Database) -> None:
    put(database, "once")
    with pytest.raises(exc.IntegrityError):
        put(database, "once")


def test_writers_wait_for_each_other(database: Database) -> None:
    def count() -> None:
        for _ in range(20):
            with database.begin() as connection:
                value = connection.execute(select(facts.c.value).where(facts.c.name == "n").with_for_update()).scalar()
                connection.execute(facts.update().where(facts.c.name == "n").values(value=str(int(value or 0) + 1)))

    put(database, "n", "0")
    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert connection.execute(select(facts.c.value).where(facts.c.name == "n")).scalar() == "80"


def test_errors_show_no_parameters(database: Database) -> None:
    put(database, "once", "geheim-1")
    with pytest.raises(exc.IntegrityError) as caught:
        put(database, "once", "geheim-2")
    assert "geheim" not in str(caught.value)


# -- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["", "nothing", "mysql://u:geheim@h/d", "postgresql+asyncpg://u:geheim@h/d", "sqlite://", "sqlite:///:memory:"],
)
def test_unusable_urls_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(SettingsError, match=r"store\.url") as caught:
        Database(url)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_name_of_postgresql_means_the_same_driver(scheme: str, postgres_server: PostgresServer) -> None:
    database = Database(postgres_server.url("postgres").replace("postgresql", scheme))
    with database.read() as connection:
        assert connection.dialect.driver == "psycopg"
    assert postgres_server.password not in str(database)
    database.close()


# -- a file -----------------------------------------------------------------------------------------------------------


def test_the_file_belongs_to_its_owner_alone(tmp_path: Path, open_database: OpenDatabase) -> None:
    folder = tmp_path / "state"
    database = open_database(f"sqlite:///{folder / 'sluice.db'}")
    prepare(database, SECRET)
    put(database, "x")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "sluice.db": 0o600,
        "sluice.db-wal": 0o600,
        "sluice.db-shm": 0o600,
    }


def test_readers_do_not_wait_for_a_writer(sqlite_database: Database) -> None:
    with sqlite_database.begin() as connection:
        connection.execute(insert(facts).values(name="x", value="x"))
        assert names(sqlite_database) == set()
    assert names(sqlite_database) == {"x"}


def test_a_locked_database_is_unavailable_and_then_is_not(sqlite_database: Database) -> None:
    assert sqlite_database.path is not None
    other = sqlite3.connect(sqlite_database.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable, match="locked"):
        put(sqlite_database, "x")
    other.execute("ROLLBACK")
    other.close()
    put(sqlite_database, "x")
    assert names(sqlite_database) == {"x"}


def test_a_full_database_is_unavailable_and_keeps_what_it_has(sqlite_database: Database) -> None:
    put(sqlite_database, "before")
    with sqlite_database.begin() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnavailable, match="full"):
        put(sqlite_database, "after", "x" * 100_000)
    with sqlite_database.begin() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 1000}")
    put(sqlite_database, "after", "x" * 100_000)
    assert names(sqlite_database) == {"before", "after"}


def test_a_file_that_goes_away_is_an_error_and_not_an_empty_store(sqlite_database: Database) -> None:
    put(sqlite_database, "x")
    path = sqlite_database.path
    assert path is not None
    away = path.with_suffix(".away")
    path.rename(away)
    with pytest.raises(StoreUnavailable):
        names(sqlite_database)
    assert not path.exists()
    away.rename(path)
    assert names(sqlite_database) == {"x"}


def test_a_restored_file_is_used_at_once(sqlite_database: Database) -> None:
    path = sqlite_database.path
    assert path is not None
    put(sqlite_database, "old")
    with sqlite_database.begin() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("VACUUM INTO ?", (str(path.with_suffix(".backup")),))
        connection.exec_driver_sql("BEGIN")
    put(sqlite_database, "new")
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    path.with_suffix(".backup").replace(path)
    assert names(sqlite_database) == {"old"}


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path, open_database: OpenDatabase) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"this is no database at all" * 100)
    database = open_database(f"sqlite:///{path}")
    with pytest.raises(StoreUnavailable, match="not a database"):
        names(database)


def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path: Path, open_database: OpenDatabase) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match=str(tmp_path)):
        prepare(open_database(f"sqlite:///{tmp_path / 'file' / 'sluice.db'}"), SECRET)


# -- a server ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_server_that_goes_away_and_comes_back(open_database: OpenDatabase) -> None:
    with postgres() as server:
        database = open_database(server.new_database())
        prepare(database, SECRET)
        put(database, "x")
        server.stop()
        with pytest.raises(StoreUnavailable) as caught:
            names(database)
        assert server.password not in str(caught.value)
        server.start()
        assert names(database) == {"x"}


def test_a_wrong_password_is_unavailable_and_not_shown(
    postgres_server: PostgresServer, open_database: OpenDatabase
) -> None:
    url = postgres_server.url("postgres").replace(postgres_server.password, "geheim")
    with pytest.raises(StoreUnavailable, match="password authentication failed") as caught:
        names(open_database(url))
    assert "geheim" not in str(caught.value)


def test_a_statement_that_waits_too_long_is_ended(postgres_server: PostgresServer, open_database: OpenDatabase) -> None:
    database = open_database(postgres_server.new_database(), timeout=0.2)
    prepare(database, SECRET)
    put(database, "n")
    patient = open_database(postgres_server.url(str(database).rpartition("/")[2]))
    with patient.begin() as connection:
        connection.execute(select(facts).with_for_update())
        with pytest.raises(StoreUnavailable, match="timeout"), database.begin() as other:
            other.execute(select(facts).with_for_update())


def test_a_store_without_tables_is_unavailable(store_url: str, open_database: OpenDatabase) -> None:
    database = open_database(store_url)
    with pytest.raises(StoreUnavailable):
        names(database)


OTHER_PROCESS = """
import sys
from sqlalchemy import insert
from gateway.store.database import Database
from gateway.store.tables import facts
database = Database(sys.argv[1])
with database.begin() as connection:
    connection.execute(insert(facts).values(name="from outside", value="x"))
database.close()
"""


@pytest.mark.slow
def test_what_other_processes_write_is_seen_however_often_the_store_is_made_ready(tmp_path: Path) -> None:
    """A process that opens and closes the file itself drops its own locks; the next one to leave deletes the log."""
    url = f"sqlite:///{tmp_path / 'sluice.db'}"
    first, second = Database(url), Database(url)
    prepare(first, SECRET)
    put(first, "ours")
    prepare(second, SECRET)
    subprocess.run([sys.executable, "-c", OTHER_PROCESS, url], check=True)
    assert names(first) == names(second) == {"ours", "from outside"}
    put(second, "later")
    assert "later" in names(Database(url))
