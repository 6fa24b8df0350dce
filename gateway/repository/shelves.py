"""Where models and uploads lie, what they are described by, and how much of the quota they take. All of it blocks.

``models/NAME`` is whole or not there: it is put in place by a rename. ``uploads/ID`` holds ``upload.json`` and the
files so far. ``trash`` is what is being deleted. Locks are the kernel's, on files: they go with whoever held them, and
hold between processes that share the volume.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from gateway.repository.faults import name_taken, no_room

MANIFEST: Final = ".sluice.json"
ANNOUNCED: Final = "upload.json"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file: ``size`` in bytes, ``sha256`` in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that is in place. ``derived``: what was made of a GGUF, to be served. Times are Unix seconds."""

    name: str
    format: str
    architecture: str
    unservable: str | None
    tenant: str
    created: float
    created_by: str
    files: tuple[StoredFile, ...]
    derived: tuple[StoredFile, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in (*self.files, *self.derived))


@dataclass(frozen=True, slots=True)
class Announced:
    """What an upload is to become."""

    id: str
    name: str
    tenant: str
    created: float
    created_by: str
    files: tuple[StoredFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)

    def file(self, path: str) -> StoredFile | None:
        """The announced file of that path."""
        return next((file for file in self.files if file.path == path), None)


class Shelves:
    """The directory ``root``, made when it is first needed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.models = root / "models"
        self.uploads = root / "uploads"
        self._trash = root / "trash"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else takes a name or room meanwhile."""
        for directory in (self.models, self.uploads, self._trash):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def model(self, name: str) -> StoredModel | None:
        """The model of that name."""
        fields = _read(self.models / name / MANIFEST)
        if fields is None:
            return None
        files, derived = _files(fields.pop("files")), _files(fields.pop("derived"))
        return StoredModel(**fields, files=files, derived=derived)

    def all_models(self) -> list[StoredModel]:
        """Every model, by name."""
        found = (self.model(path.name) for path in sorted(self.models.glob("*")))
        return [model for model in found if model is not None]

    def announced(self, upload: str) -> Announced | None:
        """The upload of that id."""
        fields = _read(self.uploads / upload / ANNOUNCED)
        return None if fields is None else Announced(**{**fields, "files": _files(fields["files"])})

    def all_uploads(self) -> list[Announced]:
        """Every upload that is open."""
        found = (self.announced(path.name) for path in sorted(self.uploads.glob("*")))
        return [upload for upload in found if upload is not None]

    def part(self, upload: str, file: str) -> Path:
        """Where the bytes of an announced file are put."""
        return self.uploads / upload / "files" / file

    def require_name(self, name: str) -> None:
        """Raises :class:`~gateway.errors.ApiError` 409 for one that is taken."""
        if (self.models / name).exists():
            raise name_taken()

    def require_room(self, size: int, quota: int) -> None:
        """Raises :class:`~gateway.errors.ApiError` 507 if ``size`` bytes more do not fit. Call it :meth:`locked`."""
        used = sum(model.size for model in self.all_models()) + sum(upload.size for upload in self.all_uploads())
        if used + size > quota:
            raise no_room("quota_exceeded", f"{size} bytes do not fit: {used} of the quota of {quota} are taken.")
        if (free := shutil.disk_usage(self._root).free) < size:
            raise no_room("disk_full", f"{size} bytes do not fit: the disk of the repository has {free} free.")

    def announce(self, upload: Announced) -> None:
        """Begin an upload: it is there with its description or not at all."""
        work = self._trash / f"new-{upload.id}"
        try:
            (work / "files").mkdir(mode=0o700, parents=True)
            write_json(work / ANNOUNCED, asdict(upload))
            work.rename(self.uploads / upload.id)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def discard(self, path: Path) -> bool:
        """Delete a directory of ours; whether it was there. Gone at once under its name, whatever happens then."""
        grave = self._trash / secrets.token_hex(16)
        try:
            path.rename(grave)
        except FileNotFoundError:
            return False
        shutil.rmtree(grave, ignore_errors=True)
        return True

    def empty_trash(self, older_than: float) -> None:
        """Delete what an earlier process did not come to, if it was put there before the Unix time ``older_than``."""
        for path in self._trash.glob("*"):
            with suppress(OSError):
                if path.stat().st_ctime < older_than:
                    shutil.rmtree(path, ignore_errors=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write and sync."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> dict[str, Any] | None:
    try:
        fields: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return fields


def _files(values: list[dict[str, Any]]) -> tuple[StoredFile, ...]:
    return tuple(StoredFile(**value) for value in values)
