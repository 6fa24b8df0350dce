"""Keys and audit entries as what is told of them, on the wire and in the terminal alike: never a hash."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Any

from gateway.limits.quota import Quota
from gateway.store.audit import AuditRow
from gateway.store.keys import KeyRecord, MadeKey


def key_object(record: KeyRecord) -> dict[str, Any]:
    """As :class:`gateway.protocol.keys.KeyObject` says."""
    grant = record.grant
    return {
        "id": record.id,
        "object": "api_key",
        "status": record.status(time.time()),
        "name": grant.name,
        "tenant": grant.tenant,
        "scopes": sorted(scope.value for scope in grant.scopes),
        "models": None if grant.models is None else sorted(grant.models),
        "adapters": None if grant.adapters is None else sorted(grant.adapters),
        "quota": {each.name: getattr(grant.quota, each.name) for each in fields(Quota)},
        "weight": grant.weight,
        "guard_policy": grant.guard_policy,
        "labels": dict(grant.labels),
        "created_at": int(record.created_at),
        "created_by": record.created_by,
        "rotated_at": _seconds(record.rotated_at),
        "previous_until": _seconds(record.previous_until),
        "expires_at": _seconds(grant.expires_at),
        "revoked_at": _seconds(record.revoked_at),
    }


def made_key_object(made: MadeKey) -> dict[str, Any]:
    """As :class:`gateway.protocol.keys.KeyWithSecret` says: the only place where a whole key is shown."""
    return {**key_object(made.record), "key": made.key.text()}


def audit_object(row: AuditRow) -> dict[str, Any]:
    """As :class:`gateway.protocol.keys.AuditObject` says."""
    entry = row.entry
    return {
        "id": row.id,
        "object": "audit_entry",
        "ts": entry.ts,
        "actor": entry.actor,
        "act": entry.act,
        "target": entry.target,
        "allowed": entry.allowed,
        "detail": dict(entry.detail),
        "client_ip": entry.client_ip,
        "request_id": entry.request_id,
    }


def _seconds(moment: float | None) -> int | None:
    return None if moment is None else int(moment)
