"""The registry in the database: the one place that reads and writes its tables. Few rows: names are read whole.

Every change raises the revision of the topic ``registry`` in its own transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.registry.names import MAX_NAMES, Name
from gateway.registry.outcomes import Key, Tally
from gateway.store.database import Database
from gateway.store.revisions import current_revision, next_revision
from gateway.store.tables import registry, registry_outcomes

log = logging.getLogger("sluice.registry")

TOPIC: Final = "registry"

Change = Callable[[Name | None], Name | None]
"""From what there is (None: nothing) to what there is to be (None: nothing); what it raises leaves all as it was."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Name).decode
_tally = msgspec.json.Decoder(Tally).decode


class TooManyNames(Exception):
    """There are as many names as there may be."""


@dataclass(frozen=True, slots=True)
class RegistryNews:
    """``names`` None: nothing changed since the revision that was asked about."""

    revision: int
    names: tuple[Name, ...] | None


class RegistryRepository:
    """Methods block and raise :class:`~gateway.store.database.StoreUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def news(self, known: int | None) -> RegistryNews:
        """Every name, if anything changed since the revision ``known``."""
        with self._database.read() as connection:
            current = current_revision(connection, TOPIC)
            if current == known:
                return RegistryNews(current, None)
            rows = connection.execute(select(registry).order_by(registry.c.name)).all()
        return RegistryNews(current, tuple(_readable(rows)))

    def get(self, name: str) -> Name | None:
        """One name."""
        with self._database.read() as connection:
            row = connection.execute(select(registry).where(registry.c.name == name)).one_or_none()
        return None if row is None else _decode(row.document)

    def update(self, name: str, change: Change) -> Name | None:
        """Put what ``change`` makes of it in its place, atomically. Raises :class:`TooManyNames`."""
        with self._database.begin() as connection:
            # Its counter's row is locked until the commit: one change of the registry at a time.
            revision = next_revision(connection, TOPIC)
            row = connection.execute(select(registry).where(registry.c.name == name)).one_or_none()
            before = None if row is None else _decode(row.document)
            after = change(before)
            if after is None:
                connection.execute(delete(registry_outcomes).where(registry_outcomes.c.name == name))
            if after != before:
                _write(connection, name, after, revision, new=before is None)
            return after

    # -- what replicas counted ------------------------------------------------------------------------------------

    def report(self, key: Key, replica: str, counted: Mapping[int, Tally]) -> None:
        """Keep what ``replica`` counted so far of the step ``key``; what is known of earlier steps is forgotten."""
        name, epoch = key
        of_name = registry_outcomes.c.name == name
        with self._database.begin() as connection:
            dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
            connection.execute(delete(registry_outcomes).where(of_name, registry_outcomes.c.epoch < epoch))
            for version, tally in counted.items():
                where = {"name": name, "epoch": epoch, "version": version, "replica": replica}
                document = {"document": _encode(tally)}
                row = dialect.insert(registry_outcomes).values(where | document)
                connection.execute(row.on_conflict_do_update(index_elements=list(where), set_=document))

    def tallies(self, key: Key) -> dict[int, Tally]:
        """What all replicas counted of the step ``key``, by version."""
        name, epoch = key
        query = select(registry_outcomes).where(registry_outcomes.c.name == name, registry_outcomes.c.epoch == epoch)
        sums: dict[int, Tally] = {}
        with self._database.read() as connection:
            for row in connection.execute(query):
                sums[row.version] = sums.get(row.version, Tally()).plus(_tally(row.document))
        return sums


def _write(connection: Connection, name: str, after: Name | None, revision: int, *, new: bool) -> None:
    if after is None:
        connection.execute(delete(registry).where(registry.c.name == name))
        return
    values = {"document": _encode(after), "revision": revision}
    if not new:
        connection.execute(update(registry).where(registry.c.name == name).values(values))
        return
    if connection.execute(select(func.count()).select_from(registry)).scalar_one() >= MAX_NAMES:
        raise TooManyNames
    connection.execute(insert(registry).values({"name": name, **values}))


def _readable(rows: Iterable[Row[Any]]) -> Iterable[Name]:
    for row in rows:
        try:
            yield _decode(row.document)
        except msgspec.DecodeError as error:
            log.error("the name %s is not served: its row in the store cannot be read: %s", row.name, error)
