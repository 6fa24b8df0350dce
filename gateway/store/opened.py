"""The store of a running process: its database, its secret, its audit log, and the threads that may block on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from gateway.access.secret import DeploymentSecret
from gateway.settings import Settings
from gateway.store.audit import AuditLog
from gateway.store.database import Database
from gateway.store.executor import StoreExecutor
from gateway.store.migrate import prepare

_THREADS = 2


@dataclass(frozen=True, slots=True)
class Store:
    """``executor`` serves the admin routes."""

    database: Database
    secret: DeploymentSecret
    audit: AuditLog
    executor: StoreExecutor

    @classmethod
    def open(
        cls, settings: Settings, secret: DeploymentSecret, on_audit_lost: Callable[[int], None] = lambda _count: None
    ) -> Self:
        """Nothing is connected to before it is needed. Raises :class:`~gateway.settings.SettingsError`."""
        database = Database(settings.store_url())
        retention = settings.usage.audit_retention_days
        audit = AuditLog(database, retention_days=retention, on_lost=on_audit_lost)
        return cls(database, secret, audit, StoreExecutor(_THREADS, "sluice-store"))

    def prepare(self) -> None:
        """Make the database ready. Blocks. Raises :class:`~gateway.store.database.StoreUnavailable`, SettingsError."""
        prepare(self.database, self.secret)

    def close(self, timeout: float) -> None:
        """Write what waits for up to ``timeout`` seconds, then let go. Blocks. Idempotent."""
        self.executor.shutdown(wait=False, cancel_futures=True)
        self.audit.close(timeout)
        self.database.close()
