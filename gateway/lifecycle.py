"""The process's life: starting -> ready -> draining -> stopped."""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from engine.types import Engine
from gateway.admission import Gates
from gateway.errors import invalid_api_key, shutting_down
from gateway.front import Front
from gateway.http.server import HttpServer
from gateway.observability.looplag import LagWindow, LoopLag
from gateway.observability.metrics import Metrics
from gateway.pipeline import Pipeline
from gateway.routes.system import ready_reason, unwell
from gateway.settings import Settings

log = logging.getLogger("sluice.lifecycle")

#: What a refused client is told to wait while another replica, or the next process, takes over.
RETRY_AFTER_SECONDS = 5.0
#: Time for the last error events to leave before connections are cut.
GOODBYE_SECONDS = 1.0


class GatewayPhase(enum.Enum):
    """Where the process is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


class Service(Protocol):
    """Something that runs beside the requests and that they need."""

    async def start(self) -> None:
        """Begin. Does not fail because something outside of this process is away."""

    async def stop(self) -> None:
        """End; what must not be lost is brought home first. Idempotent."""

    def degraded(self) -> Sequence[str]:
        """What of it does not work now, in words fit for a header; the process serves all the same."""


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """The process as it tells of itself. ``not_ready`` None: new work is welcome. ``loop_lag_seconds``: the worst of
    the last 30 s.
    """

    phase: str
    not_ready: str | None
    degraded: Sequence[str]
    uptime_seconds: float
    connections: int
    loop_lag_seconds: float


class Gateway:
    """Everything that runs. Made by :func:`gateway.app.create_app`; use from one event loop."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        gate: Gates,
        metrics: Metrics,
        worker: Executor,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._gate = gate
        self._pipeline: Pipeline | None = None
        self._services: Sequence[Service] = ()
        self._metrics = metrics
        self._worker = worker
        self._phase = GatewayPhase.STARTING
        self._began = time.monotonic()
        self._started = False
        self._front: Front | None = None
        self._server: HttpServer | None = None
        self._lag_window = LagWindow()
        self._lag = LoopLag(self._observe_lag)
        self._ticker: asyncio.Task[None] | None = None
        self.refreshers: list[Callable[[], None]] = []
        #: Each says why new work is not welcome, though the engine is ready; None: it is.
        self.vetoes: list[Callable[[], str | None]] = []
        #: Reads the settings anew, soon.
        self.reload: Callable[[], None] = lambda: log.warning("the settings cannot be read again")

    def attach(self, pipeline: Pipeline, front: Front, server: HttpServer, services: Sequence[Service]) -> None:
        """The last parts, which need the others. ``services`` start in this order and stop in reverse."""
        self._pipeline = pipeline
        self._front = front
        self._server = server
        self._services = services

    # -- what probes and scrapes ask ------------------------------------------------------------------------------

    @property
    def phase(self) -> GatewayPhase:
        """Where the process is in its life."""
        return self._phase

    def is_started(self) -> bool:
        """Whether the engine was ready once."""
        return self._started

    def not_ready_reason(self) -> str | None:
        """None if new work is welcome, else why not."""
        if self._phase is not GatewayPhase.READY:
            return str(self._phase.value)
        reasons = (ready_reason(self._engine.state().phase), *(veto() for veto in self.vetoes))
        return next((reason for reason in reasons if reason is not None), None)

    def degraded(self) -> list[str]:
        """What does not work now, though the process serves."""
        words = [word for service in self._services for word in service.degraded()]
        models = self._engine.models()
        return words + (unwell(models) if len(models) > 1 else [])

    def facts(self) -> ProcessFacts:
        """What people who look at it are told."""
        assert self._server is not None
        return ProcessFacts(
            phase=self._phase.value,
            not_ready=self.not_ready_reason(),
            degraded=self.degraded(),
            uptime_seconds=time.monotonic() - self._began,
            connections=self._server.connections,
            loop_lag_seconds=self._lag_window.max,
        )

    def refresh_metrics(self) -> None:
        """Bring gauges up to date before a scrape."""
        assert self._server is not None
        self._metrics.engine_state(self._engine.state())
        self._metrics.adapters(self._engine.adapters())
        self._metrics.models(self._engine.models(), self._engine.pool())
        self._metrics.gate(queued=self._gate.queued, bound=self._gate.bound)
        self._metrics.connections.set(self._server.connections)
        self._metrics.loop_lag_max.set(self._lag_window.max)
        for refresh in self.refreshers:
            refresh()

    def _observe_lag(self, seconds: float) -> None:
        self._lag_window(seconds)
        self._metrics.loop_lag.observe(seconds)

    # -- life -----------------------------------------------------------------------------------------------------

    async def listen(self) -> int:
        """Open the port: probes are answered from here on. Returns the port."""
        assert self._server is not None
        port = await self._server.start(self._settings.host, self._settings.port)
        self._lag.start()
        for service in self._services:
            await service.start()
        self._ticker = asyncio.create_task(self._tick(), name="gateway-ticker")
        return port

    async def start_engine(self) -> None:
        """Load the model; ready when this returns. Raises :class:`engine.types.EngineUnavailable`."""
        await self._engine.start()
        self._started = True
        if self._phase is GatewayPhase.STARTING:
            self._phase = GatewayPhase.READY
            log.info("ready")

    async def drain(self) -> None:
        """Refuse new work, let streams finish for ``drain_timeout``, end what is left with a clear error."""
        assert self._server is not None
        assert self._front is not None
        if self._phase in (GatewayPhase.DRAINING, GatewayPhase.STOPPED):
            return
        self._phase = GatewayPhase.DRAINING
        self._gate.close(RETRY_AFTER_SECONDS)
        self._server.begin_drain()
        log.info("draining", extra={"fields": {"in_flight": self._gate.in_flight}})
        if not await self._finished_within(self._settings.drain_timeout):
            for exchange in list(self._front.running):
                exchange.interrupt(shutting_down(RETRY_AFTER_SECONDS))
            await self._finished_within(GOODBYE_SECONDS)

    def cut(self, principals: Collection[str]) -> None:
        """End the requests of principals that are no more: their keys were revoked or have expired."""
        assert self._front is not None
        for exchange in list(self._front.running):
            if exchange.principal is not None and exchange.principal.id in principals:
                exchange.interrupt(invalid_api_key())

    async def stop(self) -> None:
        """Close everything, in reverse order of its start. Idempotent."""
        assert self._server is not None
        if self._phase is GatewayPhase.STOPPED:
            return
        self._gate.close(RETRY_AFTER_SECONDS)
        self._phase = GatewayPhase.STOPPED
        self._server.close_listener()
        self._server.abort_all()
        if self._ticker is not None:
            self._ticker.cancel()
            with suppress(asyncio.CancelledError):
                await self._ticker
        self._lag.stop()
        await self._engine.stop()
        for service in reversed(self._services):
            await service.stop()
        self._worker.shutdown(wait=False, cancel_futures=True)
        log.info("stopped")

    async def _finished_within(self, seconds: float) -> bool:
        """Whether every running request ends, and its answer leaves, within ``seconds``."""
        assert self._server is not None
        return await self._server.wait_idle(seconds)

    async def _tick(self) -> None:
        """Once a second: comments on silent streams."""
        assert self._pipeline is not None
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            for sink in tuple(self._pipeline.streams):
                sink.tick(now, self._settings.keep_alive_interval)
