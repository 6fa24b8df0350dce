"""The operating-system side of one engine: its processes, their CPU time, and their end."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from contextlib import suppress

import psutil


class EngineProcesses:
    """The processes of one running engine. All methods are safe when some of them are gone."""

    def __init__(self, processes: Iterable[psutil.Process]) -> None:
        self._processes = list(processes)

    @classmethod
    def started_since(cls, earlier: AbstractSet[int]) -> EngineProcesses:
        """The engine processes below this one that were not among ``earlier`` (pids).

        Engines are started by ``multiprocessing``; other children (the grammar worker, the resource tracker that all
        engines share) belong to nobody's engine.
        """
        return cls(p for p in _engine_family() if p.pid not in earlier)

    @classmethod
    def of(cls, pids: Iterable[int]) -> EngineProcesses:
        """Those that somebody else has started."""
        return cls(process for process in map(_process, pids) if process is not None)

    @property
    def pids(self) -> list[int]:
        """The engine core first, then what it started itself."""
        return [process.pid for process in self._processes]

    def cpu_seconds(self) -> float:
        """User and system CPU time of all of them and of what they have started (compilers) together."""
        return sum(_cpu_seconds(process) for process in self._family())

    def memory_bytes(self) -> int:
        """Resident memory of all of them together; pages that they share count for each."""
        return sum(_resident(process) for process in self._family())

    def _family(self) -> set[psutil.Process]:
        family = set(self._processes)
        for process in self._processes:
            with suppress(psutil.Error):
                family.update(process.children(recursive=True))
        return family

    def kill(self, wait: float = 5.0) -> None:
        """SIGKILL, also to stopped ones; returns when they are gone or after ``wait`` seconds."""
        family = self._family()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=wait)


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _engine_family() -> list[psutil.Process]:
    family: list[psutil.Process] = []
    for child in multiprocessing.active_children():
        with suppress(psutil.Error):
            process = psutil.Process(child.pid)
            family += [process, *process.children(recursive=True)]
    return family


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def descendants() -> frozenset[int]:
    """Pids of every process below this one."""
    return frozenset(p.pid for p in psutil.Process().children(recursive=True))
