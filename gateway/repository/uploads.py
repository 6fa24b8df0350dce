"""Uploads: announced, filled, checked and put in place, given up, or expired. All of it blocks."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from engine.artifacts.convert import convert_gguf, converted_bytes, why_not
from engine.artifacts.examine import Found, examine
from engine.artifacts.refusal import ArtifactRefused
from gateway.errors import ApiError, conflict
from gateway.repository.faults import busy, name_taken, on_disk, upload_not_found
from gateway.repository.part import Part, exclusively
from gateway.repository.shelves import ANNOUNCED, MANIFEST, Announced, Shelves, StoredFile, StoredModel, write_json
from gateway.settings.repository import RepositorySettings

_CHUNK: Final = 4 * 1024 * 1024


class Uploads:
    """Those on ``shelves``. ``going_on`` raises when the process is to end: checking a large model takes a while."""

    def __init__(self, shelves: Shelves, settings: RepositorySettings, going_on: Callable[[], None]) -> None:
        self._shelves = shelves
        self._settings = settings
        self._going_on = going_on

    def announce(self, name: str, files: tuple[StoredFile, ...], tenant: str, by: str) -> Announced:
        """Begin one; its room is kept free of others. Raises :class:`ApiError` 409, 503, 507."""
        upload = Announced(f"upload-{secrets.token_hex(16)}", name, tenant, time.time(), by, files)
        with on_disk(), self._shelves.locked():
            self._shelves.require_name(name)
            if len(self._shelves.all_uploads()) >= self._settings.max_uploads:
                raise conflict(
                    f"{self._settings.max_uploads} uploads are open, which is all there may be.",
                    code="too_many",
                    param="name",
                )
            self._shelves.require_room(upload.size, self._settings.quota_bytes)
            self._shelves.announce(upload)
        return upload

    def received(self, upload: Announced) -> dict[str, int]:
        """Of each file how many bytes are here."""
        return {file.path: _size(self._shelves.part(upload.id, file.path)) for file in upload.files}

    def expires(self, upload: Announced) -> float:
        """When it is thrown away if nothing more comes, in Unix seconds."""
        try:
            last = (self._shelves.uploads / upload.id / ANNOUNCED).stat().st_mtime
        except OSError:
            raise upload_not_found() from None
        return last + self._settings.upload_ttl

    def open_part(self, upload: Announced, file: StoredFile, offset: int) -> Part:
        """See :class:`Part`."""
        return Part(self._shelves.uploads / upload.id, self._shelves.part(upload.id, file.path), file, offset)

    def give_up(self, upload: Announced) -> bool:
        """Throw it away; whether it was still there. Who is sending a part is told with the next piece."""
        with on_disk():
            return self._shelves.discard(self._shelves.uploads / upload.id)

    def publish(self, upload: Announced) -> StoredModel:
        """Check every byte and put the model in place.

        Raises :class:`ApiError` 409 (incomplete, taken, in use), 422 (another sha256; that file is to be sent again),
        503 and 507; :class:`ArtifactRefused`, after which the upload is gone.
        """
        with on_disk(), self._alone(upload):
            files = self._shelves.uploads / upload.id / "files"
            for file in upload.files:
                self._check_whole(files / file.path, file)
            try:
                found = examine(files, [file.path for file in upload.files])
                model = self._servable(upload, found, files)
            except ArtifactRefused:
                self._shelves.discard(self._shelves.uploads / upload.id)
                raise
            self._put_in_place(model, files)
            self._shelves.discard(self._shelves.uploads / upload.id)
        return model

    def sweep(self) -> None:
        """Throw away what nobody goes on with."""
        now = time.time()
        for upload in self._shelves.all_uploads():
            with suppress(ApiError, OSError):
                if self.expires(upload) < now:
                    with self._alone(upload):
                        self._shelves.discard(self._shelves.uploads / upload.id)
        self._shelves.empty_trash(now - 3600)

    # -- completion ---------------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self, upload: Announced) -> Iterator[None]:
        try:
            descriptor = os.open(self._shelves.uploads / upload.id / ANNOUNCED, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise upload_not_found() from None
        try:
            if not exclusively(descriptor):
                raise busy("A part of the upload is coming in, or it is being completed.")
            os.utime(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _check_whole(self, path: Path, file: StoredFile) -> None:
        size = _size(path)
        if size != file.size:
            raise conflict(f"{file.path} has {size} of {file.size} bytes.", code="incomplete", param="files")
        if self._sha256(path) != file.sha256:
            path.unlink()
            raise ApiError(
                422, f"{file.path} does not have that sha256. Send it again.", code="sha256_mismatch", param="files"
            )

    def _sha256(self, path: Path) -> str:
        """Also syncs it: what is in place later must be on the disk."""
        digest = hashlib.sha256()
        with path.open("rb") as file:
            os.fsync(file.fileno())
            while chunk := file.read(_CHUNK):
                self._going_on()
                digest.update(chunk)
        return digest.hexdigest()

    def _servable(self, upload: Announced, found: Found, files: Path) -> StoredModel:
        """The model, with what the engine needs beside a GGUF if that can be made. Raises :class:`ArtifactRefused`."""
        reason = None if found.gguf is None else why_not(found.gguf)
        model = StoredModel(
            upload.name,
            found.format,
            found.architecture,
            reason,
            upload.tenant,
            time.time(),
            upload.created_by,
            upload.files,
        )
        if found.gguf is None or reason is not None:
            return model
        with self._shelves.locked():
            self._shelves.require_room(converted_bytes(found.gguf), self._settings.quota_bytes)
        source = next(file.path for file in upload.files if file.path.lower().endswith(".gguf"))
        made = files.parent / "derived"
        try:
            made.mkdir(mode=0o700)
            convert_gguf(files / source, made, self._going_on)
            derived = tuple(StoredFile(path.name, _size(path), self._sha256(path)) for path in sorted(made.iterdir()))
            for file in derived:
                (made / file.path).rename(files / file.path)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return replace(model, derived=derived)

    def _put_in_place(self, model: StoredModel, files: Path) -> None:
        write_json(files / MANIFEST, asdict(model))
        _sync(files)
        with self._shelves.locked():
            target = self._shelves.models / model.name
            if target.exists():
                raise name_taken()
            try:
                files.rename(target)
            except FileNotFoundError:  # it was given up meanwhile
                raise upload_not_found() from None
            _sync(self._shelves.models)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
