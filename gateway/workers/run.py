"""From settings to a parent with its workers, and their exit status."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from prometheus_client import CollectorRegistry

from engine.types import EngineUnavailable
from gateway.app import http_bounds
from gateway.engines import Served, shared_engines
from gateway.http.listener import AddressUnavailableError, reserve
from gateway.observability.adapters import AdapterMetrics
from gateway.reload.reloader import Cause, InvalidConfig, Outcome, Reloader, ReloadMetrics
from gateway.serve import EXIT_FAILED, EXIT_OK, Stopping
from gateway.settings import Settings, SettingsError
from gateway.workers.fit import check, check_wanted
from gateway.workers.messages import Job, Refused
from gateway.workers.renewal import Renewal
from gateway.workers.supervisor import Supervisor, Worker

log = logging.getLogger("sluice.workers")


def run_workers(
    settings: Settings,
    served: Served,
    announce: Callable[[int], None],
    read: Callable[[], Settings],
    files: Sequence[Path],
) -> int:
    """Serve until told to stop; the exit status. ``read`` reads the settings anew, which are in ``files``.

    Raises :class:`SettingsError`.
    """
    try:
        held = reserve(settings.host, settings.port, http_bounds(settings))
    except AddressUnavailableError as error:
        raise SettingsError(f"host, port: {error}") from None
    port, asked = int(held[0].getsockname()[1]), settings.port
    settings = settings.model_copy(update={"port": port})

    def anew() -> Settings:
        wanted = read()
        check_wanted(wanted, served)
        return wanted.model_copy(update={"port": port}) if wanted.port == asked else wanted

    try:
        good = asyncio.run(_run(settings, served, lambda: announce(port), anew, files))
    except EngineUnavailable as error:
        sys.stderr.write(f"sluice: {error}\n")
        return EXIT_FAILED
    finally:
        for sock in held:
            sock.close()
    return EXIT_OK if good else EXIT_FAILED


async def _run(
    settings: Settings,
    served: Served,
    serving: Callable[[], None],
    read: Callable[[], Settings],
    files: Sequence[Path],
) -> bool:
    stop = Stopping()
    stop.listen()
    all_serve = asyncio.Event()

    def start(index: int, late: bool) -> Worker:
        now = renewal.in_force
        return start_worker(Job(now.settings, now.number, served, index, late))

    def begun() -> None:
        all_serve.set()
        serving()

    engines = shared_engines(settings, served)
    registry = CollectorRegistry()
    supervisor = Supervisor(
        settings.workers,
        engines,
        start,
        begun,
        drain_timeout=settings.drain_timeout,
        adapters=engines.desk(AdapterMetrics(registry)),
        registry=registry,
    )
    renewal = Renewal(supervisor, settings, lambda wanted: check(wanted, [served]))
    reloader = reloader_of_all(supervisor, renewal, settings, read, files, registry)
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    renewing = asyncio.create_task(_renew(reloader, all_serve, asked), name="settings")
    try:
        return await supervisor.run(stop.first, stop.second)
    finally:
        renewing.cancel()
        await reloader.stop()


async def _renew(reloader: Reloader, all_serve: asyncio.Event, asked: asyncio.Event) -> None:
    """Nobody could judge settings before; what was asked or written until then is read then."""
    await all_serve.wait()
    await reloader.start()
    while True:
        await asked.wait()
        asked.clear()
        reloader.ask()


def reloader_of_all(
    supervisor: Supervisor,
    renewal: Renewal,
    settings: Settings,
    read: Callable[[], Settings],
    files: Sequence[Path],
    registry: CollectorRegistry,
) -> Reloader:
    """Who reads the settings anew for all workers, whichever is asked."""
    reloader = Reloader(
        read,
        settings,
        renewal,
        ReloadMetrics(registry),
        renewal.note,
        files=[*files, *([settings.api_key_file] if settings.api_key_file is not None else [])],
        interval=settings.reload.watch_interval,
    )

    async def reload(cause: Cause) -> Outcome | Refused:
        try:
            return await reloader.reload(cause)
        except InvalidConfig as error:
            return Refused(error.path, error.reason)

    supervisor.obey(reload)
    return reloader


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
