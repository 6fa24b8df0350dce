"""Logs: one line per record, JSON by default, written by a thread that never holds up the event loop.

Every logger of the process, vLLM's and uvicorn's included, ends in the same sink. The access log adds one line per
request. Lines never carry prompt or answer text; keys and tokens that slip into a message are masked. Characters that
steer a terminal or break a line are escaped (CWE-117).
"""

from __future__ import annotations

import logging
import os
import re
import select
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from gateway.observability.writer import BackgroundWriter, Health

MAX_MESSAGE_CHARS: Final = 8 * 1024
MAX_EXCEPTION_CHARS: Final = 16 * 1024
MAX_FIELD_CHARS: Final = 512

_FOREIGN_LOGGERS: Final = ("vllm", "uvicorn", "uvicorn.error")
_SILENT_LOGGERS: Final = ("uvicorn.access",)
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SECRET: Final = re.compile(r"\b(sk-[A-Za-z0-9]+)-[A-Za-z0-9_\-]{8,}|\beyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*")


class AccessEntry(msgspec.Struct, frozen=True, gc=False):
    """One finished request. ``ts`` is Unix seconds at its end; durations are milliseconds since it was received.

    ``route`` is the route's template, ``principal`` the public id of the caller, ``outcome`` one of completed,
    cancelled, error or rejected. Token counts are None where no model ran. ``labels`` are the caller's own (``user``,
    ``metadata``). ``trace_id`` is that of its trace, where requests are traced.
    """

    ts: float
    request_id: str
    method: str
    route: str
    status: int
    outcome: str
    duration_ms: float
    principal: str | None = None
    model: str | None = None
    stream: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    ttft_ms: float | None = None
    client_ip: str | None = None
    code: str | None = None
    labels: Mapping[str, str] | None = None
    tenant: str | None = None
    adapter: str | None = None
    trace_id: str | None = None
    arm: str | None = None


class LogEntry(msgspec.Struct, frozen=True):
    """One record of a logger, already detached from everything that may change after the call."""

    ts: float
    level: str
    logger: str
    message: str
    request_id: str | None = None
    exception: str | None = None
    fields: Mapping[str, Any] | None = None


Entry = LogEntry | AccessEntry


@dataclass(frozen=True, slots=True)
class LogOptions:
    """``capacity`` is the number of lines that may wait for a slow sink before new ones are dropped."""

    level: str = "INFO"
    format: Literal["json", "text"] = "json"
    capacity: int = 4096


class Logs:
    """The process's logging while it is installed; ``close`` writes what waits and puts the old set-up back."""

    def __init__(self, writer: BackgroundWriter[Entry], previous: Callable[[], None]) -> None:
        self.writer = writer
        self.access = AccessLog(writer)
        self._restore = previous

    def close(self, timeout: float = 2.0) -> bool:
        """Blocks up to ``timeout`` seconds; False if lines were lost. Idempotent."""
        self._restore()
        return self.writer.close(timeout)


class AccessLog:
    """One line per request."""

    def __init__(self, writer: BackgroundWriter[Entry]) -> None:
        self._writer = writer

    def record(self, entry: AccessEntry) -> None:
        """Queue the line; never blocks."""
        self._writer.put(entry)


def install(
    options: LogOptions,
    *,
    fd: int = 1,
    on_drop: Callable[[int], None] = lambda _count: None,
) -> Logs:
    """Route every logger of the process to ``fd``. ``on_drop(count)`` tells of lost lines and must not log.

    Raises ValueError for an unknown level.
    """
    stream = StreamSink(fd)
    writer: BackgroundWriter[Entry] = BackgroundWriter(
        lambda: stream,
        encode_json if options.format == "json" else encode_text,
        capacity=options.capacity,
        on_drop=on_drop,
        on_health=lambda health, error: _report_loss(writer, health, error),
        name="sluice-logs",
    )
    return Logs(writer, _take_over(QueueHandler(writer), options.level))


def _report_loss(writer: BackgroundWriter[Entry], health: Health, _error: BaseException | None) -> None:
    if health is Health.OK:
        lost = {"dropped": writer.dropped, "failed": writer.failed}
        writer.put(LogEntry(_now(), "WARNING", "sluice.logs", "the log sink recovered; lines lost so far", fields=lost))


def _take_over(handler: logging.Handler, level: str) -> Callable[[], None]:
    """Make ``handler`` the only one; returns what undoes it."""
    root = logging.getLogger()
    foreign = [logging.getLogger(name) for name in (*_FOREIGN_LOGGERS, *_SILENT_LOGGERS)]
    before = [(each, each.handlers[:], each.level, each.propagate) for each in (root, *foreign)]
    root.setLevel(level.upper())
    root.handlers = [handler]
    for each in foreign:
        each.handlers = []
        each.propagate = each.name not in _SILENT_LOGGERS
    logging.captureWarnings(True)

    def restore() -> None:
        logging.captureWarnings(False)
        for each, handlers, old_level, propagate in before:
            each.handlers, each.propagate = handlers, propagate
            each.setLevel(old_level)

    return restore


