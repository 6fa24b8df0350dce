"""URLs taken apart strictly: what two parsers could read in two ways is refused, not guessed."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from gateway.media.addresses import Address
from gateway.media.faults import MediaFault

MAX_URL: Final = 8192
MAX_HOST: Final = 253

#: What RFC 3986 allows in a URL; no space, no control character, no backslash, nothing outside of ASCII.
_CHARACTERS: Final = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*\Z")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_AUTHORITY: Final = re.compile(r"//(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?(?=[/?]|\Z)")
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """Where to go for what. ``host`` is lower-case, without a final dot, IPv6 without brackets; ``address`` is set if
    it is an address. ``path`` has the query.
    """

    scheme: str
    host: str
    port: int
    path: str
    address: Address | None = None

    @property
    def authority(self) -> str:
        """As the ``Host`` header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole URL, to resolve a relative redirect against."""
        return f"{self.scheme}://{self.authority}{self.path}"


def parse(url: str) -> Target:
    """``url`` taken apart. Raises :class:`MediaFault`: ``invalid_image_url`` if it is none of http(s), and
    ``url_not_allowed`` if it is written in a way that could mean another host.
    """
    scheme = _SCHEME.match(url)
    if scheme is None or scheme[1].lower() not in _PORTS:
        raise MediaFault("invalid_image_url", "Expected a data:, http: or https: URL.")
    if len(url) > MAX_URL:
        raise MediaFault("invalid_image_url", f"The URL is longer than {MAX_URL} characters.")
    if not _CHARACTERS.match(url) or "#" in url:
        raise _odd("It holds a character or a fragment that URLs of images may not have.")
    authority = _AUTHORITY.match(url, scheme.end())
    if authority is None:
        raise _odd("Expected a plain host name and an optional port.")
    name = scheme[1].lower()
    host, address = _host(authority[1])
    port = int(authority[2]) if authority[2] else _PORTS[name]
    rest = url[authority.end() :]
    return Target(name, host, port, rest if rest.startswith("/") else f"/{rest}", address)


def _host(text: str) -> tuple[str, Address | None]:
    if text.startswith("["):
        return _ipv6(text[1:-1])
    host = text.lower().removesuffix(".")
    labels = host.split(".")
    if len(host) > MAX_HOST or not all(map(_LABEL.match, labels)):
        raise _odd("It has no valid host name.")
    # A name that ends in a number is an IPv4 address to browsers and C libraries, in whatever spelling.
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
        return _ipv4(host)
    return host, None


def _ipv4(host: str) -> tuple[str, Address]:
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        raise _odd("IPv4 addresses must be four decimal numbers.") from None
    return str(address), address


def _ipv6(text: str) -> tuple[str, Address]:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise _odd("It has no valid IPv6 address.") from None
    return str(address), address


def _odd(reason: str) -> MediaFault:
    return MediaFault("url_not_allowed", reason)
