from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from sqlalchemy import select, update

from gateway.access.keys import key_digest
from gateway.access.principal import Scope
from gateway.limits.quota import Quota
from gateway.store.database import Database
from gateway.store.keys import KeyGrant, KeyNotFound, KeyRecord, KeyRepository, KeyRevoked, MadeKey
from gateway.store.tables import keys, revisions

PEPPER = b"p" * 32

FULL = KeyGrant(
    name="it's; DROP TABLE keys --",
    tenant="team-1",
    scopes=frozenset((Scope.INFERENCE, Scope.TRAINING)),
    models=frozenset(("b", "a")),
    adapters=frozenset(),
    quota=Quota(requests_per_minute=0, tokens_per_day=2**53 - 1),
    weight=2.5,
    labels={"ключ": "значение", "x": ""},
    guard_policy="strict",
    expires_at=4_000_000_000.0,
)


@pytest.fixture
def repository(database: Database) -> KeyRepository:
    return KeyRepository(database, PEPPER)


def forbidden(record: KeyRecord) -> None:
    raise PermissionError(record.id)


# -- making and reading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grant", [KeyGrant(name="plain"), FULL], ids=["plain", "full"])
def test_what_was_made_is_what_is_read(repository: KeyRepository, grant: KeyGrant) -> None:
    made = repository.create(grant, by="someone", now=1000.5)
    record = repository.get(made.key.public_id)
    assert record == made.record
    assert record.grant == grant
    assert (record.created_at, record.created_by, record.status(1001.0)) == (1000.5, "someone", "active")
    assert record.digest == key_digest(PEPPER, made.key)


def test_neither_key_nor_hash_is_in_what_could_be_logged(repository: KeyRepository, database: Database) -> None:
    made = repository.create(KeyGrant(name="x"), by="me", now=1.0)
    for shown in (repr(made), repr(made.record), str(made.key)):
        assert made.key.secret not in shown
        assert made.record.digest.hex() not in shown
    with database.read() as connection:
        row = connection.execute(select(keys)).one()
    assert made.key.secret not in str(row)


def test_an_unknown_key_is_not_found(repository: KeyRepository) -> None:
    for act in (
        lambda: repository.get("' OR 1=1 --"),
        lambda: repository.rotate("nobody", now=1.0),
        lambda: repository.revoke("nobody", now=1.0),
        lambda: repository.update("nobody", lambda record: record.grant),
        lambda: repository.list(after="nobody"),
    ):
        with pytest.raises(KeyNotFound):
            act()


# -- listing ----------------------------------------------------------------------------------------------------------


