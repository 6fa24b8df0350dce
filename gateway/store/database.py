"""The database: SQLite in a file, or PostgreSQL. Synchronous: never called on the event loop.

SQLAlchemy Core over one small pool. Whatever keeps a statement from being carried out (away, locked, full, read-only,
not migrated) is :class:`StoreUnavailable`; what is left are bugs.
"""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url
from sqlalchemy.pool import QueuePool

from gateway.settings import SettingsError

DEFAULT_TIMEOUT: Final = 5.0
_POOL_SIZE: Final = 4
_POSTGRES: Final = "postgresql+psycopg"
_POSTGRES_NAMES: Final = frozenset({"postgres", "postgresql", _POSTGRES})
#: psycopg.errors: a relation that is not there yet, and one that we may not touch.
_UNUSABLE: Final = frozenset({"42P01", "42501"})
#: "A writer": read by the handler of SQLAlchemy's begin event.
_WRITES: Final = "sluice_writes"
#: Another process may be in the middle of a migration of a large table.
_MIGRATION_WAIT: Final = 120.0


class StoreUnavailable(Exception):
    """The database cannot do it now. The message is for operators and holds no secrets."""


class Database:
    """A pool of connections to the database at ``url``.

    ``timeout`` (seconds) bounds the wait for a connection, for a lock and for a statement. Nothing is opened before the
    first use. An SQLite file is made by :meth:`migrating` only, so that one that went away is an error and not an
    empty database. Raises :class:`~gateway.settings.SettingsError` for a URL that cannot be used.
    """

    def __init__(self, url: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._url = _parse(url)
        self._timeout = timeout
        self.path = Path(self._url.database or "") if self._url.get_backend_name() == "sqlite" else None
        self._engine = _sqlite(self.path, timeout) if self.path is not None else _postgresql(self._url, timeout)

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._engine.dialect.name

    @property
    def timeout(self) -> float:
        """Seconds that one step may take before it fails."""
        return self._timeout

    def __str__(self) -> str:
        return self._url.render_as_string(hide_password=True)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that may write: committed at the end of the block, rolled back if it raises.

        On SQLite it takes the write lock at once. Raises :class:`StoreUnavailable`.
        """
        with self._explained(), self._connected(writes=True) as connection, connection.begin():
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads; on SQLite it waits for no writer. Raises :class:`StoreUnavailable`."""
        with self._explained(), self._connected(writes=False) as connection, connection.begin():
            yield connection

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A transaction for changes of the schema: one process at a time, the others wait.

        Makes an SQLite file that does not exist. Raises :class:`StoreUnavailable`.
        """
        if self.path is not None:
            self._create(self.path)
        with self._explained(), self._connected(writes=True) as connection:
            self._sqlite_waits(connection, _MIGRATION_WAIT)
            try:
                with connection.begin():
                    if self.path is None:
                        connection.exec_driver_sql(_timeouts(statement=0, lock=_MIGRATION_WAIT))
                        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('sluice/migrations'))")
                    yield connection
            finally:
                self._sqlite_waits(connection, self._timeout)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._engine.dispose()

    @contextmanager
    def _connected(self, *, writes: bool) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            yield connection.execution_options(**{_WRITES: writes})

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except exc.SQLAlchemyError as error:
            if not _is_fault(error):
                raise
            raise StoreUnavailable(self._reason(error)) from None

    def _sqlite_waits(self, connection: Connection, seconds: float) -> None:
        if self.path is not None:
            connection.connection.cursor().execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}").close()

    def _reason(self, error: exc.SQLAlchemyError) -> str:
        """The driver's own words, without statement, parameters and password."""
        cause = error.orig if isinstance(error, exc.DBAPIError) else error
        words = str(cause).strip().splitlines() or [type(cause).__name__]
        text = words[0][:300]
        password = self._url.password
        return text.replace(str(password), "***") if password else text

    def _create(self, path: Path) -> None:
        """An empty file in WAL mode that only its owner can read, in a directory that only its owner can enter."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite gives its -wal and -shm files the same mode. A file that is there is never opened here: closing it
            # would drop the locks that this process's connections hold on it (https://sqlite.org/howtocorrupt.html,
            # section 2.2), and the next process to leave would take the log away from under them.
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreUnavailable(f"{error.strerror}: {path}") from error
        deadline = time.monotonic() + _MIGRATION_WAIT
        while True:
            try:
                with self._explained(), self._connected(writes=False) as connection:
                    connection.connection.cursor().execute("PRAGMA journal_mode = WAL").close()
                return
            except StoreUnavailable as error:
                # SQLite does not wait by itself when two processes switch at once.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
    except exc.ArgumentError:
        raise SettingsError("store.url: not a database URL") from None
    if url.drivername in _POSTGRES_NAMES:
        return url.set(drivername=_POSTGRES)
    if url.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise SettingsError(f"store.url: {url.drivername[:64]}: expected sqlite:///FILE or postgresql://...")
    if url.database in (None, "", ":memory:") or url.query:
        raise SettingsError("store.url: SQLite needs a file and takes no options: sqlite:////var/lib/sluice/sluice.db")
    return url


def _sqlite(path: Path, timeout: float) -> Engine:
    location = f"file:{quote(str(path.absolute()))}?mode=rw"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            location, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    engine = create_engine(
        "sqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=_POOL_SIZE,
        max_overflow=_POOL_SIZE,
        pool_timeout=timeout,
        hide_parameters=True,
    )

    def remember(_connection: Any, record: Any) -> None:
        record.info["file"] = _file_of(path)

    def still_there(_connection: Any, record: Any, _proxy: Any) -> None:
        # A file that was moved away or restored from a backup would go on being read and written by its old inode.
        if record.info.get("file") != _file_of(path):
            raise exc.DisconnectionError(f"{path} is not the file it was")

    def begin(connection: Connection) -> None:
        # A writer that first reads and then finds another one ahead of it would fail without waiting.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITES) else "BEGIN")

    event.listen(engine, "connect", remember)
    event.listen(engine, "checkout", still_there)
    event.listen(engine, "begin", begin)
    return engine


def _file_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _postgresql(url: URL, timeout: float) -> Engine:
    engine = create_engine(
        url,
        pool_size=_POOL_SIZE,
        max_overflow=_POOL_SIZE,
        pool_timeout=timeout,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "connect_timeout": max(2, math.ceil(timeout)),  # libpq takes less for 2
            "application_name": "sluice",
            # A peer that vanished without a word is noticed by the kernel.
            "tcp_user_timeout": math.ceil(timeout * 1000),
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            # Connection poolers hand each transaction to another server, which knows no statement of ours.
            "prepare_threshold": None,
        },
    )

    def begin(connection: Connection) -> None:
        # For this transaction only, so that it holds behind a pooler too.
        connection.exec_driver_sql(_timeouts(statement=timeout, lock=timeout))

    event.listen(engine, "begin", begin)
    return engine


def _timeouts(*, statement: float, lock: float) -> str:
    """Sets them (seconds, 0: none) for the transaction."""
    values = {"statement_timeout": statement, "lock_timeout": lock}
    return "SELECT " + ", ".join(
        f"set_config('{name}', '{math.ceil(value * 1000)}', true)" for name, value in values.items()
    )


def _is_fault(error: exc.SQLAlchemyError) -> bool:
    if isinstance(error, exc.TimeoutError | exc.DisconnectionError):
        return True
    if not isinstance(error, exc.DBAPIError):
        return False
    if error.connection_invalidated or isinstance(error, exc.OperationalError | exc.InterfaceError | exc.InternalError):
        return True
    # SQLite: exactly DatabaseError is a file that is corrupt or no database.
    return type(error) is exc.DatabaseError or getattr(error.orig, "sqlstate", None) in _UNUSABLE
