from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from gateway.access.keyring import Freshness, Keyring, News, build
from gateway.access.keys import KeyParts
from gateway.access.keysync import KeySync, SyncHooks
from gateway.access.secret import KEYS, DeploymentSecret
from gateway.errors import ApiError
from gateway.store.database import Database
from gateway.store.keys import KeyChanges, KeyGrant, KeyRepository
from gateway.store.migrate import prepare
from gateway.store.tables import keys
from tests.support.postgres import postgres
from tests.support.stores import SECRET, OpenDatabase, until

PEPPER = SECRET.derive(KEYS)
#: Never by itself within a test.
NEVER = 3600.0
LOGGER = "sluice.keys"


@dataclass
class Replica:
    """One gateway's part of the key check."""

    repository: KeyRepository
    ring: Keyring
    sync: KeySync
    gone: list[set[str]] = field(default_factory=list)
    available: list[bool] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def create(self, **grant: Any) -> KeyParts:
        return self.repository.create(KeyGrant(name="x", **grant), by="me", now=time.time()).key

    def answer(self, key: KeyParts) -> int:
        try:
            self.ring.identify_token(key.text().encode())
        except ApiError as error:
            return error.status
        return 200


Begin = Callable[..., Awaitable[Replica]]


@pytest.fixture
async def begin() -> AsyncIterator[Begin]:
    """Starts replicas, and stops them after the test."""
    begun: list[Replica] = []

    async def one(
        database: Database,
        *,
        poll: float = 0.02,
        recent: float = NEVER,
        patience: float = 30.0,
        repository: KeyRepository | None = None,
        secret: DeploymentSecret = SECRET,
    ) -> Replica:
        repository = repository or KeyRepository(database, PEPPER)
        ring = Keyring(PEPPER, Freshness(recent, NEVER, 1.0))
        gone: list[set[str]] = []
        available: list[bool] = []
        counts: list[int] = []
        hooks = SyncHooks(gone.append, available.append, counts.append)
        sync = KeySync(
            ring,
            repository,
            prepare=lambda: prepare(database, secret),
            poll_interval=poll,
            hooks=hooks,
            patience=patience,
        )
        begun.append(Replica(repository, ring, sync, gone, available, counts))
        await sync.start()
        return begun[-1]

    yield one
    for replica in begun:
        await replica.sync.stop()


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


async def test_keys_are_known_when_it_has_started(begin: Begin, database: Database) -> None:
    key = KeyRepository(database, PEPPER).create(KeyGrant(name="x"), by="me", now=1.0).key
    replica = await begin(database, poll=NEVER)
    assert replica.sync.available
    assert replica.answer(key) == 200
    assert (replica.available, replica.counts) == ([True], [1])


async def test_an_empty_store_is_prepared(begin: Begin, store_url: str, open_database: OpenDatabase) -> None:
    replica = await begin(open_database(store_url), poll=NEVER)
    assert replica.sync.available
    assert replica.answer(replica.create()) == 401


async def test_two_replicas_see_each_others_changes(begin: Begin, store_url: str, open_database: OpenDatabase) -> None:
    one, other = await begin(open_database(store_url)), await begin(open_database(store_url))
    key = one.create()
    await until(lambda: other.answer(key) == 200)
    rotated = other.repository.rotate(key.public_id, now=time.time()).key
    await until(lambda: one.answer(rotated) == 200)
    await until(lambda: (one.answer(key), other.answer(key)) == (401, 401))
    one.repository.revoke(key.public_id, now=time.time())
    await until(lambda: (one.answer(rotated), other.answer(rotated)) == (401, 401))
    await until(lambda: one.gone == other.gone == [{key.public_id}])


async def test_a_nudge_is_a_look_at_once(begin: Begin, database: Database) -> None:
    replica = await begin(database, poll=NEVER)
    key = replica.create()
    assert replica.answer(key) == 401
    replica.sync.nudge()
    await until(lambda: replica.answer(key) == 200)


async def test_refresh_means_that_what_is_committed_is_known(begin: Begin, database: Database) -> None:
    replica = await begin(database, poll=NEVER)
    for _ in range(10):
        key = replica.create()
        assert await replica.sync.refresh(30.0)
        assert replica.answer(key) == 200


