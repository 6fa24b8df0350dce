from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, inspect, text

from gateway.access.secret import DeploymentSecret
from gateway.settings import SettingsError
from gateway.store.database import Database
from gateway.store.migrate import claim, migrate, prepare
from gateway.store.tables import metadata
from tests.support.stores import SECRET, OpenDatabase


def shape(database: Database) -> dict[str, Any]:
    """Everything that the database says of its tables."""
    with database.read() as connection:
        inspector = inspect(connection)
        return {
            table: (
                [{**column, "type": repr(column["type"])} for column in inspector.get_columns(table)],
                sorted(inspector.get_indexes(table), key=str),
                inspector.get_pk_constraint(table)["constrained_columns"],
                inspector.get_unique_constraints(table),
                inspector.get_foreign_keys(table),
            )
            for table in inspector.get_table_names()
            if table != "alembic_version"
        }


def test_migrations_make_exactly_the_tables(store_url: str, open_database: OpenDatabase) -> None:
    database = open_database(store_url)
    migrate(database)
    with database.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    migrated = shape(database)
    with database.begin() as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)
    assert migrated == shape(database)


def test_the_comparison_sees_a_difference(store_url: str, open_database: OpenDatabase) -> None:
    database = open_database(store_url)
    migrate(database)
    with database.begin() as connection:
        connection.execute(text("DROP INDEX ix_keys_revision"))
        context = MigrationContext.configure(connection)
        assert [change[0] for change in compare_metadata(context, metadata)] == ["add_index"]


def test_migrating_twice_changes_nothing(database: Database) -> None:
    before = shape(database)
    migrate(database)
    assert shape(database) == before


def test_a_schema_of_the_future_is_refused(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SettingsError, match=r"9999.*newer"):
        migrate(database)


def test_a_migration_that_fails_leaves_nothing_behind(store_url: str, open_database: OpenDatabase) -> None:
    database = open_database(store_url)
    with database.migrating() as connection:
        # In the way of the last table.
        MetaData().create_all(connection)
        connection.execute(text("CREATE TABLE audit (id INTEGER)"))
    with pytest.raises(Exception, match="audit"):
        migrate(database)
    assert set(shape(database)) == {"audit"}


def _prepare(url: str, barrier: Any, failures: Any) -> None:
    database = Database(url)
    barrier.wait()
    try:
        prepare(database, SECRET)
    except Exception as error:
        failures.put(repr(error))
        raise


@pytest.mark.slow
def test_several_processes_migrate_at_once(store_url: str, open_database: OpenDatabase) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, failures = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_prepare, args=(store_url, barrier, failures)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0], _all(failures)
    assert set(shape(open_database(store_url))) == set(metadata.tables)


def _all(failures: Any) -> Sequence[str]:
    return [failures.get() for _ in range(4) if not failures.empty()]


def test_another_secret_is_refused(database: Database) -> None:
    claim(database, SECRET)
    with pytest.raises(SettingsError, match="another deployment secret"):
        claim(database, DeploymentSecret("a different secret, also long enough to be one"))
    claim(database, SECRET)


def test_migrations_are_part_of_the_package() -> None:
    import gateway.store.migrations as package

    assert package.__file__ is not None
    names = {path.name for path in Path(package.__file__).parent.rglob("*.*")}
    assert {"env.py", "script.py.mako", "v0001_first.py"} <= names
