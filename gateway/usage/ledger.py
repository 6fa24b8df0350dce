"""The ledger: where the two rows of every admitted request go.

``JsonlLedger`` keeps them in a file. While the disk refuses, inference goes on and rows wait in bounded memory;
``health`` and the hooks say so, and what does not fit is counted, never lost in silence. Rows reach the file within
about ``LINGER_SECONDS``, so that is what a killed process can lose; a request whose last row is missing is settled as
``process_lost`` at the next start.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from gateway.observability.writer import BackgroundWriter, Health, HealthHook
from gateway.usage.file import AppendFile, rotated_files
from gateway.usage.records import Admitted, Entry, Settled, encode_line, unsettled

CAPACITY: Final = 100_000
MAX_BYTES: Final = 64 * 1024 * 1024
LINGER_SECONDS: Final = 0.01
PROCESS_LOST: Final = "process_lost"
#: Longer than any request runs: what was admitted so long before the last row has an ending.
LOOK_BACK_SECONDS: Final = 3600.0

logger = logging.getLogger("sluice.ledger")


class Ledger(Protocol):
    """Takes rows. Never blocks, never raises for a fault of its storage."""

    def write(self, entry: Entry) -> None:
        """Keep one row."""

    def violation(self, request_id: str, what: str) -> None:
        """A caller broke the rules of :class:`~gateway.usage.life.Life`: a bug in this program, not a fault."""

    @property
    def degraded(self) -> bool:
        """Whether rows wait in memory for a storage that refuses, or are being lost."""


class MemoryLedger:
    """For tests and for ``ledger: off``. ``strict`` makes a violation an AssertionError at the place of the bug."""

    def __init__(self, *, strict: bool = True) -> None:
        self.entries: list[Entry] = []
        self.violations: list[str] = []
        self.degraded = False
        self._strict = strict

    def write(self, entry: Entry) -> None:
        """Keep one row."""
        self.entries.append(entry)

    def violation(self, request_id: str, what: str) -> None:
        """Record it, and raise if strict."""
        self.violations.append(f"{request_id}: {what}")
        if self._strict:
            raise AssertionError(self.violations[-1])


class JsonlLedger:
    """Rows in the file ``path``, one JSON object a line.

    Opens the file at once and raises OSError if it cannot (BlockingIOError: another process has it), so a gateway that
    could not account for anything does not start. ``capacity`` rows may wait in memory. ``on_lost(count)`` and
    ``on_health(health, error)`` are for metrics and alerts; both are logged here.
    """

    def __init__(
        self,
        path: Path,
        *,
        capacity: int = CAPACITY,
        max_bytes: int = MAX_BYTES,
        on_lost: Callable[[int], None] = lambda _count: None,
        on_health: HealthHook = lambda _health, _error: None,
        retry: float = 0.5,
    ) -> None:
        self.path = path
        self.violations = 0
        self._max_bytes = max_bytes
        self._on_health = on_health
        first: AppendFile | None = self._open()
        orphans = unsettled([*_recent(rotated_files(path)), path])

        def open_sink() -> AppendFile:
            nonlocal first
            sink, first = first or self._open(), None
            return sink

        self.writer: BackgroundWriter[Entry] = BackgroundWriter(
            open_sink,
            encode_line,
            capacity=capacity,
            on_drop=on_lost,
            on_health=self._changed,
            linger=LINGER_SECONDS,
            retry=retry,
            name="sluice-ledger",
        )
        self._settle_orphans(orphans)

    def write(self, entry: Entry) -> None:
        """Queue one row."""
        self.writer.put(entry)

    def violation(self, request_id: str, what: str) -> None:
        """Count and log it; the request goes on."""
        self.violations += 1
        logger.error("accounting bug: %s", what, extra={"request_id": request_id}, stack_info=True)

    @property
    def degraded(self) -> bool:
        """See :class:`Ledger`."""
        return self.writer.health is not Health.OK

    @property
    def lost(self) -> int:
        """Rows that are gone for good."""
        return self.writer.dropped + self.writer.failed

    def flush(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for the file to hold every row written so far. Blocks."""
        return self.writer.flush(timeout)

    def close(self, timeout: float) -> bool:
        """Blocks up to ``timeout`` seconds; False, and an error in the log, if rows were lost. Idempotent."""
        before = self.lost
        complete = self.writer.close(timeout)
        if not complete:
            logger.error("%d ledger rows could not be written before the end", self.lost - before)
        return complete

    def _open(self) -> AppendFile:
        return AppendFile(self.path, max_bytes=self._max_bytes, on_repair=_log_repair)

    def _changed(self, health: Health, error: BaseException | None) -> None:
        if health is Health.OK:
            logger.warning("the ledger recovered; rows lost so far: %d", self.lost)
        else:
            logger.error("the ledger is %s: %s", health.value, error or "rows do not fit in memory any more")
        self._on_health(health, error)

    def _settle_orphans(self, orphans: list[Admitted]) -> None:
        now = time.time()
        for row in orphans:
            self.write(_process_lost(row, now))
        if orphans:
            logger.warning("settled %d requests that an earlier process left open", len(orphans))


def _recent(rotated: list[Path]) -> list[Path]:
    """Of the files, oldest first, those that may hold a request which was running when the newest was closed."""
    changed = [path.stat().st_mtime for path in rotated]
    since = max(changed, default=0.0) - LOOK_BACK_SECONDS
    return [path for path, moment in zip(rotated, changed, strict=True) if moment >= since]


def _process_lost(row: Admitted, now: float) -> Settled:
    return Settled(
        request_id=row.request_id,
        ts=now,
        outcome="error",
        code=PROCESS_LOST,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=0,
        received=row.ts,
        admitted=0.0,
        dispatched=None,
        first_token=None,
        ended=max(0.0, now - row.ts),
        principal=row.principal,
        tenant=row.tenant,
        route=row.route,
        model=row.model,
        adapter=row.adapter,
        http_request_id=row.http_request_id,
        arm=row.arm,
    )


def _log_repair(count: int) -> None:
    logger.warning("cut %d bytes of a torn last line off the ledger", count)
