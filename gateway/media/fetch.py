"""One image from one URL: redirects followed one by one, each checked like the first; bytes counted as they come."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin

import httpcore

from gateway.media.dial import Doorman
from gateway.media.faults import MediaFault
from gateway.media.urls import Target

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_ASKED: Final = [
    (b"Accept", b"image/png, image/jpeg, image/webp, image/gif"),
    (b"Accept-Encoding", b"identity"),
    (b"User-Agent", b"Sluice"),
    (b"Connection", b"close"),
]


class ByteBudget:
    """Bytes that the images of one request may still take."""

    def __init__(self, each: int, together: int) -> None:
        self.each = each
        self._together = together
        self._left = together

    def take(self, count: int, so_far: int) -> None:
        """``count`` more of an image that has ``so_far`` already. Raises :class:`MediaFault` ``image_too_large``."""
        if so_far + count > self.each:
            raise MediaFault("image_too_large", f"The image is larger than {self.each} bytes.")
        if count > self._left:
            raise MediaFault("image_too_large", f"The images are larger than {self._together} bytes together.")
        self._left -= count


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """``seconds``: for one image, redirects and all."""

    seconds: float = 5.0
    redirects: int = 3


class Fetcher:
    """Fetches over http and https."""

    def __init__(self, doorman: Doorman, limits: FetchLimits) -> None:
        self._doorman = doorman
        self._limits = limits

    async def fetch(self, url: str, budget: ByteBudget) -> bytes:
        """The bytes behind ``url``. Cancelling closes the socket.

        Raises :class:`MediaFault`: ``invalid_image_url``, ``url_not_allowed``, ``image_too_large``,
        ``image_fetch_failed``, ``invalid_image``.
        """
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await self._follow(self._doorman.target(url), budget)
        except TimeoutError:
            raise MediaFault("image_fetch_failed", "The host took too long to answer.") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError):
            raise MediaFault("image_fetch_failed", "The host could not be reached, or broke off.") from None

    async def _follow(self, target: Target, budget: ByteBudget) -> bytes:
        for _ in range(self._limits.redirects + 1):
            answer = await self._hop(target, budget)
            if isinstance(answer, bytes):
                return answer
            target = self._redirected(target, answer.location)
        raise MediaFault("image_fetch_failed", f"The host redirects more than {self._limits.redirects} times.")

    def _redirected(self, target: Target, location: str) -> Target:
        try:
            further = self._doorman.target(urljoin(target.url, location))
        except MediaFault as fault:
            raise MediaFault("url_not_allowed", f"The host redirects to another URL. {fault}") from None
        except ValueError:
            raise MediaFault("url_not_allowed", "The host redirects to something that is no URL.") from None
        if target.scheme == "https" and further.scheme == "http":
            raise MediaFault("url_not_allowed", "The host redirects from https to http.")
        return further

    async def _hop(self, target: Target, budget: ByteBudget) -> bytes | _Redirect:
        url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        headers = [(b"Host", target.authority.encode("ascii")), *_ASKED]
        async with (
            await self._doorman.open(target) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            return await _read(response, budget)


@dataclass(frozen=True, slots=True)
class _Redirect:
    location: str


async def _read(response: httpcore.Response, budget: ByteBudget) -> bytes | _Redirect:
    headers = {name.lower(): value for name, value in response.headers}
    if response.status in _REDIRECTS and b"location" in headers:
        return _Redirect(headers[b"location"].decode("latin-1"))
    _check_head(response.status, headers)
    if (length := headers.get(b"content-length", b"")).isdigit() and int(length) > budget.each:
        raise MediaFault("image_too_large", f"The image is larger than {budget.each} bytes.")
    data = bytearray()
    async for chunk in response.aiter_stream():
        budget.take(len(chunk), len(data))
        data += chunk
    return bytes(data)


def _check_head(status: int, headers: dict[bytes, bytes]) -> None:
    if status != 200:
        raise MediaFault("image_fetch_failed", f"The host answered with status {status}.")
    if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"identity", b""):
        # How large it would become is known only after it has become so.
        raise MediaFault("image_too_large", "The host answered with a compressed body, which was not asked for.")
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind and not kind.startswith(b"image/") and kind not in (b"application/octet-stream", b"binary/octet-stream"):
        raise MediaFault("invalid_image", "The host answered with something that is no image.")
