"""The keys in the database: the one place that reads and writes their table.

Every change raises the revision of the topic ``keys`` in its own transaction and stamps the row with it, so a reader
that remembers a revision asks for what came after. The counter's row is locked until the commit: revisions become
visible in their order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, insert, or_, select, update

from gateway.access.keys import KeyParts, key_digest, new_key, new_secret
from gateway.access.principal import DEFAULT_TENANT, Scope
from gateway.limits.quota import UNLIMITED, Quota
from gateway.store.database import Database
from gateway.store.revisions import current_revision, next_revision
from gateway.store.tables import keys

log = logging.getLogger("sluice.keys")

TOPIC: Final = "keys"
MAX_PAGE: Final = 1000
_BATCH: Final = 2000


class KeyNotFound(Exception):
    """No key has this id."""


class KeyRevoked(Exception):
    """The key was revoked, which is final."""


@dataclass(frozen=True, slots=True)
class KeyGrant:
    """What a key is called and what it may do, as in :class:`~gateway.access.principal.Principal`."""

    name: str
    tenant: str = DEFAULT_TENANT
    scopes: frozenset[Scope] = frozenset((Scope.INFERENCE, Scope.READ_ONLY))
    models: frozenset[str] | None = None
    adapters: frozenset[str] | None = None
    quota: Quota = UNLIMITED
    weight: float = 1.0
    labels: Mapping[str, str] = field(default_factory=dict)
    guard_policy: str | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A row of the table. Times are Unix seconds; the digests are for the check of keys and appear nowhere else."""

    id: str
    grant: KeyGrant
    created_at: float
    created_by: str
    rotated_at: float | None
    revoked_at: float | None
    previous_until: float | None
    revision: int
    digest: bytes = field(repr=False)
    previous_digest: bytes | None = field(repr=False)

    def status(self, now: float) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.grant.expires_at is not None and self.grant.expires_at <= now else "active"


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A new key, or a new secret of an old one: the only time that ``key`` is known."""

    record: KeyRecord
    key: KeyParts


@dataclass(frozen=True, slots=True)
class KeyPage:
    """Part of a list, newest first."""

    records: list[KeyRecord]
    has_more: bool


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """What changed up to ``revision``; with ``complete`` it is everything there is.

    ``unreadable`` are the ids of rows that this program does not understand: they must not hold up the others.
    """

    revision: int
    records: list[KeyRecord]
    complete: bool
    unreadable: tuple[str, ...] = ()


Check = Callable[[KeyRecord], None]
"""Looks at a key before it is changed and raises if it must not be."""


def anything_goes(record: KeyRecord) -> None:
    """A :class:`Check` for those who may do everything: whoever can open the database."""


class KeyRepository:
    """``pepper`` keys the hashes. Methods block and raise :class:`~gateway.store.database.StoreUnavailable`."""

    def __init__(self, database: Database, pepper: bytes) -> None:
        self._database = database
        self._pepper = pepper

    def create(self, grant: KeyGrant, *, by: str, now: float) -> MadeKey:
        """Make a key; ``by`` is who asked for it."""
        key = new_key()
        with self._database.begin() as connection:
            row = {
                **_columns(grant),
                "id": key.public_id,
                "secret_hash": key_digest(self._pepper, key).hex(),
                "created_at": now,
                "created_by": by,
                "revision": next_revision(connection, TOPIC),
            }
            connection.execute(insert(keys).values(row))
            return MadeKey(_locked(connection, key.public_id), key)

    def get(self, key_id: str) -> KeyRecord:
        """The key, revoked or not. Raises :class:`KeyNotFound`."""
        with self._database.read() as connection:
            return _found(connection.execute(select(keys).where(keys.c.id == key_id)).one_or_none())

    def list(
        self, *, tenant: str | None = None, revoked: bool = False, after: str | None = None, limit: int = 100
    ) -> KeyPage:
        """A page, newest first, of at most ``limit`` (1 to 1000) keys, from behind the key ``after``.

        Raises :class:`KeyNotFound` for an ``after`` that is no key.
        """
        limit = max(1, min(limit, MAX_PAGE))
        query = select(keys).order_by(keys.c.created_at.desc(), keys.c.id.desc()).limit(limit + 1)
        if tenant is not None:
            query = query.where(keys.c.tenant == tenant)
        if not revoked:
            query = query.where(keys.c.revoked_at.is_(None))
        with self._database.read() as connection:
            if after is not None:
                last = _found(connection.execute(select(keys).where(keys.c.id == after)).one_or_none())
                query = query.where(
                    or_(
                        keys.c.created_at < last.created_at,
                        and_(keys.c.created_at == last.created_at, keys.c.id < last.id),
                    )
                )
            records = [_record(row) for row in connection.execute(query)]
        return KeyPage(records[:limit], has_more=len(records) > limit)

    def rotate(self, key_id: str, *, overlap: float = 0.0, now: float, check: Check = anything_goes) -> MadeKey:
        """Put a new secret in the place of the old one, which goes on working for ``overlap`` seconds.

        The id stays, and all that is counted on it. Raises :class:`KeyNotFound`, :class:`KeyRevoked`, and what
        ``check`` raises.
        """
        key = KeyParts(key_id, new_secret())
        with self._database.begin() as connection:
            before = _alive(_locked(connection, key_id))
            check(before)
            record = _change(
                connection,
                key_id,
                {
                    "secret_hash": key_digest(self._pepper, key).hex(),
                    "previous_hash": before.digest.hex() if overlap > 0 else None,
                    "previous_until": now + overlap if overlap > 0 else None,
                    "rotated_at": now,
                },
            )
            return MadeKey(record, key)

    def revoke(self, key_id: str, *, now: float, check: Check = anything_goes) -> KeyRecord:
        """End the key for good; one that was revoked stays as it is. Raises :class:`KeyNotFound`."""
        with self._database.begin() as connection:
            before = _locked(connection, key_id)
            check(before)
            if before.revoked_at is not None:
                return before
            return _change(connection, key_id, {"revoked_at": now, "previous_hash": None, "previous_until": None})

    def update(self, key_id: str, change: Callable[[KeyRecord], KeyGrant]) -> KeyRecord:
        """Give the key what ``change`` makes of it, atomically; what ``change`` raises leaves it as it was.

        Raises :class:`KeyNotFound`, :class:`KeyRevoked`.
        """
        with self._database.begin() as connection:
            before = _alive(_locked(connection, key_id))
            return _change(connection, key_id, _columns(change(before)))

    def changes_since(self, revision: int | None) -> KeyChanges:
        """What a reader who knows ``revision`` must learn; everything if it is None, or from another history."""
        with self._database.read() as connection:
            current = current_revision(connection, TOPIC)
            if current == revision:
                return KeyChanges(current, [], complete=False)
            query = select(keys).execution_options(yield_per=_BATCH)
            # A revision from the future: the database was put back to an earlier state.
            complete = revision is None or revision > current
            if not complete:
                query = query.where(keys.c.revision > revision)
            records, unreadable = _readable(connection.execute(query))
        return KeyChanges(current, records, complete, unreadable)


def _locked(connection: Connection, key_id: str) -> KeyRecord:
    return _found(connection.execute(select(keys).where(keys.c.id == key_id).with_for_update()).one_or_none())


def _found(row: Row[Any] | None) -> KeyRecord:
    if row is None:
        raise KeyNotFound
    return _record(row)


def _alive(record: KeyRecord) -> KeyRecord:
    if record.revoked_at is not None:
        raise KeyRevoked
    return record


def _change(connection: Connection, key_id: str, values: Mapping[str, Any]) -> KeyRecord:
    stamped = {**values, "revision": next_revision(connection, TOPIC)}
    changed = connection.execute(update(keys).where(keys.c.id == key_id).values(stamped).returning(keys))
    return _record(changed.one())


def _columns(grant: KeyGrant) -> dict[str, Any]:
    return {
        "name": grant.name,
        "tenant": grant.tenant,
        "scopes": sorted(scope.value for scope in grant.scopes),
        "models": _sorted(grant.models),
        "adapters": _sorted(grant.adapters),
        "quota": grant.quota.as_dict(),
        "weight": grant.weight,
        "labels": dict(grant.labels),
        "guard_policy": grant.guard_policy,
        "expires_at": grant.expires_at,
    }


def _sorted(names: Iterable[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)


class _Shared:
    """Equal values of many keys as one object: most keys differ in little more than id and hash."""

    def __init__(self) -> None:
        self._values: dict[Any, Any] = {}

    def __call__(self, value: Any) -> Any:
        return self._values.setdefault(value, value)

    def labels(self, labels: dict[str, str]) -> Mapping[str, str]:
        found: Mapping[str, str] = self._values.setdefault(tuple(sorted(labels.items())), labels)
        return found


def _record(row: Row[Any], shared: _Shared | None = None) -> KeyRecord:
    shared = shared or _Shared()
    grant = KeyGrant(
        name=row.name,
        tenant=shared(row.tenant),
        scopes=shared(frozenset(Scope(name) for name in row.scopes)),
        models=shared(_names(row.models)),
        adapters=shared(_names(row.adapters)),
        quota=shared(Quota.from_dict(row.quota)),
        weight=float(row.weight),  # SQLite returns a whole number as an integer
        labels=shared.labels(row.labels),
        guard_policy=row.guard_policy,
        expires_at=row.expires_at,
    )
    return KeyRecord(
        id=row.id,
        grant=grant,
        created_at=row.created_at,
        created_by=shared(row.created_by),
        rotated_at=row.rotated_at,
        revoked_at=row.revoked_at,
        previous_until=row.previous_until,
        revision=row.revision,
        digest=bytes.fromhex(row.secret_hash),
        previous_digest=bytes.fromhex(row.previous_hash) if row.previous_hash else None,
    )


def _readable(rows: Iterable[Row[Any]]) -> tuple[list[KeyRecord], tuple[str, ...]]:
    """The records in ``rows``, and the ids of those that were written by hand or by another version."""
    shared = _Shared()
    records: list[KeyRecord] = []
    unreadable: list[str] = []
    for row in rows:
        try:
            records.append(_record(row, shared))
        except (ValueError, TypeError, AttributeError) as error:
            log.error("key %s does not work: its row in the store cannot be read: %s", row.id, error)
            unreadable.append(row.id)
    return records, tuple(unreadable)


def _names(names: Iterable[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