def test_pages_hold_every_key_once_and_newest_first(repository: KeyRepository) -> None:
    # Several in one moment: the id decides.
    made = [repository.create(KeyGrant(name=str(i)), by="me", now=float(i // 3)).record for i in range(10)]
    wanted = [record.id for record in sorted(made, key=lambda record: (record.created_at, record.id), reverse=True)]
    found: list[str] = []
    more = True
    while more:
        page = repository.list(after=found[-1] if found else None, limit=3)
        assert len(page.records) <= 3
        found += [record.id for record in page.records]
        more = page.has_more
    assert found == wanted


def test_lists_are_of_a_tenant_and_without_the_revoked(repository: KeyRepository) -> None:
    ours = repository.create(KeyGrant(name="a", tenant="ours"), by="me", now=1.0).record.id
    gone = repository.create(KeyGrant(name="b", tenant="ours"), by="me", now=2.0).record.id
    theirs = repository.create(KeyGrant(name="c", tenant="theirs"), by="me", now=3.0).record.id
    repository.revoke(gone, now=4.0)
    assert [record.id for record in repository.list().records] == [theirs, ours]
    assert [record.id for record in repository.list(tenant="ours").records] == [ours]
    assert [record.id for record in repository.list(tenant="ours", revoked=True).records] == [gone, ours]
    assert repository.list(tenant="' OR 1=1 --").records == []


# -- changing ---------------------------------------------------------------------------------------------------------


def test_rotation_keeps_everything_but_the_secret(repository: KeyRepository) -> None:
    made = repository.create(FULL, by="me", now=1.0)
    rotated = repository.rotate(made.key.public_id, now=50.0)
    assert rotated.key.public_id == made.key.public_id
    assert rotated.key.secret != made.key.secret
    assert rotated.record == replace(
        made.record,
        digest=key_digest(PEPPER, rotated.key),
        rotated_at=50.0,
        revision=made.record.revision + 1,
    )


def test_rotation_with_an_overlap_keeps_the_secret_of_before_for_so_long(repository: KeyRepository) -> None:
    made = repository.create(KeyGrant(name="x"), by="me", now=1.0)
    first = repository.rotate(made.key.public_id, overlap=60, now=50.0)
    assert (first.record.previous_digest, first.record.previous_until) == (made.record.digest, 110.0)
    second = repository.rotate(made.key.public_id, overlap=60, now=60.0)
    assert second.record.previous_digest == first.record.digest
    third = repository.rotate(made.key.public_id, now=70.0)
    assert (third.record.previous_digest, third.record.previous_until) == (None, None)


def test_revocation_is_final_and_happens_once(repository: KeyRepository) -> None:
    key_id = repository.create(KeyGrant(name="x"), by="me", now=1.0).record.id
    repository.rotate(key_id, overlap=1000, now=2.0)
    revoked = repository.revoke(key_id, now=3.0)
    assert (revoked.revoked_at, revoked.previous_digest, revoked.status(3.0)) == (3.0, None, "revoked")
    assert repository.revoke(key_id, now=4.0) == revoked
    with pytest.raises(KeyRevoked):
        repository.rotate(key_id, now=5.0)
    with pytest.raises(KeyRevoked):
        repository.update(key_id, lambda record: record.grant)


def test_an_update_replaces_what_the_key_may_do(repository: KeyRepository) -> None:
    made = repository.create(KeyGrant(name="x"), by="me", now=1.0)
    changed = repository.update(made.record.id, lambda record: FULL)
    assert changed == replace(made.record, grant=FULL, revision=made.record.revision + 1)
    assert repository.get(made.record.id) == changed


def test_what_is_forbidden_changes_nothing(repository: KeyRepository) -> None:
    before = repository.create(KeyGrant(name="x"), by="me", now=1.0).record

    def no_change(record: KeyRecord) -> KeyGrant:
        raise PermissionError

    for act in (
        lambda: repository.rotate(before.id, now=2.0, check=forbidden),
        lambda: repository.revoke(before.id, now=2.0, check=forbidden),
        lambda: repository.update(before.id, no_change),
    ):
        with pytest.raises(PermissionError):
            act()
    assert repository.get(before.id) == before
    assert repository.changes_since(before.revision).records == []


def test_rotations_at_once_leave_exactly_one_secret(repository: KeyRepository, database: Database) -> None:
    key_id = repository.create(KeyGrant(name="x"), by="me", now=1.0).record.id
    made: list[MadeKey] = []

    def rotate() -> None:
        made.extend(repository.rotate(key_id, overlap=60, now=2.0) for _ in range(5))

    threads = [threading.Thread(target=rotate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    by_revision = sorted(made, key=lambda each: each.record.revision)
    assert [each.record.revision for each in by_revision] == list(range(2, 22))
    last, before = by_revision[-1], by_revision[-2]
    assert repository.get(key_id) == last.record
    # Each rotation saw the one before it.
    assert last.record.previous_digest == before.record.digest == key_digest(PEPPER, before.key)


# -- what readers learn -----------------------------------------------------------------------------------------------


def test_a_reader_learns_every_change_once(repository: KeyRepository) -> None:
    first = repository.changes_since(None)
    assert (first.revision, first.records, first.complete) == (0, [], True)
    a = repository.create(KeyGrant(name="a"), by="me", now=1.0).record
    b = repository.create(KeyGrant(name="b"), by="me", now=1.0).record
    news = repository.changes_since(first.revision)
    assert (news.revision, {record.id for record in news.records}, news.complete) == (2, {a.id, b.id}, False)
    assert repository.changes_since(2).records == []
    gone = repository.revoke(a.id, now=2.0)
    news = repository.changes_since(2)
    assert (news.revision, news.records) == (3, [gone])
    assert {record.id for record in repository.changes_since(None).records} == {a.id, b.id}


def test_another_replica_sees_the_changes(store_url: str, database: Database) -> None:
    one, other = KeyRepository(database, PEPPER), KeyRepository(Database(store_url), PEPPER)
    made = one.create(KeyGrant(name="a"), by="me", now=1.0)
    assert other.changes_since(0).records == [made.record]
    rotated = other.rotate(made.record.id, now=2.0)
    assert one.changes_since(1).records == [rotated.record]


def test_a_store_put_back_to_an_earlier_state_is_read_anew(repository: KeyRepository, database: Database) -> None:
    record = repository.create(KeyGrant(name="a"), by="me", now=1.0).record
    repository.update(record.id, lambda each: replace(each.grant, name="b"))
    with database.begin() as connection:
        connection.execute(update(revisions).values(value=1))
        connection.execute(update(keys).values(name="a", revision=1))
    news = repository.changes_since(2)
    assert (news.revision, news.records, news.complete) == (1, [record], True)


def test_a_change_that_is_not_committed_is_not_seen(repository: KeyRepository, database: Database) -> None:
    before = repository.create(KeyGrant(name="a"), by="me", now=1.0).record

    def looked_at(record: KeyRecord) -> KeyGrant:
        assert repository.changes_since(before.revision).records == []
        return replace(record.grant, name="b")

    changed = repository.update(before.id, looked_at)
    assert repository.changes_since(before.revision).records == [changed]


@pytest.mark.parametrize(
    "damage", [{"scopes": ["of the future"]}, {"quota": {"per_fortnight": 1}}, {"secret_hash": "xyz"}, {"labels": 5}]
)
def test_a_row_that_cannot_be_read_does_not_hold_up_the_others(
    repository: KeyRepository, database: Database, damage: dict[str, object]
) -> None:
    good, bad = (repository.create(KeyGrant(name=name), by="me", now=1.0).record for name in ("good", "bad"))
    with database.begin() as connection:
        connection.execute(update(keys).where(keys.c.id == bad.id).values(damage))
    news = repository.changes_since(None)
    assert (news.records, news.unreadable) == ([good], (bad.id,))
