"""The server: listeners, the one sweeper behind all timeouts, and the orderly end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Final

from gateway.http.bounds import HttpBounds
from gateway.http.listener import bind, connection_limit, tune
from gateway.http.protocol import HttpConnection
from gateway.http.shared import LOGGER, AsgiApp, FrontState, OnReject

_BACKLOG: Final = 2048
_POLL: Final = 0.02


class HttpServer:
    """Serves ``app`` (ASGI 3, http scopes only). ``on_reject`` is called with the code of every rejection.

    Must be built and used on one running event loop.
    """

    def __init__(self, app: AsgiApp, bounds: HttpBounds, *, on_reject: OnReject) -> None:
        self._state = FrontState(app, bounds, on_reject)
        self._servers: list[asyncio.Server] = []
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """Open connections, closing ones included."""
        return len(self._state.connections)

    @property
    def running(self) -> int:
        """Requests whose application has not returned."""
        return len(self._state.cycles)

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, sockets: Sequence[socket.socket] = ()) -> int:
        """Listen on ``host``:``port``, or on bound ``sockets``; returns the bound port.

        Raises :class:`gateway.http.listener.AddressUnavailableError`.
        """
        state = self._state
        listeners = list(sockets) or bind(host, port, state.bounds)
        state.max_connections = connection_limit(state.bounds)
        if state.max_connections < state.bounds.max_connections:
            LOGGER.warning("connections are limited to %d by the open files limit", state.max_connections)
        for sock in listeners:
            tune(sock, state.bounds)
            self._servers.append(await state.loop.create_server(self._accept, sock=sock, backlog=_BACKLOG))
        self._schedule_sweep()
        return int(listeners[0].getsockname()[1])

    def begin_drain(self) -> None:
        """Close what is idle; every answer from now on ends its connection. The listener stays open."""
        self._state.draining = True
        for connection in tuple(self._state.connections):
            connection.drain()

    def close_listener(self) -> None:
        """Accept no more connections."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def wait_idle(self, timeout: float) -> bool:  # noqa: ASYNC109 - the answer says which of both happened
        """Wait until no request runs and all answers are with the kernel; False after ``timeout`` seconds."""
        end = self._state.loop.time() + timeout
        while not self._is_idle():
            if self._state.loop.time() >= end:
                return False
            await asyncio.sleep(_POLL)
        return True

    def abort_all(self) -> None:
        """Drop every connection; running applications see a disconnect."""
        for connection in tuple(self._state.connections):
            connection.abort()

    async def stop(self) -> None:
        """Close the listener, drop every connection, end the sweeper. Idempotent."""
        self.close_listener()
        self.abort_all()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        await asyncio.sleep(0)

    def _accept(self) -> HttpConnection:
        return HttpConnection(self._state)

    def _is_idle(self) -> bool:
        return not self._state.cycles and all(connection.flushed for connection in self._state.connections)

    def _schedule_sweep(self) -> None:
        self._sweep = self._state.loop.call_later(self._state.bounds.sweep_interval, self._sweep_connections)

    def _sweep_connections(self) -> None:
        """One comparison per connection instead of a timer per request."""
        self._schedule_sweep()
        state = self._state
        state.refresh_date()
        now = state.loop.time()
        late = [c for c in state.connections if c.deadline <= now or c.stall_at <= now]
        for connection in late:
            connection.expire(now)
