"""Registered adapters in the database: the one place that reads and writes their table. Few rows: always read whole."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.adapters.desired import Desired
from gateway.adapters.sources import Source
from gateway.store.database import Database
from gateway.store.tables import adapters


class AdapterRepository:
    """See :class:`gateway.adapters.desired.AdapterRecords`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Desired]:
        """Every registered adapter. Raises :class:`~gateway.store.database.StoreUnavailable`."""
        with self._database.read() as connection:
            return [_desired(row) for row in connection.execute(select(adapters).order_by(adapters.c.name))]

    def put(self, desired: Desired) -> None:
        """Add one or replace the one of its name. Raises :class:`~gateway.store.database.StoreUnavailable`."""
        row = _row(desired)
        with self._database.begin() as connection:
            dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
            added = dialect.insert(adapters).values(row)
            connection.execute(added.on_conflict_do_update(index_elements=["name"], set_=row))

    def remove(self, name: str) -> None:
        """Idempotent. Raises :class:`~gateway.store.database.StoreUnavailable`."""
        with self._database.begin() as connection:
            connection.execute(delete(adapters).where(adapters.c.name == name))


def _row(desired: Desired) -> dict[str, Any]:
    return {
        "name": desired.name,
        "model": desired.model,
        "source": desired.source.text,
        "source_sha256": desired.source.sha256,
        "source_revision": desired.source.revision,
        "sha256": desired.sha256,
        "tenant": desired.tenant,
        "pinned": desired.pinned,
        "enabled": desired.enabled,
        "created_at": desired.created,
        "created_by": desired.created_by,
    }


def _desired(row: Row[Any]) -> Desired:
    return Desired(
        row.name,
        row.model,
        Source(row.source, row.source_sha256, row.source_revision),
        "registered",
        row.sha256,
        row.tenant,
        bool(row.pinned),
        bool(row.enabled),
        float(row.created_at),
        row.created_by,
    )
