"""Fetches an issuer's key set over the network, from where the configuration says and nowhere else."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from typing import Final

import httpx

from gateway.access.jws import strict_json

FETCH_SECONDS: Final = 5.0
MAX_BYTES: Final = 1024 * 1024
DISCOVERY_PATH: Final = "/.well-known/openid-configuration"

# Compressed answers could be bombs: none is asked for, none is taken.
_HEADERS: Final = {"accept": "application/json, application/jwk-set+json", "accept-encoding": "identity"}


class FetchFailed(Exception):
    """No key set came back. The message says why and may be logged."""


class KeySource:
    """The key set of ``issuer``: at ``jwks_url``, or where its OpenID Connect discovery document says.

    https only, but for this very machine. Raises ValueError for a URL that is not.
    """

    def __init__(self, issuer: str, jwks_url: str | None, *, seconds: float = FETCH_SECONDS) -> None:
        self._issuer = issuer
        self._discover = jwks_url is None
        self._url = permitted_url(jwks_url or issuer.rstrip("/") + DISCOVERY_PATH)
        self._seconds = seconds
        self._tls: ssl.SSLContext | None = None

    async def fetch(self) -> bytes:
        """The document, in a few seconds and of bounded size. Raises :class:`FetchFailed`."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._fetch()
        except TimeoutError:
            raise FetchFailed(f"no answer within {self._seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise FetchFailed(str(error) or type(error).__name__) from error

    async def _fetch(self) -> bytes:
        # Reading the certificates takes longer than the event loop may be held.
        if self._tls is None:
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        tls = self._tls
        document = await self._get(self._url, tls)
        return await self._get(self._discovered(document), tls) if self._discover else document

    async def _get(self, url: httpx.URL, tls: ssl.SSLContext) -> bytes:
        client = httpx.AsyncClient(
            verify=tls, timeout=self._seconds, follow_redirects=False, trust_env=not _is_loopback(url.host)
        )
        async with client, client.stream("GET", url, headers=_HEADERS) as answer:
            if answer.status_code != 200:
                raise FetchFailed(f"HTTP {answer.status_code}")
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise FetchFailed("a compressed answer")
            return await _bounded(answer)

    def _discovered(self, document: bytes) -> httpx.URL:
        try:
            found = strict_json(document)
        except ValueError:
            raise FetchFailed("discovery: not JSON") from None
        if not isinstance(found, dict) or found.get("issuer") != self._issuer:
            raise FetchFailed("discovery: of another issuer")
        uri = found.get("jwks_uri")
        if not isinstance(uri, str):
            raise FetchFailed("discovery: no jwks_uri")
        try:
            url = permitted_url(uri)
        except ValueError:
            raise FetchFailed("discovery: jwks_uri is not https") from None
        # Others do not get to send us to services of this machine.
        if _is_loopback(url.host) and not _is_loopback(self._url.host):
            raise FetchFailed("discovery: jwks_uri is on this machine")
        return url


async def _bounded(answer: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > MAX_BYTES:
            raise FetchFailed(f"more than {MAX_BYTES} bytes")
    return bytes(body)


def permitted_url(text: str) -> httpx.URL:
    """``text`` as a URL that keys may be fetched from. Raises ValueError."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise ValueError(f"not a URL: {text[:200]!r}") from None
    if not url.host or url.userinfo or url.scheme not in ("https", "http"):
        raise ValueError(f"not an https URL: {text[:200]!r}")
    if url.scheme == "http" and not _is_loopback(url.host):
        raise ValueError(f"http is for this machine only, keys come by https: {text[:200]!r}")
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
