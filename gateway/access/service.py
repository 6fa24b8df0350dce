"""The keys of the store as a part of the running gateway: kept in step with the database and with other replicas."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.access.following import Following
from gateway.access.keysync import KeySync
from gateway.access.nudge import Nudges


class KeyService:
    """A :class:`~gateway.lifecycle.Service`. ``nudges`` None: no Redis, polling finds what others change."""

    def __init__(self, sync: KeySync, nudges: Nudges | None) -> None:
        self._sync = sync
        self._following = Following(sync, nudges)

    async def start(self) -> None:
        """See :class:`~gateway.lifecycle.Service`."""
        await self._following.start()

    async def stop(self) -> None:
        """See :class:`~gateway.lifecycle.Service`."""
        await self._following.stop()

    def degraded(self) -> Sequence[str]:
        """See :class:`~gateway.lifecycle.Service`."""
        return () if self._sync.available else ("store",)

    async def changed(self) -> None:
        """This replica has changed a key: know it here at once, and tell the others."""
        await self._sync.refresh()
        await self._following.tell()