class QueueHandler(logging.Handler):
    """Turns log records into entries on the caller's thread and leaves the rest to the writer's.

    ``extra={"request_id": ...}`` and ``extra={"fields": {...}}`` become members of the line.
    """

    def __init__(self, writer: BackgroundWriter[Entry]) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record; never blocks, never raises."""
        self._writer.put(
            LogEntry(
                ts=record.created,
                level=record.levelname,
                logger=record.name,
                message=_message(record),
                request_id=getattr(record, "request_id", None),
                exception=_exception(record),
                fields=getattr(record, "fields", None),
            )
        )


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001 - a wrong log call must not fail the request that made it
        text = f"{record.msg!s} (the log call's arguments do not fit)"
    return text if len(text) <= MAX_MESSAGE_CHARS else text[:MAX_MESSAGE_CHARS] + "..."


def _exception(record: logging.LogRecord) -> str | None:
    if not record.exc_info or record.exc_info[1] is None:
        return None
    text = "".join(traceback.format_exception(record.exc_info[1]))
    if len(text) <= MAX_EXCEPTION_CHARS:
        return text
    # The end names the error, the start names the entry point.
    return text[: MAX_EXCEPTION_CHARS // 4] + "\n...\n" + text[-MAX_EXCEPTION_CHARS * 3 // 4 :]


# --- on the writer's thread ------------------------------------------------------------------------------------


class _AccessLine(msgspec.Struct):
    ts: str
    level: str
    logger: str
    request_id: str
    method: str
    route: str
    status: int
    outcome: str
    principal: str | None
    tenant: str | None
    model: str | None
    adapter: str | None
    arm: str | None
    stream: bool
    prompt_tokens: int | None
    completion_tokens: int | None
    ttft_ms: float | None
    duration_ms: float
    client_ip: str | None
    code: str | None
    labels: dict[str, str] | None
    trace_id: str | None


class _LogLine(msgspec.Struct, omit_defaults=True):
    ts: str
    level: str
    logger: str
    message: str
    request_id: str | None = None
    exception: str | None = None
    fields: Any = None


def encode_json(entry: Entry) -> bytes:
    """The entry as one line of JSON."""
    line = _access_line(entry) if isinstance(entry, AccessEntry) else _log_line(entry)
    return msgspec.json.encode(line) + b"\n"


def encode_text(entry: Entry) -> bytes:
    """The entry as a line for people; a traceback follows indented."""
    if isinstance(entry, AccessEntry):
        return _access_text(_access_line(entry)).encode() + b"\n"
    line = _log_line(entry)
    tail = f" id={line.request_id}" if line.request_id else ""
    if line.fields:
        tail += "".join(f" {key}={value}" for key, value in line.fields.items())
    text = f"{line.ts} {line.level:<7} {line.logger}: {line.message}{tail}\n"
    if line.exception:
        text += "".join(f"    {printable(part)}\n" for part in line.exception.splitlines())
    return text.encode()


def _access_text(line: _AccessLine) -> str:
    tokens = "" if line.completion_tokens is None else f" {line.prompt_tokens}+{line.completion_tokens} tokens"
    ttft = "" if line.ttft_ms is None else f" ttft {line.ttft_ms:.0f} ms"
    code = f" {line.code}" if line.code else ""
    return (
        f"{line.ts} {line.level:<7} {line.method} {line.route} {line.status} {line.outcome}{code}"
        f"{tokens}{ttft} {line.duration_ms:.0f} ms id={line.request_id}"
    )


def _access_line(entry: AccessEntry) -> _AccessLine:
    return _AccessLine(
        ts=rfc3339(entry.ts),
        level="INFO",
        logger="sluice.access",
        request_id=_field(entry.request_id),
        method=_field(entry.method),
        route=_field(entry.route),
        status=entry.status,
        outcome=entry.outcome,
        principal=_optional(entry.principal),
        tenant=_optional(entry.tenant),
        model=_optional(entry.model),
        adapter=_optional(entry.adapter),
        arm=_optional(entry.arm),
        stream=entry.stream,
        prompt_tokens=entry.prompt_tokens,
        completion_tokens=entry.completion_tokens,
        ttft_ms=None if entry.ttft_ms is None else round(entry.ttft_ms, 3),
        duration_ms=round(entry.duration_ms, 3),
        client_ip=_optional(entry.client_ip),
        code=_optional(entry.code),
        labels=None if entry.labels is None else {_field(name): _field(text) for name, text in entry.labels.items()},
        trace_id=entry.trace_id,
    )


def _log_line(entry: LogEntry) -> _LogLine:
    fields = {_field(str(key)): _plain(value) for key, value in entry.fields.items()} if entry.fields else None
    return _LogLine(
        ts=rfc3339(entry.ts),
        level=entry.level,
        logger=entry.logger,
        message=printable(entry.message),
        request_id=None if entry.request_id is None else _field(str(entry.request_id)),
        exception=None if entry.exception is None else "\n".join(map(printable, entry.exception.splitlines())),
        fields=fields,
    )


def _plain(value: object) -> object:
    return value if isinstance(value, bool | int | float) or value is None else _field(str(value))


def _field(text: str) -> str:
    return printable(text[:MAX_FIELD_CHARS])


def _optional(text: str | None) -> str | None:
    return None if text is None else _field(text)


def printable(text: str) -> str:
    """``text`` on one line: control, bidirectional and surrogate characters escaped, secrets masked."""
    if "sk-" in text or "eyJ" in text:
        text = _SECRET.sub(lambda match: f"{match[1] or 'jwt'}-***", text)
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def rfc3339(ts: float) -> str:
    """Unix seconds as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(ts, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _now() -> float:
    return datetime.now(UTC).timestamp()


class StreamSink:
    """A descriptor that somebody else opened, usually standard output; it is never closed.

    Opening it again means going on with it: a line that an error tore is ended first.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._torn = False
        self._mend = False

    def write(self, data: memoryview) -> int:
        """Blocks while the reader does not read, also where the descriptor is non-blocking."""
        if self._mend:
            self._write(b"\n")
            self._mend = False
        count = self._write(data)
        self._torn = data[count - 1] != 0x0A
        return count

    def _write(self, data: bytes | memoryview) -> int:
        while True:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:
                self._wait_for_room()

    def _wait_for_room(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll()

    def close(self) -> None:
        """Called by the writer after an error."""
        self._mend = self._torn
