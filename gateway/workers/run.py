"""From settings to a parent with its workers, and their exit status."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

from prometheus_client import CollectorRegistry

from engine.types import EngineUnavailable
from gateway.app import http_bounds
from gateway.engines import Served, shared_engines
from gateway.http.listener import AddressUnavailableError, reserve
from gateway.observability.adapters import AdapterMetrics
from gateway.serve import EXIT_FAILED, EXIT_OK, Stopping
from gateway.settings import Settings, SettingsError
from gateway.workers.messages import Job
from gateway.workers.supervisor import Supervisor, Worker

log = logging.getLogger("sluice.workers")


def run_workers(settings: Settings, served: Served, announce: Callable[[int], None]) -> int:
    """Serve until told to stop; the exit status. Raises :class:`SettingsError`."""
    try:
        held = reserve(settings.host, settings.port, http_bounds(settings))
    except AddressUnavailableError as error:
        raise SettingsError(f"host, port: {error}") from None
    port = int(held[0].getsockname()[1])
    settings = settings.model_copy(update={"port": port})
    try:
        good = asyncio.run(_run(settings, served, lambda: announce(port)))
    except EngineUnavailable as error:
        sys.stderr.write(f"sluice: {error}\n")
        return EXIT_FAILED
    finally:
        for sock in held:
            sock.close()
    return EXIT_OK if good else EXIT_FAILED


async def _run(settings: Settings, served: Served, serving: Callable[[], None]) -> bool:
    stop = Stopping()
    stop.listen()
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGHUP, lambda: log.warning("the settings of several workers are not read anew: restart")
    )

    def start(index: int, late: bool) -> Worker:
        return start_worker(Job(settings, served, index, late))

    engines = shared_engines(settings, served)
    registry = CollectorRegistry()
    supervisor = Supervisor(
        settings.workers,
        engines,
        start,
        serving,
        drain_timeout=settings.drain_timeout,
        adapters=engines.desk(AdapterMetrics(registry)),
        registry=registry,
    )
    return await supervisor.run(stop.first, stop.second)


def start_worker(job: Job) -> Worker:
    """A process of its own, told what to do over its end of a pair of sockets."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "gateway.workers.worker", str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()])  # noqa: S603 - ourselves
    connection = Connection(ours.detach())
    worker = Worker(job.index, process, connection)
    worker.send(job)
    return worker
