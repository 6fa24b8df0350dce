"""Counters that say that something changed: one per topic, raised in the transaction that changes a row."""

from __future__ import annotations

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store.tables import revisions


def next_revision(connection: Connection, topic: str) -> int:
    """Raise the counter; its row stays locked until the end of the transaction, so revisions appear in their order."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    first = dialect.insert(revisions).values(topic=topic, value=1)
    raised = first.on_conflict_do_update(index_elements=["topic"], set_={"value": revisions.c.value + 1})
    return int(connection.execute(raised.returning(revisions.c.value)).scalar_one())


def current_revision(connection: Connection, topic: str) -> int:
    """The counter; 0 before the first change."""
    return connection.execute(select(revisions.c.value).where(revisions.c.topic == topic)).scalar() or 0