class SlowRepository(KeyRepository):
    """Reads at once, and tells it when it may."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, PEPPER)
        self.reads = 0
        self.may_return = threading.Event()
        self.may_return.set()

    def changes_since(self, revision: int | None) -> KeyChanges:
        changes = super().changes_since(revision)
        self.reads += 1
        assert self.may_return.wait(30)
        return changes


async def test_refresh_is_not_content_with_a_look_that_began_before(begin: Begin, sqlite_database: Database) -> None:
    repository = SlowRepository(sqlite_database)
    replica = await begin(sqlite_database, poll=NEVER, repository=repository)
    repository.may_return.clear()
    replica.sync.nudge()
    await until(lambda: repository.reads == 2)
    key = replica.create()
    refreshing = asyncio.ensure_future(replica.sync.refresh(30.0))
    await asyncio.sleep(0)
    repository.may_return.set()
    assert await refreshing
    assert replica.answer(key) == 200


async def test_the_event_loop_goes_on_while_the_store_does_not_answer(
    begin: Begin, sqlite_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    repository = SlowRepository(sqlite_database)
    replica = await begin(sqlite_database, repository=repository, patience=0.05, recent=0.2)
    known = replica.create()
    await until(lambda: replica.answer(known) == 200)
    repository.may_return.clear()
    await until(lambda: not replica.sync.available)
    stranger = known._replace(secret="A" * 43)
    await until(lambda: replica.answer(stranger) == 503)
    assert replica.answer(known) == 200
    reads = repository.reads
    await asyncio.sleep(0.2)
    # One look waits; no others pile up behind it.
    assert repository.reads == reads
    assert not await replica.sync.refresh(0.05)
    repository.may_return.set()
    await until(lambda: replica.answer(stranger) == 401)
    assert replica.available == [True, False, True]
    assert [line.partition(":")[0] for line in messages(caplog)] == ["store unavailable", "store recovered"]


async def test_a_locked_store_can_still_be_read(begin: Begin, sqlite_database: Database) -> None:
    replica = await begin(sqlite_database)
    assert sqlite_database.path is not None
    other = sqlite3.connect(sqlite_database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert await replica.sync.refresh(30.0)
    other.execute("ROLLBACK")
    other.close()


async def test_a_store_that_goes_away(
    begin: Begin, sqlite_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    replica = await begin(sqlite_database, recent=0.2)
    known = replica.create()
    await until(lambda: replica.answer(known) == 200)
    path = sqlite_database.path
    assert path is not None
    path.rename(path.with_suffix(".away"))
    await until(lambda: not replica.sync.available)
    await until(lambda: replica.answer(known._replace(secret="A" * 43)) == 503)
    assert replica.answer(known) == 200
    path.with_suffix(".away").rename(path)
    await until(lambda: replica.answer(known._replace(secret="A" * 43)) == 401)
    assert [line.partition(":")[0] for line in messages(caplog)] == ["store unavailable", "store recovered"]


async def test_a_gateway_may_start_before_its_store(begin: Begin, tmp_path: Path, open_database: OpenDatabase) -> None:
    folder = tmp_path / "not yet"
    folder.write_text("in the way")
    replica = await begin(open_database(f"sqlite:///{folder / 'sluice.db'}"))
    key = KeyParts("a" * 16, "A" * 43)
    assert not replica.sync.available
    assert replica.answer(key) == 503
    folder.unlink()
    await until(lambda: replica.sync.available)
    assert replica.answer(key) == 401


async def test_with_another_secret_nobody_is_told_401(
    begin: Begin, sqlite_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    key = KeyRepository(sqlite_database, PEPPER).create(KeyGrant(name="x"), by="me", now=1.0).key
    other = DeploymentSecret("quite another secret, as long as it must be")
    replica = await begin(sqlite_database, secret=other)
    assert replica.answer(key) == 503
    assert "another deployment secret" in messages(caplog)[0]


async def test_a_bug_in_a_hook_does_not_end_the_looking(
    begin: Begin, sqlite_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    replica = await begin(sqlite_database)

    class Broken(list[int]):
        def append(self, count: int) -> None:
            raise RuntimeError

    caplog.set_level(logging.CRITICAL, logger=LOGGER)
    replica.sync._hooks = SyncHooks(on_keys=Broken().append)
    key = replica.create()
    await until(lambda: replica.answer(key) == 200)
    replica.sync._hooks = SyncHooks()
    await until(lambda: replica.sync.available)


async def test_keys_that_expire_are_told_without_any_change(begin: Begin, sqlite_database: Database) -> None:
    replica = await begin(sqlite_database)
    key = replica.create(expires_at=time.time() + 0.3)
    await until(lambda: replica.gone == [{key.public_id}])
    assert replica.answer(key) == 401


async def test_concurrent_rotation_and_use(begin: Begin, database: Database) -> None:
    """While a key is rotated with an overlap, whoever has the newest secret that was handed out is let in."""
    replica = await begin(database)
    key = replica.create()
    await until(lambda: replica.answer(key) == 200)
    stop = threading.Event()
    newest = [key]

    def rotate() -> None:
        for _ in range(20):
            made = replica.repository.rotate(key.public_id, overlap=600, now=time.time()).key
            # Handed out once the replica knows it; until then the one before is in its overlap.
            while not stop.is_set() and replica.answer(made) != 200:
                time.sleep(0.001)
            newest.append(made)

    rotating = asyncio.get_running_loop().run_in_executor(None, rotate)
    answers = set()
    try:
        while not rotating.done():
            answers.add(replica.answer(newest[-1]))
            await asyncio.sleep(0.001)
    finally:
        stop.set()
        await rotating
    assert answers == {200}
    assert len(newest) == 21


async def test_it_stops_while_the_store_does_not_answer(begin: Begin, sqlite_database: Database) -> None:
    repository = SlowRepository(sqlite_database)
    replica = await begin(sqlite_database, repository=repository)
    repository.may_return.clear()
    reads = repository.reads
    await until(lambda: repository.reads > reads)
    async with asyncio.timeout(30):
        await replica.sync.stop()
        await replica.sync.stop()
    repository.may_return.set()


@pytest.mark.slow
async def test_a_hundred_thousand_keys(
    begin: Begin, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read and prepared on the sync's thread; a change is then a matter of one row."""
    repository = KeyRepository(sqlite_database, PEPPER)
    first = repository.create(KeyGrant(name="x"), by="me", now=1.0)
    with sqlite_database.begin() as connection:
        row = dict(connection.execute(select(keys)).one()._mapping)
        connection.execute(insert(keys), [{**row, "id": f"{number:016d}"} for number in range(100_000)])
    threads = []

    def watched(changes: KeyChanges) -> News:
        threads.append(threading.current_thread().name)
        return build(changes)

    monkeypatch.setattr("gateway.access.keysync.build", watched)
    replica = await begin(sqlite_database, poll=NEVER, patience=120.0)
    assert len(replica.ring) == 100_001
    assert replica.answer(first.key) == 200
    assert set(threads) == {"sluice-keys-0"}
    news = repository.changes_since(replica.ring.revision)
    assert news.records == []
    repository.revoke(first.record.id, now=2.0)
    assert len(repository.changes_since(replica.ring.revision).records) == 1
    assert await replica.sync.refresh(60.0)
    assert replica.answer(first.key) == 401


@pytest.mark.slow
async def test_a_frozen_and_a_restarted_server(begin: Begin, open_database: OpenDatabase) -> None:
    with postgres() as server:
        replica = await begin(open_database(server.new_database(), timeout=2.0), patience=0.3, recent=1.0)
        known = replica.create()
        stranger = known._replace(secret="A" * 43)
        await until(lambda: (replica.answer(known), replica.answer(stranger)) == (200, 401))
        server.freeze()
        await until(lambda: replica.answer(stranger) == 503)
        assert (replica.sync.available, replica.answer(known)) == (False, 200)
        server.thaw()
        await until(lambda: replica.answer(stranger) == 401)
        server.stop()
        await until(lambda: replica.answer(stranger) == 503)
        assert replica.answer(known) == 200
        server.start()
        await until(lambda: (replica.answer(known), replica.answer(stranger)) == (200, 401))
        new = replica.create()
        await until(lambda: replica.answer(new) == 200)
