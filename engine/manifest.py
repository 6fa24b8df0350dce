"""``manifest.json``: what a finished directory holds, so that a damaged one is seen."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_NAME: Final = "manifest.json"


def write_manifest(directory: Path, about: Mapping[str, object]) -> None:
    """List the files below ``directory`` and what it was made from; all of it is on disk when this returns."""
    files = {}
    for path in sorted(directory.rglob("*")):
        sync(path)
        if path.is_dir():
            continue
        status = path.stat()
        name = str(path.relative_to(directory))
        files[name] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256_of(path)}
    (directory / _NAME).write_text(json.dumps({**about, "files": files}, indent=2) + "\n", "utf-8")
    sync(directory / _NAME)
    sync(directory)


def is_whole(directory: Path, *, verify: bool = False) -> bool:
    """Whether ``directory`` holds what its manifest lists.

    A file of the listed size and time is believed; any other time, or ``verify``, is answered by its checksum.
    """
    try:
        files = json.loads((directory / _NAME).read_text("utf-8"))["files"]
        return bool(files) and all(_matches(directory / name, entry, verify) for name, entry in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _matches(path: Path, entry: Mapping[str, object], verify: bool) -> bool:
    status = path.stat()
    if status.st_size != entry["size"]:
        return False
    believed = status.st_mtime_ns == entry["mtime_ns"] and not verify
    return believed or sha256_of(path) == entry["sha256"]


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have the kernel write a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
