"""Copies the ledger's file into the database, on a thread of its own.

The file is the journal: nothing waits in memory. While the database is away the copying stands still and the file
grows; afterwards it goes on where it stood. The place is written down after the rows are committed, so a crash in
between writes some rows again, which changes nothing. A database that lost rows (restored from a backup, or another
one) does not hold the last row that was copied: then everything is copied again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

import msgspec

from gateway.settings import SettingsError
from gateway.store.database import StoreUnavailable
from gateway.store.usage import UsageRepository, usage_day
from gateway.usage.journal import Bookmark, JournalReader, Place, Portion
from gateway.usage.prices import PriceList
from gateway.usage.records import Settled

log = logging.getLogger("sluice.usage")

PURGE_SECONDS: Final = 3600.0
#: Faults that come and go by themselves; anything else is a bug and is logged with its traceback.
_FAULTS: Final = (StoreUnavailable, SettingsError, OSError)
#: Sorts before every day.
_NO_DAY: Final = ""


class ShipperObserver(Protocol):
    """Told how the copying goes, on its thread."""

    def usage_shipped(self, rows: int, behind: int) -> None:
        """``rows`` were written, ``behind`` bytes of the journal are still to be read."""

    def usage_skipped(self, lines: int) -> None:
        """``lines`` of the journal are not rows that a table could hold."""

    def usage_looked(self, moment: float) -> None:
        """At ``moment`` (Unix seconds) the copying went well last: it grows old while the database is away or hangs."""

    def usage_database(self, available: bool) -> None:
        """Whether the database takes them."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds. ``poll``: between looks at a file that does not grow. ``first_retry`` doubles up to ``last_retry`` while
    a fault lasts. ``share`` of its time is what the thread works while it catches up, so that requests feel little.
    """

    poll: float = 0.5
    first_retry: float = 0.25
    last_retry: float = 5.0
    share: float = 0.5


class Shipper:
    """``prepare`` makes the database ready and is called until it succeeds. ``path`` is the ledger's current file.

    Rows of requests older than ``retention_days`` are forgotten, and not copied either.
    """

    def __init__(
        self,
        path: Path,
        repository: UsageRepository,
        prices: PriceList,
        *,
        prepare: Callable[[], None],
        observer: ShipperObserver,
        retention_days: int | None = None,
        pace: Pace = Pace(),
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._reader = JournalReader(path)
        self._bookmark = Bookmark(path.with_suffix(".bookmark"))
        self._repository = repository
        self._prices = prices
        self._prepare = prepare
        self._observer = observer
        self._retention_days = retention_days
        self._pace = pace
        self._wall = wall
        # Only the thread uses these.
        self._place: Place | None = None
        self._prepared = False
        self._sure = False
        self._next_purge = 0.0
        self._retry = pace.first_retry
        self._fault: type[Exception] | None = None
        self._available: bool | None = None
        self._told: set[str] = set()
        # Under the condition.
        self._condition = threading.Condition()
        self._stopping = False
        self._ended = False
        self._waiting_for_us = 0
        self._looks = 0
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="sluice-usage", daemon=True)

    def start(self) -> None:
        """Begin to copy."""
        self._thread.start()

    def flush(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until everything that is in the file now is in the database. Blocks.

        False after ``timeout`` seconds, and as soon as the database refuses twice.
        """
        with self._condition:
            # What runs now may have begun before the last rows came.
            looks, failures = self._looks + 2, self._failures + 2
            self._waiting_for_us += 1
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._looks >= looks or self._failures >= failures or self._ended, timeout)
            self._waiting_for_us -= 1
            return self._looks >= looks

    def close(self, timeout: float) -> bool:
        """Copy what is there for at most ``timeout`` seconds, then end; whether all of it was copied.

        What is left is copied at the next start. Blocks. Idempotent.
        """
        if not self._thread.is_alive():
            return True
        deadline = time.monotonic() + timeout
        complete = self.flush(timeout)
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        # A database that froze may hold the thread for longer; it is a daemon.
        self._thread.join(max(0.0, deadline - time.monotonic()) + 0.1)
        return complete

    # -- on the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._round()
        finally:
            with self._condition:
                self._ended = True
                self._condition.notify_all()

    def _round(self) -> None:
        began = time.monotonic()
        try:
            more = self._copy()
        except Exception as error:  # noqa: BLE001 - whatever it is, the rows stay in the file and the thread lives
            self._failed(error)
            return
        self._worked()
        if more:
            spent = time.monotonic() - began
            self._pause(spent / self._pace.share - spent)
        else:
            with self._condition:
                self._looks += 1
                self._condition.notify_all()
            self._pause(self._pace.poll)

    def _copy(self) -> bool:
        """One portion, and a few old rows; whether there may be more."""
        if self._place is None:
            self._place = self._bookmark.read()
        if not self._prepared:
            self._prepare()
            self._prepared = True
        purging = self._purge()
        portion = self._reader.read(self._place)
        if (portion is not None or not self._sure) and self._database_lost_rows(self._place.last):
            log.warning("the database does not hold what was copied before: the whole ledger is copied again")
            self._place = Place()
            return True
        self._sure = True
        if portion is None:
            self._observer.usage_shipped(0, 0)
            return purging
        self._ship(portion)
        return True

    def _database_lost_rows(self, last: Settled | None) -> bool:
        return last is not None and _day(last) >= self._first_day() and not self._repository.holds(last.request_id)

    def _ship(self, portion: Portion) -> None:
        first_day = self._first_day()
        fresh = [row for row in portion.rows if _day(row) >= first_day]
        unfit = self._repository.insert(fresh, self._prices) if fresh else []
        last = next((row for row in reversed(fresh) if row.request_id not in unfit), portion.place.last)
        self._place = msgspec.structs.replace(portion.place, last=last)
        self._skipped(portion.garbage, "no rows")
        self._skipped(len(unfit), "rows that fit no table", unfit[:3])
        self._observer.usage_shipped(len(fresh) - len(unfit), portion.behind)
        try:
            self._bookmark.write(self._place)
        except OSError as error:
            # Without it the next start copies again what is there already.
            self._tell_once("bookmark", "the place in the ledger cannot be written down: %s", error)

    def _purge(self) -> bool:
        """Forget some of what is too old; whether there is more of it."""
        now = self._wall()
        if self._retention_days is None or now < self._next_purge:
            return False
        if self._repository.purge(self._first_day()):
            return True
        self._next_purge = now + PURGE_SECONDS
        return False

    def _first_day(self) -> str:
        if self._retention_days is None:
            return _NO_DAY
        today = datetime.fromtimestamp(self._wall(), UTC).date()
        try:
            return (today - timedelta(days=self._retention_days)).isoformat()
        except OverflowError:
            return _NO_DAY  # before the calendar begins

    # -- how it goes ------------------------------------------------------------------------------------------------

    def _failed(self, error: Exception) -> None:
        if self._fault is not type(error):
            unexpected = None if isinstance(error, _FAULTS) else error
            log.error("usage stays in the ledger's file: %s", str(error) or type(error).__name__, exc_info=unexpected)
        self._now_available(False)
        self._fault = type(error)
        self._sure = False
        with suppress(OSError):
            self._observer.usage_shipped(0, self._reader.behind(self._place or Place()))
        with self._condition:
            self._failures += 1
            self._condition.notify_all()
        self._pause(self._retry, hurried=self._pace.first_retry)
        self._retry = min(2 * self._retry, self._pace.last_retry)

    def _worked(self) -> None:
        if self._fault is not None:
            log.warning("usage reaches the database again")
        self._now_available(True)
        self._observer.usage_looked(self._wall())
        self._fault = None
        self._retry = self._pace.first_retry

    def _now_available(self, available: bool) -> None:
        if self._available is not available:
            self._available = available
            self._observer.usage_database(available)

    def _pause(self, seconds: float, *, hurried: float = 0.0) -> None:
        """``hurried`` is the pause if somebody waits for the rows."""
        with self._condition:
            if not self._waiting_for_us:
                self._condition.wait_for(lambda: self._stopping or self._waiting_for_us, seconds)
            elif hurried:
                self._condition.wait_for(lambda: self._stopping, hurried)

    def _skipped(self, lines: int, what: str, example: object = "") -> None:
        if lines:
            self._observer.usage_skipped(lines)
            self._tell_once(what, "%d lines of the ledger are %s and are left out %s", lines, what, example)

    def _tell_once(self, what: str, message: str, *values: object) -> None:
        if what not in self._told:
            self._told.add(what)
            log.error(message, *values)


def _day(row: Settled) -> str:
    """Sorts after every day if it is none: such a row is not old but odd."""
    try:
        return usage_day(row.received)
    except ValueError:
        return "~"
