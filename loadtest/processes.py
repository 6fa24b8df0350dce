"""A server under test as a tree of processes: started, watched, measured, and always ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


class StartError(Exception):
    """A server did not become ready; the message ends with the tail of its log."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server. ``environment`` is the whole of it; output goes to ``log``."""

    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path


class ServerProcess:
    """A running server and everything it started."""

    def __init__(self, launch: Launch) -> None:
        self._log = launch.log
        with launch.log.open("ab") as log:
            self._process = subprocess.Popen(
                list(launch.command),
                env=dict(launch.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._root = psutil.Process(self._process.pid)

    def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Poll ``ready`` until it is true. Raises :class:`StartError` if the server exits or time runs out."""
        deadline = time.monotonic() + timeout
        while not ready():
            if (code := self._process.poll()) is not None:
                raise StartError(f"exited with {code} while starting\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise StartError(f"not ready after {timeout:.0f} s\n{self.log_tail()}")
            time.sleep(0.2)

    def tree(self) -> list[psutil.Process]:
        """The server's process and all its descendants."""
        return [self._root, *self._root.children(recursive=True)]

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def terminate(self) -> None:
        """SIGTERM, and nothing more."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float) -> int:
        """Its exit code. Raises ``subprocess.TimeoutExpired``."""
        return self._process.wait(timeout)

    def log_tail(self, lines: int = 25) -> str:
        return "\n".join(self._log.read_text("utf-8", "replace").splitlines()[-lines:])

    def stop(self, grace: float = 20.0) -> None:
        """SIGTERM, ``grace`` seconds, then SIGKILL to whatever is left of the tree and the process group."""
        try:
            tree = self.tree()
        except psutil.NoSuchProcess:
            tree = []
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for survivor in psutil.wait_procs(tree, timeout=2.0)[1]:
            _kill(survivor)
        _kill_group(self._process.pid)


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()
        process.wait(5)


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def is_behind(process: psutil.Process) -> bool:
    """Whether a process is vLLM's engine core or worker, an idle helper of ``multiprocessing``, or a Redis."""
    command = " ".join(process.cmdline())
    return any(word in command for word in ("EngineCore", "VLLM::Worker", "resource_tracker", "valkey-server"))


def front_end(tree: Sequence[psutil.Process]) -> list[psutil.Process]:
    """The processes that do the HTTP work: vLLM's Rust binary if there is one, else all but those behind it."""
    rust = [process for process in tree if process.name() == "vllm-rs"]
    return rust or [process for process in tree if not is_behind(process)]


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """User and system CPU time so far, all threads, in seconds.

    Read from the process's CPU clock, which counts nanoseconds where /proc/PID/stat counts 10 ms ticks; its id is
    made as clock_getcpuclockid(3) does (``MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)`` in the kernel's
    include/linux/posix-timers_types.h).
    """
    return sum(time.clock_gettime((~process.pid << 3) | 2) for process in processes)


def wait_for_rest(list_processes: Callable[[], Sequence[psutil.Process]], timeout: float) -> bool:
    """Wait until they use less than 5 % of a core for a second: what a start leaves to do is no cost of requests.

    Returns False when that did not come within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        processes = list_processes()
        with suppress(OSError):  # one of them ended meanwhile
            before = cpu_seconds(processes)
            time.sleep(1.0)
            if cpu_seconds(processes) - before < 0.05:
                return True
    return False


def resident_mib(processes: Sequence[psutil.Process]) -> float:
    """Resident memory in MiB."""
    return sum(process.memory_info().rss for process in processes) / 2**20


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
