"""Reads a ledger's files as they grow and rotate, from a place that can be written down.

A file is known by its first row, not by name or inode: names change at a rotation, inodes are given to the next file.
Of each file is kept how far it was read and what stood right before, so that order does not matter and a file that was
cut, or replaced, or restored from a backup is noticed and read again: rows that were copied before change nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from gateway.usage.file import rotated_files
from gateway.usage.records import Admitted, Entry, Settled

log = logging.getLogger("sluice.usage")

#: Bytes of one portion. No row is longer.
MAX_READ_BYTES: Final = 256 * 1024
_FIRST_BYTES: Final = 1024
_BEFORE_BYTES: Final = 1024

_decode = msgspec.json.Decoder(Entry).decode


class Mark(msgspec.Struct, frozen=True):
    """The first ``offset`` bytes of a file were read; ``before`` is a digest of the last of them."""

    offset: int
    before: str


class Place(msgspec.Struct, frozen=True):
    """How far every file was read, by its identity. ``last`` is the last row that the database took."""

    files: dict[str, Mark] = {}
    last: Settled | None = None


@dataclass(frozen=True, slots=True)
class Portion:
    """Settled requests, where reading goes on after them, and the bytes that still lie behind that.

    ``garbage`` counts lines that are no rows.
    """

    rows: list[Settled]
    place: Place
    behind: int
    garbage: int


class Bookmark:
    """Where the copying stands, in a small file beside the ledger. Lost or odd, everything is read again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Place:
        """The place; the beginning if there is none that can be trusted."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Place)
        except FileNotFoundError:
            return Place()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("the ledger is read from its beginning, %s is of no use: %s", self._path, error)
            return Place()

    def write(self, place: Place) -> None:
        """Replace it at once. Raises OSError."""
        draft = self._path.with_name(self._path.name + ".draft")
        draft.write_bytes(msgspec.json.encode(place))
        os.replace(draft, self._path)


@dataclass(frozen=True, slots=True)
class _File:
    """``open`` is the current file, which may have another name by now; None: it is rotated and grows no more."""

    path: Path
    identity: str
    size: int
    open: BinaryIO | None


class JournalReader:
    """The files of the ledger at ``path``: rotated ones, then the current."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[Path, int], str] = {}
        self._seen: dict[str, _File] = {}

    def read(self, place: Place) -> Portion | None:
        """What comes next after ``place``; None if there is nothing more. Raises OSError."""
        with ExitStack() as stack:
            files = self._files(stack)
            self._tell_of_vanished(files, place)
            for file in files.values():
                offset = _offset(file, place)
                portion = self._read_file(file, offset, place) if offset < file.size else None
                if portion is not None:
                    return portion
        return None

    def behind(self, place: Place) -> int:
        """Bytes that are still to be read after ``place``. Raises OSError."""
        with ExitStack() as stack:
            return _behind(self._files(stack), place)

    def _files(self, stack: ExitStack) -> dict[str, _File]:
        # The current file first: if it is rotated before the next line, it is found under both names, not under none.
        current = self._current(stack)
        by_identity: dict[str, _File] = {}
        for file in [*map(self._rotated, rotated_files(self._path)), current]:
            # Of a copy that somebody made, and of one file under two names, the one that holds more.
            if file is not None and (file.identity not in by_identity or file.size > by_identity[file.identity].size):
                by_identity[file.identity] = file
        return by_identity

    def _current(self, stack: ExitStack) -> _File | None:
        try:
            file = stack.enter_context(self._path.open("rb"))
        except FileNotFoundError:
            return None
        identity = _identity(file)
        return None if identity is None else _File(self._path, identity, os.fstat(file.fileno()).st_size, file)

    def _rotated(self, path: Path) -> _File | None:
        try:
            status = path.stat()
            key = path, status.st_ino
            if key not in self._known:
                with path.open("rb") as file:
                    # Without one whole row there is nothing to be lost in it.
                    self._known[key] = _identity(file) or ""
        except FileNotFoundError:
            return None
        identity = self._known[key]
        return _File(path, identity, status.st_size, None) if identity else None

    def _read_file(self, file: _File, offset: int, place: Place) -> Portion | None:
        if file.open is not None:
            return self._read_from(file.open, file, offset, place)
        try:
            with file.path.open("rb") as opened:
                return self._read_from(opened, file, offset, place)
        except FileNotFoundError:
            return None  # the next look tells of it

    def _read_from(self, opened: BinaryIO, file: _File, offset: int, place: Place) -> Portion | None:
        mark = place.files.get(file.identity)
        if mark is not None and (offset != mark.offset or _before(opened, offset) != mark.before):
            log.warning("%s is not what it was, it is read from its beginning", file.path)
            offset = 0
        data = os.pread(opened.fileno(), MAX_READ_BYTES, offset)
        end = data.rfind(b"\n") + 1
        if not end and (len(data) == MAX_READ_BYTES or file.open is None):
            end = len(data)  # no row is so long, and what a rotated file ends with stays as it is
        if not end:
            return None
        # Files that are gone are forgotten.
        files = {identity: each for identity, each in place.files.items() if identity in self._seen}
        files[file.identity] = Mark(offset + end, _before(opened, offset + end))
        rows, garbage = _rows(data[:end])
        after = Place(files, place.last)
        return Portion(rows, after, _behind(self._seen, after), garbage)

    def _tell_of_vanished(self, files: dict[str, _File], place: Place) -> None:
        for identity in self._seen.keys() - files.keys():
            file = self._seen[identity]
            unread = file.size - _offset(file, place)
            if unread > 0:
                log.error("%s is gone with %d bytes that were not copied to the database", file.path, unread)
        self._seen = files


def _identity(file: BinaryIO) -> str | None:
    """The digest of the first row, which has an id and a time of its own; None if there is no whole one yet."""
    head = os.pread(file.fileno(), _FIRST_BYTES, 0)
    end = head.find(b"\n") + 1
    if not end and len(head) < _FIRST_BYTES:
        return None
    return _digest(head[:end] if end else head)


def _before(file: BinaryIO, offset: int) -> str:
    start = max(0, offset - _BEFORE_BYTES)
    return _digest(os.pread(file.fileno(), offset - start, start))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _offset(file: _File, place: Place) -> int:
    """Where to read on: at the beginning if the file is shorter than it was."""
    mark = place.files.get(file.identity)
    return mark.offset if mark is not None and 0 <= mark.offset <= file.size else 0


def _behind(files: dict[str, _File], place: Place) -> int:
    return sum(file.size - _offset(file, place) for file in files.values())


def _rows(data: bytes) -> tuple[list[Settled], int]:
    rows, garbage = [], 0
    for line in data.removesuffix(b"\n").split(b"\n"):
        try:
            entry = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            garbage += 1
            continue
        if not isinstance(entry, Admitted):
            rows.append(entry)
    return rows, garbage
