"""One part of one file on its way to the disk. Methods block; they may come from several threads."""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from gateway.errors import conflict
from gateway.repository.faults import busy, on_disk, upload_not_found
from gateway.repository.shelves import ANNOUNCED, StoredFile

#: Bytes that are gathered before they are written.
CHUNK: Final = 1024 * 1024


class Part:
    """Appends to the file ``path`` of an upload from ``offset``, which must be where it ends.

    Raises :class:`~gateway.errors.ApiError` 404 for an upload that is gone, 409 while another part of the file comes
    in, the upload is being completed, or the file ends elsewhere; 503 and 507 for the disk.
    """

    def __init__(self, upload: Path, path: Path, file: StoredFile, offset: int) -> None:
        self._lock = threading.Lock()
        self._offset = offset
        self._file = -1
        try:
            self._upload = os.open(upload / ANNOUNCED, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise upload_not_found() from None
        try:
            with on_disk():
                self._open(upload, path, file)
        except BaseException:
            self.close()
            raise

    def _open(self, upload: Path, path: Path, file: StoredFile) -> None:
        if not _lock(self._upload, fcntl.LOCK_SH):
            raise busy("The upload is being completed.")
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if not _lock(self._file, fcntl.LOCK_EX):
            raise busy("Another part of this file is coming in.")
        size = os.fstat(self._file).st_size
        if size != self._offset:
            raise conflict(
                f"The file has {size} of {file.size} bytes: go on there.", code="offset_mismatch", param="offset"
            )
        os.lseek(self._file, size, os.SEEK_SET)
        os.utime(upload / ANNOUNCED)

    def write(self, data: bytes) -> None:
        """Append. Where the disk is full, all that this part has brought is dropped again."""
        with self._lock, on_disk():
            try:
                if not os.fstat(self._file).st_nlink:
                    raise upload_not_found()
                view = memoryview(data)
                while view:
                    view = view[os.write(self._file, view) :]
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._file, self._offset)
                raise

    def close(self) -> None:
        """Let go. Idempotent."""
        with self._lock:
            for descriptor in (self._file, self._upload):
                if descriptor >= 0:
                    with suppress(OSError):
                        os.close(descriptor)
            self._file = self._upload = -1


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def exclusively(descriptor: int) -> bool:
    """Whether the upload whose description is open as ``descriptor`` is ours alone now."""
    return _lock(descriptor, fcntl.LOCK_EX)
