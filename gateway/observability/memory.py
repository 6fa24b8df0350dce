"""How much of the memory that this process may use is in use: the container's if it has a bound, else the machine's."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.stat")),
    (
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.stat"),
    ),
)
_MEMINFO = Path("/proc/meminfo")


def read_fraction() -> float:
    """Share of memory in use, 0 to 1, page cache not counted; 0 where the system does not tell."""
    machine = _machine()
    return max([*(_cgroup(*files) for files in _CGROUPS), machine])


def _machine() -> float:
    try:
        fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        total, available = (int(fields[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return 0.0
    return 1.0 - available / total


def _cgroup(usage: Path, limit: Path, stat: Path) -> float:
    try:
        bound = int(limit.read_text())
        cached = next(
            int(line.split()[1]) for line in stat.read_text().splitlines() if line.startswith("inactive_file")
        )
        return (int(usage.read_text()) - cached) / bound
    except (OSError, ValueError, StopIteration):
        return 0.0  # no cgroup of this version, or no bound ("max")


class Sampled:
    """A value that is read at most once per ``interval`` seconds."""

    def __init__(
        self, read: Callable[[], float], interval: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._interval = interval
        self._clock = clock
        self._due = 0.0
        self._value = 0.0

    def __call__(self) -> float:
        """The value now, or a moment ago."""
        now = self._clock()
        if now >= self._due:
            self._due = now + self._interval
            self._value = self._read()
        return self._value
