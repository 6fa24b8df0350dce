"""In step with what other replicas change: polled, and at once where Redis says so."""

from __future__ import annotations

from typing import Protocol

from gateway.access.nudge import Nudges


class Polled(Protocol):
    """See :class:`gateway.store.polling.Poller`."""

    async def start(self) -> object:
        """Look once, then poll in the background until :meth:`stop`."""

    async def stop(self) -> None:
        """End it."""


class Following:
    """``nudges`` None: no Redis, polling finds what others change."""

    def __init__(self, polled: Polled, nudges: Nudges | None) -> None:
        self._polled = polled
        self._nudges = nudges

    async def start(self) -> None:
        """Look for the first time, then listen: a nudge before that would find nobody to look."""
        await self._polled.start()
        if self._nudges is not None:
            self._nudges.start()

    async def stop(self) -> None:
        """In the reverse order."""
        if self._nudges is not None:
            await self._nudges.stop()
        await self._polled.stop()

    async def tell(self) -> None:
        """The other replicas that this one has changed something."""
        if self._nudges is not None:
            await self._nudges.publish()
