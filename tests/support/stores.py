"""Databases for tests: the same test on SQLite and on a real PostgreSQL. Imported by a conftest.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.access.secret import DeploymentSecret
from gateway.store.database import Database
from gateway.store.migrate import prepare
from tests.support.postgres import PostgresServer, postgres

SECRET = DeploymentSecret("a deployment secret of the tests' own, long enough")
DIALECTS = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The one server that tests share, for those who leave it running."""
    with postgres() as server:
        yield server


@pytest.fixture(params=DIALECTS)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store' / 'sluice.db'}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.new_database()


OpenDatabase = Callable[..., Database]


@pytest.fixture
def open_database() -> Iterator[OpenDatabase]:
    """Opens databases and closes them after the test."""
    opened: list[Database] = []

    def open_one(url: str, *, timeout: float = 5.0) -> Database:
        opened.append(Database(url, timeout=timeout))
        return opened[-1]

    yield open_one
    for database in opened:
        database.close()


@pytest.fixture
def database(store_url: str, open_database: OpenDatabase) -> Database:
    """A store that is ready, of each kind."""
    database = open_database(store_url)
    prepare(database, SECRET)
    return database


@pytest.fixture
def sqlite_database(tmp_path: Path, open_database: OpenDatabase) -> Database:
    """A store that is ready, in a file. Its patience outlasts what a busy machine does to a test without faults."""
    database = open_database(f"sqlite:///{tmp_path / 'sluice.db'}", timeout=2.0)
    prepare(database, SECRET)
    return database


async def until(check: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until ``check`` holds; AssertionError if it does not within ``seconds``."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not check():
        assert asyncio.get_running_loop().time() < deadline, "it did not come to pass"
        await asyncio.sleep(0.005)
