"""The audit log: who did what to whom, and who was not allowed to. Written in the background, read by administrators.

A row reaches the database at least once: after a commit whose confirmation was lost it is written again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import delete, insert, select

from gateway.store.database import Database, StoreUnavailable
from gateway.store.tables import audit

CAPACITY: Final = 10_000
MAX_PAGE: Final = 1000
_BATCH: Final = 256
_PURGE_BATCH: Final = 5000
_PURGE_EVERY: Final = 3600.0
_DAY: Final = 86_400.0

log = logging.getLogger("sluice.audit")


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One act or denial. ``ts`` is Unix seconds; ``act`` is one word such as ``key.create``; ``detail`` is JSON.

    Texts are clipped to what the table holds. No secrets.
    """

    ts: float
    actor: str
    act: str
    allowed: bool
    target: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    client_ip: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class AuditRow:
    """An entry as it was kept, with its number."""

    id: int
    entry: AuditEntry


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What to read: ``since`` and ``until`` are Unix seconds, the end exclusive; None is everything."""

    actor: str | None = None
    act: str | None = None
    target: str | None = None
    allowed: bool | None = None
    since: float | None = None
    until: float | None = None


def write_audit(database: Database, entries: Iterable[AuditEntry]) -> None:
    """Keep ``entries``, all or none. Blocks. Raises :class:`~gateway.store.database.StoreUnavailable`."""
    with database.begin() as connection:
        connection.execute(insert(audit), [_columns(entry) for entry in entries])


def read_audit(
    database: Database, wanted: AuditFilter, *, before: int | None = None, limit: int = 100
) -> tuple[list[AuditRow], bool]:
    """A page, newest first, of at most ``limit`` (1 to 1000) rows below the number ``before``; whether there are more.

    Blocks. Raises :class:`~gateway.store.database.StoreUnavailable`.
    """
    limit = max(1, min(limit, MAX_PAGE))
    query = select(audit).order_by(audit.c.id.desc()).limit(limit + 1)
    for column in (audit.c.actor, audit.c.act, audit.c.target, audit.c.allowed):
        value = getattr(wanted, column.name)
        if value is not None:
            query = query.where(column == value)
    if wanted.since is not None:
        query = query.where(audit.c.ts >= wanted.since)
    if wanted.until is not None:
        query = query.where(audit.c.ts < wanted.until)
    if before is not None:
        query = query.where(audit.c.id < before)
    with database.read() as connection:
        rows = [_row(row) for row in connection.execute(query)]
    return rows[:limit], len(rows) > limit


def forget_audit(database: Database, before: float) -> int:
    """Delete the rows older than ``before`` (Unix seconds), some at a time; how many there were.

    Blocks. Raises :class:`~gateway.store.database.StoreUnavailable`.
    """
    total = 0
    while True:
        oldest = select(audit.c.id).where(audit.c.ts < before).limit(_PURGE_BATCH)
        with database.begin() as connection:
            count = connection.execute(delete(audit).where(audit.c.id.in_(oldest))).rowcount
        total += count
        if count < _PURGE_BATCH:
            return total


def _columns(entry: AuditEntry) -> dict[str, Any]:
    return {
        "ts": entry.ts,
        "actor": _clean(entry.actor, 128),
        "act": _clean(entry.act, 64),
        "target": None if entry.target is None else _clean(entry.target, 128),
        "allowed": entry.allowed,
        "detail": dict(entry.detail),
        "client_ip": None if entry.client_ip is None else _clean(entry.client_ip, 64),
        "request_id": None if entry.request_id is None else _clean(entry.request_id, 128),
    }


def _clean(text: str, limit: int) -> str:
    # PostgreSQL keeps no NUL.
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")[:limit]


def _row(row: Any) -> AuditRow:
    entry = AuditEntry(row.ts, row.actor, row.act, row.allowed, row.target, row.detail, row.client_ip, row.request_id)
    return AuditRow(row.id, entry)


class AuditLog:
    """Takes entries from any thread and never makes anybody wait.

    While the database refuses, up to ``capacity`` entries wait in memory; what does not fit is lost and counted
    (``on_lost(count)``, which may be called on any thread and must not block). ``retention`` (seconds) is how long rows
    stay, None for ever. ``retry`` is the pause in seconds after a fault, ``linger`` lets entries gather into one batch.
    """

    def __init__(
        self,
        database: Database,
        *,
        capacity: int = CAPACITY,
        retention_days: int | None = None,
        on_lost: Callable[[int], None] = lambda _count: None,
        retry: float = 1.0,
        linger: float = 0.05,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._capacity = capacity
        self._retention = None if retention_days is None else retention_days * _DAY
        self._on_lost = on_lost
        self._retry = retry
        self._linger = linger
        self._wall = wall
        self._queue: deque[AuditEntry] = deque()
        self._condition = threading.Condition()
        self._closing = False
        self._busy = False
        self._failing = False
        self._next_purge = 0.0
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="sluice-audit", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Entries that are gone for good."""
        return self._lost

    def record(self, entry: AuditEntry) -> None:
        """Keep one entry. Never blocks on the database, never raises for a fault of it."""
        with self._condition:
            fits = len(self._queue) < self._capacity and not self._closing
            if fits:
                self._queue.append(entry)
                self._condition.notify_all()
        if not fits:
            self._lose(1)

    def flush(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until everything recorded so far is kept. Blocks."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._queue and not self._busy, timeout)

    def close(self, timeout: float) -> bool:
        """Write what is waiting for up to ``timeout`` seconds; False, and an error in the log, if entries were lost.

        Blocks. Idempotent.
        """
        deadline = time.monotonic() + timeout
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        complete = self.flush(timeout)
        with self._condition:
            left = len(self._queue)
            self._queue.clear()
            self._condition.notify_all()
        if left:
            self._lose(left)
            log.error("%d audit entries could not be written before the end", left)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return complete

    # -- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            if not batch or self._write(batch):
                self._done_with(batch)
                self._purge()
            else:
                self._pause()

    def _next_batch(self) -> list[AuditEntry] | None:
        """The oldest entries, which stay in the queue until they are written; None when it is time to end."""
        with self._condition:
            idle = None if self._retention is None else _PURGE_EVERY
            self._condition.wait_for(lambda: self._queue or self._closing, idle)
            if self._queue and not self._closing:
                self._condition.wait_for(lambda: len(self._queue) >= _BATCH or self._closing, self._linger)
            batch = [self._queue[index] for index in range(min(len(self._queue), _BATCH))]
            self._busy = bool(batch)
            return None if self._closing and not batch else batch

    def _done_with(self, batch: list[AuditEntry]) -> None:
        with self._condition:
            self._busy = False
            # close() may have given up on the queue meanwhile.
            for _ in range(min(len(batch), len(self._queue))):
                self._queue.popleft()
            self._condition.notify_all()

    def _pause(self) -> None:
        with self._condition:
            self._busy = False
            if not self._closing:
                self._condition.wait_for(lambda: self._closing, self._retry)
                return
        # The last tries until close() gives up.
        time.sleep(0.05)

    def _write(self, batch: list[AuditEntry]) -> bool:
        """Whether the batch is done with."""
        try:
            write_audit(self._database, batch)
        except StoreUnavailable as error:
            if not self._failing:
                log.error("the audit log cannot be written: %s; entries wait in memory", error)
            self._failing = True
            return False
        except Exception:
            log.exception("%d audit entries could not be written", len(batch))
            self._lose(len(batch))
            return True
        if self._failing:
            log.warning("the audit log is written again; entries lost so far: %d", self._lost)
        self._failing = False
        return True

    def _purge(self) -> None:
        now = self._wall()
        if self._retention is None or now < self._next_purge:
            return
        self._next_purge = now + _PURGE_EVERY
        try:
            forget_audit(self._database, now - self._retention)
        except StoreUnavailable as error:
            log.warning("old audit entries stay for now: %s", error)

    def _lose(self, count: int) -> None:
        with self._condition:
            self._lost += count
        self._on_lost(count)
