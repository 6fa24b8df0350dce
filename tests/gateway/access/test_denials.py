from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.access.denials import DENIED, QUIET_SECONDS, DenialAudit
from gateway.access.principal import Principal, Scope
from gateway.errors import ApiError, invalid_api_key
from gateway.store.audit import AuditEntry

FORBIDDEN = ApiError(403, "no", code="insufficient_scope")


@pytest.fixture
def entries() -> list[AuditEntry]:
    return []


def exchange(actor: str | None = "k" * 16, path: str = "/v1/admin/keys", address: str = "10.0.0.1") -> Any:
    principal = Principal(actor, frozenset()) if actor else None
    route = SimpleNamespace(method="POST", path=path)
    return SimpleNamespace(principal=principal, route=route, address=address, path_rest="", request_id="req-1")


def test_a_denial_is_recorded(entries: list[AuditEntry]) -> None:
    DenialAudit(entries.append)(exchange(), Scope.ADMIN, FORBIDDEN)
    (entry,) = entries
    assert (entry.actor, entry.act, entry.allowed, entry.client_ip) == ("k" * 16, DENIED, False, "10.0.0.1")
    assert entry.detail == {"route": "POST /v1/admin/keys", "scope": "admin", "code": "insufficient_scope"}


def test_wrong_keys_count_at_admin_routes_only(entries: list[AuditEntry]) -> None:
    denials = DenialAudit(entries.append)
    denials(exchange(None), Scope.INFERENCE, invalid_api_key())
    assert entries == []
    denials(exchange(None), Scope.ADMIN, invalid_api_key())
    denials(exchange(), Scope.INFERENCE, FORBIDDEN)
    assert [entry.actor for entry in entries] == ["unknown", "k" * 16]


def test_repetitions_are_counted_and_not_written(entries: list[AuditEntry]) -> None:
    now = 0.0
    denials = DenialAudit(entries.append, clock=lambda: now)
    for _ in range(1000):
        denials(exchange(), Scope.ADMIN, FORBIDDEN)
    denials(exchange(address="10.0.0.2"), Scope.ADMIN, FORBIDDEN)
    denials(exchange(path="/v1/admin/audit"), Scope.ADMIN, FORBIDDEN)
    assert len(entries) == 3
    now = QUIET_SECONDS
    denials(exchange(), Scope.ADMIN, FORBIDDEN)
    assert entries[-1].detail["repeated"] == "999"
    now = 2 * QUIET_SECONDS
    denials(exchange(), Scope.ADMIN, FORBIDDEN)
    assert "repeated" not in entries[-1].detail


def test_memory_is_bounded(entries: list[AuditEntry]) -> None:
    denials = DenialAudit(entries.append)
    for number in range(3000):
        denials(exchange(address=str(number)), Scope.ADMIN, FORBIDDEN)
    assert len(entries) == 3000
    assert len(denials._told) <= 1024
