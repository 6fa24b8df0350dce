"""Which IP addresses a fetch may connect to: public ones, and networks that the operator allows by name.

Sources: IANA's registries of special-purpose IPv4 and IPv6 addresses (RFC 6890 and its successors). The list is our
own because ``ipaddress.is_global`` changes with Python's patch releases; both must agree.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PRIVATE_V4: Final = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",
            "100.64.0.0/10",  # carrier-grade NAT, and some clouds' metadata
            "127.0.0.0/8",
            "168.63.129.16/32",  # a cloud's metadata, on a public address
            "169.254.0.0/16",  # link-local, and metadata
            "172.16.0.0/12",
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)
#: All that is public in IPv6 ...
_GLOBAL_V6: Final = ipaddress.IPv6Network("2000::/3")
#: ... but for these. IPv4-mapped, NAT64, unique local, link-local, site-local and multicast ones are outside anyway.
_PRIVATE_V6: Final = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: an IPv4 address in disguise
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)
#: ISATAP: these interface identifiers carry an IPv4 address, too.
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)


def may_connect(address: Address, allowed: Sequence[Network] = ()) -> bool:
    """Whether ``address`` is public, or in one of the ``allowed`` networks."""
    return any(address in network for network in allowed) or _is_public(address)


def _is_public(address: Address) -> bool:
    if not address.is_global or address.is_multicast:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _PRIVATE_V4)
    if address not in _GLOBAL_V6 or any(address in network for network in _PRIVATE_V6):
        return False
    return address.scope_id is None and (int(address) >> 32 & 0xFFFF_FFFF) not in _ISATAP
