"""Where a request comes from, seen through trusted proxies, and what of it limits are counted on.

Only ``X-Forwarded-For`` is read, and only behind a trusted peer: each proxy appends the address it was called from, so
the right-most hop that is not itself a trusted proxy is the nearest one that nobody could invent.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

Headers = Sequence[tuple[bytes, bytes]]
Networks = Sequence[IPv4Network | IPv6Network]

UNKNOWN: Final = "unknown"
MAX_HOPS: Final = 32
#: What one subscriber is given: whoever holds one address of it holds them all.
_IPV6_PREFIX: Final = 64


def caller_address(peer: str | None, headers: Headers, trusted: Networks) -> str:
    """The caller's address in its normal form; ``UNKNOWN`` for a peer without one (a Unix socket).

    A hop that is no address ends the search at the last good one: what is left of it proves nothing.
    """
    address = _of_peer(peer or "")
    if address is None:
        return UNKNOWN
    if trusted and _is_trusted(address, trusted):
        for hop in _hops_from_the_right(headers):
            found = _parse(hop)
            if found is None:
                break
            address = found
            if not _is_trusted(address, trusted):
                break
    return str(address)


@lru_cache(4096)
def limit_subject(address: str) -> str:
    """What limits of ``address`` are counted on: itself, or its /64 if it is an IPv6 address."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, _IPV6_PREFIX), strict=False))
    return address


def _hops_from_the_right(headers: Headers) -> list[str]:
    lines = [value for name, value in headers if name == b"x-forwarded-for"]
    hops = b",".join(lines).decode("latin-1").rsplit(",", MAX_HOPS)[-MAX_HOPS:]
    return [hop.strip() for hop in reversed(hops)] if lines else []


def _is_trusted(address: IPv4Address | IPv6Address, trusted: Networks) -> bool:
    return any(address in network for network in trusted)


@lru_cache(4096)
def _of_peer(peer: str) -> IPv4Address | IPv6Address | None:
    """Kept, as the kernel's words are short and few; what callers write into headers is neither."""
    return _parse(peer)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """An address, perhaps with a port or in brackets; None if it is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
