"""Responses that are kept: one row each, with everything that the model was told. Blocks: never on the event loop."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, insert, select

from gateway.store.database import Database
from gateway.store.tables import responses

_PURGE_BATCH = 500


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """``document`` is the response, ``items`` the list of everything before its output, both JSON. Times are Unix
    seconds.
    """

    id: str
    tenant: str
    created_at: float
    expires_at: float
    document: bytes
    items: bytes


class ResponseRepository:
    """Reads and writes them. Everything may raise :class:`~gateway.store.database.StoreUnavailable`."""

    def __init__(self, database: Database, *, max_per_tenant: int) -> None:
        self._database = database
        self._max_per_tenant = max_per_tenant

    def keep(self, kept: KeptResponse) -> None:
        """Write one; of a tenant that has too many the oldest are forgotten."""
        surplus = (
            select(responses.c.id)
            .where(responses.c.tenant == kept.tenant)
            .order_by(responses.c.created_at.desc(), responses.c.id)
            .offset(self._max_per_tenant)
            .limit(_PURGE_BATCH)
        )
        with self._database.begin() as connection:
            connection.execute(
                insert(responses).values(
                    id=kept.id,
                    tenant=kept.tenant,
                    created_at=kept.created_at,
                    expires_at=kept.expires_at,
                    document=kept.document,
                    items=kept.items,
                )
            )
            ids = connection.execute(surplus).scalars().all()
            if ids:
                connection.execute(delete(responses).where(responses.c.id.in_(ids)))

    def find(self, response_id: str, tenant: str, now: float) -> KeptResponse | None:
        """The tenant's response, unless it has expired at ``now``."""
        query = select(responses).where(
            responses.c.id == response_id, responses.c.tenant == tenant, responses.c.expires_at > now
        )
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        return KeptResponse(row.id, row.tenant, row.created_at, row.expires_at, bytes(row.document), bytes(row.items))

    def forget(self, response_id: str, tenant: str, now: float) -> bool:
        """Delete the tenant's response; whether there was one that had not expired at ``now``."""
        mine = (responses.c.id == response_id) & (responses.c.tenant == tenant) & (responses.c.expires_at > now)
        with self._database.begin() as connection:
            return connection.execute(delete(responses).where(mine)).rowcount > 0

    def purge(self, now: float) -> int:
        """Delete what has expired at ``now``, some at a time; how many there were."""
        total = 0
        while True:
            expired = select(responses.c.id).where(responses.c.expires_at <= now).limit(_PURGE_BATCH)
            with self._database.begin() as connection:
                count = connection.execute(delete(responses).where(responses.c.id.in_(expired))).rowcount
            total += count
            if count < _PURGE_BATCH:
                return total
