"""Making and changing keys: what may be done by whom, and that it is written down. Blocks on the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gateway.access.grants import POWERS, changed_fields, changed_grant, new_grant, require_within
from gateway.access.principal import Principal
from gateway.errors import ApiError, key_not_found, key_revoked
from gateway.protocol.keys import KeyChange, KeyCreate, KeyRotation
from gateway.store.audit import AuditEntry
from gateway.store.keys import KeyGrant, KeyNotFound, KeyRecord, KeyRepository, KeyRevoked, MadeKey


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. ``owner``: of the whole deployment, through its configuration or its machine."""

    principal: Principal
    owner: bool
    address: str | None = None
    request_id: str | None = None

    def entry(self, at: float, act: str, target: str | None, detail: dict[str, Any], *, allowed: bool) -> AuditEntry:
        """The row that says that this caller did, or was not allowed, ``act`` at Unix time ``at``."""
        return AuditEntry(
            ts=at,
            actor=self.principal.id,
            act=act,
            allowed=allowed,
            target=target,
            detail=detail,
            client_ip=self.address,
            request_id=self.request_id,
        )


class KeyAdministration:
    """Every act and every denial goes to ``record``. ``wall`` is Unix time in seconds.

    Methods raise :class:`~gateway.errors.ApiError` 400, 403, 404 and 409, and
    :class:`~gateway.store.database.StoreUnavailable`.
    """

    def __init__(
        self,
        repository: KeyRepository,
        record: Callable[[AuditEntry], None],
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._record = record
        self._wall = wall

    def create(self, caller: Caller, request: KeyCreate) -> MadeKey:
        """Make a key within the caller's own powers."""
        now = self._wall()
        principal = caller.principal
        with self._told(caller, "key.create", None):
            grant = new_grant(request, tenant=principal.tenant, guard_policy=principal.guard_policy, now=now)
            require_within(principal, grant, POWERS, owner=caller.owner)
            made = self._repository.create(grant, by=principal.id, now=now)
        self._note(caller, "key.create", made.record.id, {"name": grant.name, "tenant": grant.tenant})
        return made

    def update(self, caller: Caller, key_id: str, request: KeyChange) -> KeyRecord:
        """Change a key; what is changed must end within the caller's own powers."""
        fields = changed_fields(request)

        def change(record: KeyRecord) -> KeyGrant:
            grant = changed_grant(request, record.grant, now=self._wall())
            require_within(caller.principal, grant, fields, owner=caller.owner)
            return grant

        with self._told(caller, "key.update", key_id):
            record = self._repository.update(key_id, change)
        self._note(caller, "key.update", key_id, {"fields": sorted(fields)})
        return record

    def rotate(self, caller: Caller, key_id: str, request: KeyRotation) -> MadeKey:
        """Give a key a new secret, which the caller learns: so the whole key must be within the caller's powers."""

        def check(record: KeyRecord) -> None:
            require_within(caller.principal, record.grant, POWERS, owner=caller.owner)

        with self._told(caller, "key.rotate", key_id):
            made = self._repository.rotate(key_id, overlap=request.overlap_seconds, now=self._wall(), check=check)
        self._note(caller, "key.rotate", key_id, {"overlap_seconds": request.overlap_seconds})
        return made

    def revoke(self, caller: Caller, key_id: str) -> KeyRecord:
        """End a key for good. Any administrator may, also where the key could do more than its revoker."""
        with self._told(caller, "key.revoke", key_id):
            record = self._repository.revoke(key_id, now=self._wall())
        self._note(caller, "key.revoke", key_id, {})
        return record

    @contextmanager
    def _told(self, caller: Caller, act: str, key_id: str | None) -> Iterator[None]:
        """Faults of the repository as answers; denials recorded."""
        try:
            yield
        except KeyNotFound:
            raise key_not_found() from None
        except KeyRevoked:
            raise key_revoked() from None
        except ApiError as error:
            if error.status == 403:
                detail = {"code": error.code, "param": error.body.param}
                self._note(caller, act, key_id, detail, allowed=False)
            raise

    def _note(
        self, caller: Caller, act: str, key_id: str | None, detail: dict[str, Any], *, allowed: bool = True
    ) -> None:
        self._record(caller.entry(self._wall(), act, key_id, detail, allowed=allowed))
