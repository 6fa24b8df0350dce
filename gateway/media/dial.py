"""Connections to the very address that was checked: names are resolved once, and what was resolved is connected to."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import httpcore

from gateway.media.addresses import Address, Network, may_connect
from gateway.media.faults import MediaFault
from gateway.media.resolver import Resolver
from gateway.media.urls import Target, parse


@dataclass(frozen=True, slots=True)
class DialPolicy:
    """Where images may come from. ``hosts`` empty: from every public host; ``*.example.com`` means all below it.

    ``networks``: addresses in them are allowed although they are not public.
    """

    ports: Sequence[int] = (80, 443)
    hosts: Sequence[str] = ()
    networks: Sequence[Network] = ()

    def check(self, target: Target) -> None:
        """Raise :class:`MediaFault` ``url_not_allowed`` for what can be told without a name server."""
        if target.port not in self.ports:
            raise _refused("Its port is not allowed.")
        if self.hosts and not any(_matches(target.host, pattern) for pattern in self.hosts):
            raise _refused("Its host is not allowed.")
        if target.address is not None:
            self.check_address(target.address)

    def check_address(self, address: Address) -> None:
        """Raise :class:`MediaFault` ``url_not_allowed`` unless it may be connected to."""
        if not may_connect(address, self.networks):
            raise _refused("Its host is not on the public internet.")


def _matches(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _refused(reason: str) -> MediaFault:
    return MediaFault("url_not_allowed", reason)


class Dialer(httpcore.AsyncNetworkBackend):
    """The network of one hop: whatever name it is asked for, it connects to one of the hop's checked addresses."""

    def __init__(self, addresses: Sequence[Address], inner: httpcore.AsyncNetworkBackend) -> None:
        self._addresses = addresses
        self._inner = inner

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - it was resolved and checked before, once
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See :class:`httpcore.AsyncNetworkBackend`."""
        failure: Exception | None = None
        for address in self._addresses:
            try:
                return await self._inner.connect_tcp(str(address), port, timeout, socket_options=socket_options)
            except httpcore.ConnectError as error:
                failure = error
        raise httpcore.ConnectError("none of the addresses answers") from failure

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Never: images come by TCP."""
        raise httpcore.ConnectError("no sockets but TCP's")

    async def sleep(self, seconds: float) -> None:
        """See :class:`httpcore.AsyncNetworkBackend`."""
        await self._inner.sleep(seconds)


class Doorman:
    """Opens a way to a URL, if there may be one."""

    def __init__(self, policy: DialPolicy, resolver: Resolver) -> None:
        self._policy = policy
        self._resolver = resolver
        self._network = httpcore.AnyIOBackend()
        self._tls = ssl.create_default_context()

    def target(self, url: str) -> Target:
        """``url`` taken apart and checked as far as that needs no I/O. Raises :class:`MediaFault`."""
        target = parse(url)
        self._policy.check(target)
        return target

    async def open(self, target: Target) -> httpcore.AsyncConnectionPool:
        """A client for this one request. If any address of the host is not allowed, none is connected to.

        Raises :class:`MediaFault`: ``url_not_allowed``, ``image_fetch_failed``.
        """
        if target.address is not None:
            addresses = [target.address]
        else:
            addresses = await self._resolver.resolve(target.host, target.port)
        for address in addresses:
            self._policy.check_address(address)
        return httpcore.AsyncConnectionPool(
            ssl_context=self._tls,
            max_connections=1,
            max_keepalive_connections=0,
            network_backend=Dialer(addresses, self._network),
        )
