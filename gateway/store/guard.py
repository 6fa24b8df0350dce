"""The guard's policies that an administrator set, in the database: one document for the whole deployment.

Every change raises the revision of the topic ``guard`` in its own transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store.database import Database
from gateway.store.revisions import current_revision, next_revision
from gateway.store.tables import facts

TOPIC: Final = "guard"
_FACT: Final = "guard_policies"


@dataclass(frozen=True, slots=True)
class PolicyNews:
    """``document`` None: nobody set any. ``changed`` False: nothing changed since the revision that was asked about."""

    revision: int
    document: str | None = None
    changed: bool = True


class PolicyRepository:
    """Methods block and raise :class:`~gateway.store.database.StoreUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def news(self, known: int | None) -> PolicyNews:
        """The document, if it changed since the revision ``known``."""
        with self._database.read() as connection:
            current = current_revision(connection, TOPIC)
            if current == known:
                return PolicyNews(current, changed=False)
            found = connection.execute(select(facts.c.value).where(facts.c.name == _FACT)).scalar_one_or_none()
        return PolicyNews(current, found)

    def put(self, document: str | None) -> PolicyNews:
        """Keep ``document`` in the place of the one before; None: forget it."""
        with self._database.begin() as connection:
            revision = next_revision(connection, TOPIC)
            if document is None:
                connection.execute(delete(facts).where(facts.c.name == _FACT))
            else:
                dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
                row = dialect.insert(facts).values(name=_FACT, value=document)
                connection.execute(row.on_conflict_do_update(index_elements=["name"], set_={"value": document}))
        return PolicyNews(revision, document)


class MemoryPolicies:
    """See :class:`PolicyRepository`: where there is no store they last as long as the process."""

    def __init__(self) -> None:
        self._now = PolicyNews(0)

    def news(self, known: int | None) -> PolicyNews:
        """See :class:`PolicyRepository`."""
        return PolicyNews(known, changed=False) if known == self._now.revision else self._now

    def put(self, document: str | None) -> PolicyNews:
        """See :class:`PolicyRepository`."""
        self._now = PolicyNews(self._now.revision + 1, document)
        return self._now
