"""What all connections of one server share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

from gateway.http.bounds import HttpBounds

if TYPE_CHECKING:
    from gateway.http.cycle import RequestCycle
    from gateway.http.protocol import HttpConnection

Message = MutableMapping[str, Any]
AsgiApp = Callable[[MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
                   Awaitable[None]]  # fmt: skip
OnReject = Callable[[str], None]

LOGGER: Final = logging.getLogger("sluice.http")
_LOG_INTERVAL: Final = 1.0


class RejectLog:
    """Counts every rejection, writes at most one log line per second."""

    def __init__(self, on_reject: OnReject, clock: Callable[[], float]) -> None:
        self._on_reject = on_reject
        self._clock = clock
        self._quiet_until = float("-inf")
        self._suppressed = 0

    def note(self, code: str) -> None:
        """Count a rejection with this error code."""
        self._on_reject(code)
        now = self._clock()
        if now < self._quiet_until:
            self._suppressed += 1
            return
        LOGGER.info("rejected a request: %s (%d more since the last line)", code, self._suppressed)
        self._quiet_until = now + _LOG_INTERVAL
        self._suppressed = 0


class FrontState:
    """The application, the bounds, and who is connected. ``max_connections`` is what the machine allows."""

    def __init__(self, app: AsgiApp, bounds: HttpBounds, on_reject: OnReject) -> None:
        self.app = app
        self.bounds = bounds
        self.loop = asyncio.get_running_loop()
        self.max_connections = bounds.max_connections
        self.draining = False
        self.connections: set[HttpConnection] = set()
        self.cycles: set[RequestCycle] = set()
        self.rejects = RejectLog(on_reject, self.loop.time)
        self.date_line = b""
        self.refresh_date()

    def refresh_date(self) -> None:
        """RFC 9110 section 6.6.1: an origin server with a clock sends Date. Rendered once per sweep."""
        self.date_line = b"date: %b\r\n" % formatdate(usegmt=True).encode("ascii")
