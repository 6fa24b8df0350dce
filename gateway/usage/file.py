"""An append-only file of lines that survives being killed in mid-line and never grows past one size."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

MODE: Final = 0o600
_BLOCK: Final = 64 * 1024


class AppendFile:
    """A :class:`~gateway.observability.writer.Sink`: one writer, whole lines, mode 0600.

    Opening cuts off a last line that a crash or a full disk tore; ``on_repair(count)`` is told its bytes. The file is
    locked: a second process gets BlockingIOError. Once it holds ``max_bytes`` it is renamed to
    ``<stem>-<UTC time><suffix>`` and a new one begins; old files are never deleted, they are the bill.
    """

    def __init__(self, path: Path, *, max_bytes: int, on_repair: Callable[[int], None] = lambda _count: None) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._on_repair = on_repair
        self._fd = -1
        self._size = 0
        self._whole = True
        self._open()

    def write(self, data: memoryview) -> int:
        """Append; rotates first if the file is full and ends with a line. Raises OSError."""
        if self._whole and (self._size >= self._max_bytes or self._was_taken_away()):
            self._rotate()
        count = os.write(self._fd, data)
        self._size += count
        self._whole = count > 0 and data[count - 1] == 0x0A
        return count

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
        try:
            self._lock()
            os.fchmod(self._fd, MODE)
            self._size = self._cut_torn_line()
        except BaseException:
            self.close()
            raise
        self._whole = True

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, "another process writes this file", str(self._path)) from None

    def _cut_torn_line(self) -> int:
        size = os.fstat(self._fd).st_size
        end = _end_of_last_line(self._fd, size)
        if end < size:
            os.ftruncate(self._fd, end)
            self._on_repair(size - end)
        return end

    def _was_taken_away(self) -> bool:
        """Whether somebody else moved or deleted the file: rows must not go where nobody finds them."""
        try:
            there, ours = os.stat(self._path), os.fstat(self._fd)
        except FileNotFoundError:
            return True
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def _rotate(self) -> None:
        if not self._was_taken_away():
            os.rename(self._path, self._free_name())
        self.close()
        self._open()

    def _free_name(self) -> Path:
        """A name that no file has: renaming would silently replace it, and a clock may be set back."""
        while True:
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            name = self._path.with_name(f"{self._path.stem}-{stamp}{self._path.suffix}")
            if not name.exists():
                return name


def rotated_files(path: Path) -> list[Path]:
    """What ``path`` was before its rotations, oldest first by name; none of another file's, such as ``path-2``'s."""
    ours = re.compile(rf"{re.escape(path.stem)}-\d{{8}}T\d{{6}}\.\d{{6}}Z{re.escape(path.suffix)}")
    try:
        names = os.listdir(path.parent)
    except FileNotFoundError:
        return []
    # The time stamps sort as text.
    return [path.with_name(name) for name in sorted(filter(ours.fullmatch, names))]


def _end_of_last_line(fd: int, size: int) -> int:
    """The offset after the last newline, read backwards in blocks."""
    while size > 0:
        start = max(0, size - _BLOCK)
        newline = os.pread(fd, size - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        size = start
    return 0
