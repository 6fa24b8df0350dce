"""Rows of a ledger, and the journal that a ledger would have written of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from gateway.usage.file import AppendFile
from gateway.usage.records import Admitted, Entry, Settled, encode_line

#: 2026-03-01 12:00 UTC.
NOON = 1_772_366_400.0
DAY = 86_400.0


def admitted(request_id: str, **changes: Any) -> Admitted:
    row = Admitted(request_id, NOON, "key-1", "/v1/chat/completions", "m", 7, 100, 1, tenant="team")
    return msgspec.structs.replace(row, **changes)


def settled(request_id: str, **changes: Any) -> Settled:
    row = Settled(
        request_id,
        NOON + 0.4,
        "completed",
        None,
        7,
        5,
        NOON,
        0.1,
        0.2,
        0.3,
        0.4,
        ("stop",),
        principal="key-1",
        tenant="team",
        route="/v1/chat/completions",
        model="m",
        http_request_id=f"http-{request_id}",
        cached_tokens=2,
        reasoning_tokens=1,
    )
    return msgspec.structs.replace(row, **changes)


def both(*request_ids: str) -> list[Entry]:
    return [row for request_id in request_ids for row in (admitted(request_id), settled(request_id))]


class Journal:
    """A ledger's files, written row by row without a thread. ``rotate`` begins a new one before the next row."""

    def __init__(self, path: Path, *, max_bytes: int = 2**40) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._file = AppendFile(path, max_bytes=max_bytes)

    def write(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.write_bytes(encode_line(entry))

    def write_bytes(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]

    def rotate(self) -> None:
        self.reopen(max_bytes=0)

    def reopen(self, *, max_bytes: int | None = None) -> None:
        """As a new process does."""
        self._file.close()
        self._file = AppendFile(self.path, max_bytes=self._max_bytes if max_bytes is None else max_bytes)

    def close(self) -> None:
        self._file.close()
