"""Names to addresses, bounded in time and number, so that slow name servers hold up images and nothing else."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Final

from gateway.media.addresses import Address
from gateway.media.faults import MediaFault

#: Look-ups at once: a thread that waits for a name server cannot be stopped.
MAX_LOOKUPS: Final = 16

Lookup = Callable[[str, int], Sequence[str]]


def system_lookup(host: str, port: int) -> list[str]:
    """Every address of ``host`` that the system knows. Blocks; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(sockaddr[0]) for *_, sockaddr in found]


class Resolver:
    """``timeout`` in seconds. Threads of its own, which nobody waits for when the process ends."""

    def __init__(self, timeout: float, lookup: Lookup = system_lookup) -> None:
        self._timeout = timeout
        self._lookup = lookup
        self._busy = 0

    async def resolve(self, host: str, port: int) -> list[Address]:
        """The addresses of ``host``, in the system's order. Raises :class:`MediaFault` ``image_fetch_failed``."""
        if self._busy >= MAX_LOOKUPS:
            raise _unresolved()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Sequence[str]] = loop.create_future()

        def work() -> None:
            try:
                answer = self._lookup(host, port)
            except (OSError, UnicodeError) as error:
                failure = error
                _tell(loop, lambda: self._finish(found, failure))
            else:
                _tell(loop, lambda: self._finish(found, answer))

        self._busy += 1
        threading.Thread(target=work, name="sluice-dns", daemon=True).start()
        try:
            async with asyncio.timeout(self._timeout):
                names = await found
        except (OSError, UnicodeError, TimeoutError):
            raise _unresolved() from None
        return [ipaddress.ip_address(name.partition("%")[0]) for name in names]

    def _finish(self, found: asyncio.Future[Sequence[str]], outcome: Sequence[str] | Exception) -> None:
        self._busy -= 1
        if found.done():
            return
        if isinstance(outcome, Exception):
            found.set_exception(outcome)
        else:
            found.set_result(outcome)


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        # The loop has closed while the name server kept silent: nobody waits any more.
        return


def _unresolved() -> MediaFault:
    return MediaFault("image_fetch_failed", "The host's name could not be resolved.")
