"""The adapters that there should be: listed, lying in a directory, or registered at run time."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from gateway.adapters.sources import CONFIG, WEIGHTS, Source
from gateway.settings.adapters import AdapterSettings

Origin = Literal["listed", "directory", "registered"]


@dataclass(frozen=True, slots=True)
class Desired:
    """``sha256``: of the content, where it is known; other content is then not this adapter. ``stamp``: changes when
    files of a directory do. ``created`` is Unix seconds.
    """

    name: str
    model: str
    source: Source
    origin: Origin
    sha256: str | None = None
    tenant: str | None = None
    pinned: bool = False
    enabled: bool = True
    created: float = 0.0
    created_by: str = ""
    stamp: str = ""


class AdapterRecords(Protocol):
    """Where registered adapters are kept. Methods block, and may raise
    :class:`gateway.store.database.StoreUnavailable`.
    """

    def all(self) -> list[Desired]:
        """Every registered adapter."""

    def put(self, desired: Desired) -> None:
        """Add one or replace the one of its name."""

    def remove(self, name: str) -> None:
        """Idempotent."""


class MemoryRecords:
    """For a gateway without a store: gone with the process."""

    def __init__(self) -> None:
        self._records: dict[str, Desired] = {}

    def all(self) -> list[Desired]:
        """See :class:`AdapterRecords`."""
        return list(self._records.values())

    def put(self, desired: Desired) -> None:
        """See :class:`AdapterRecords`."""
        self._records[desired.name] = desired

    def remove(self, name: str) -> None:
        """See :class:`AdapterRecords`."""
        self._records.pop(name, None)


def listed(settings: AdapterSettings, default_model: str) -> list[Desired]:
    """Those in the configuration."""
    return [
        Desired(
            each.name,
            each.model or default_model,
            Source(each.source, each.sha256, each.revision),
            "listed",
            None if "://" in each.source else each.sha256,
            each.tenant,
            each.pinned,
        )
        for each in settings.listed
    ]


def scan(directory: Path, model: str) -> list[Desired]:
    """Those that lie in ``directory`` now: every directory in it that holds both files. Blocks."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.is_dir():
                stamp = _stamp(Path(entry.path))
                if stamp:
                    found.append(Desired(entry.name, model, Source(entry.path), "directory", stamp=stamp))
    return found


def _stamp(directory: Path) -> str:
    parts = []
    for name in (CONFIG, WEIGHTS):
        try:
            status = (directory / name).lstat()
        except OSError:
            return ""
        parts.append(f"{status.st_ino}:{status.st_mtime_ns}:{status.st_size}")
    return "/".join(parts)


def merged(*sets: Iterable[Desired]) -> dict[str, Desired]:
    """By name; the earlier set wins, so that nothing registered can take the place of what is configured."""
    found: dict[str, Desired] = {}
    for each in sets:
        for desired in each:
            found.setdefault(desired.name, desired)
    return found
