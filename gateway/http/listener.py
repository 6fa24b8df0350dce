"""Listening sockets, set up so that accepted connections inherit what they need without a system call each."""

from __future__ import annotations

import errno
import resource
import socket
from contextlib import suppress
from dataclasses import replace
from typing import Final

from gateway.http.bounds import HttpBounds

# Descriptors that are not client connections: the engine's sockets, Redis, files, the loop.
_RESERVED_DESCRIPTORS: Final = 128
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


class AddressUnavailableError(OSError):
    """The address cannot be listened on; the message says which and why."""


def bind(host: str, port: int, bounds: HttpBounds) -> list[socket.socket]:
    """Bind every address ``host`` means; port 0: one free port for all. Raises :class:`AddressUnavailableError`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise AddressUnavailableError(f"cannot resolve the listen address {host!r}: {error.strerror}") from error
    bound: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((entry[0], entry[4][0]) for entry in found):
            chosen = bound[0].getsockname()[1] if bound else port
            bound.append(_bind_one(socket.AddressFamily(family), str(address), chosen, shared=bounds.shared_port))
    except OSError:
        for sock in bound:
            sock.close()
        raise
    for sock in bound:
        tune(sock, bounds)
    return bound


def tune(sock: socket.socket, bounds: HttpBounds) -> None:
    """Options that Linux copies to every accepted socket."""
    # The kernel doubles SO_SNDBUF; with the transport's own mark the unsent bytes stay within send_buffer_bytes.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, bounds.send_buffer_bytes // 4)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with suppress(OSError, AttributeError):
        for option, value in _KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        # A peer whose machine is gone acknowledges nothing; the kernel alone would try for a quarter of an hour.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(bounds.write_stall_timeout * 2000))


def connection_limit(bounds: HttpBounds) -> int:
    """How many connections the process can hold without running out of descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return bounds.max_connections
    return min(bounds.max_connections, max(soft // 4, soft - _RESERVED_DESCRIPTORS))


def reserve(host: str, port: int, bounds: HttpBounds) -> list[socket.socket]:
    """Hold the port for processes that share it, without listening. Raises :class:`AddressUnavailableError`.

    A port that is taken must be found out here: those that share one do not notice others.
    """
    alone = bind(host, port, replace(bounds, shared_port=False))
    addresses = [(sock.family, sock.getsockname()) for sock in alone]
    for sock in alone:
        sock.close()
    return [_bind_one(family, name[0], name[1], shared=True, listen=False) for family, name in addresses]


def _bind_one(
    family: socket.AddressFamily, address: str, port: int, *, shared: bool = False, listen: bool = True
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((address, port))
        # Listening here, not later, finds a taken port while there is still someone to tell.
        if listen:
            sock.listen(1)
    except OSError as error:
        sock.close()
        raise AddressUnavailableError(error.errno, _reason(error, address, port)) from error
    sock.setblocking(False)
    return sock


def _reason(error: OSError, address: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{address}:{port} is already in use; stop the other server or choose another port"
    return f"cannot listen on {address}:{port}: {error.strerror}"
