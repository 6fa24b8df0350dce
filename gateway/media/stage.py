"""The stage of the pipeline that turns the images which a request names into pixels."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import ChainMap, Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from engine.types import Image
from gateway.media.decode import decode, read_header
from gateway.media.faults import MediaFault
from gateway.media.fetch import ByteBudget, Fetcher
from gateway.media.inline import decode_inline, is_inline
from gateway.protocol.images import Detail, ImageReference, Images

log = logging.getLogger("sluice.media")

_HOST: Final = re.compile(r"https?://(?:[^/?#@\\]{0,256}@)?([A-Za-z0-9._\-\[\]:]{1,128})", re.IGNORECASE)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Of one request: bytes of one image and of all, pixels of all, seconds for all, images fetched at once.

    Of this process: requests that hold pictures at once, in all and of one tenant.
    """

    image_bytes: int = 20 * 2**20
    request_bytes: int = 64 * 2**20
    request_pixels: int = 40_000_000
    request_seconds: float = 60.0
    parallel: int = 4
    requests: int = 8
    requests_of_tenant: int = 4


class MediaObserver(Protocol):
    """Hears how every image went; ``outcome`` is ``ok``, ``cancelled`` or an error's code."""

    def image_fetched(self, source: str, outcome: str, size: int, seconds: float) -> None:
        """``source``: ``inline``, ``http`` or ``https``. ``size`` in bytes."""


class PixelBudget:
    """Pixels that the images of one request may still have."""

    def __init__(self, pixels: int) -> None:
        self._all = self._left = pixels

    def take(self, pixels: int) -> None:
        """Raises :class:`MediaFault` ``image_too_large``."""
        if pixels > self._left:
            raise MediaFault("image_too_large", f"The images have more than {self._all} pixels together.")
        self._left -= pixels


class Media:
    """Also a :class:`~gateway.lifecycle.Service`. Without a ``fetcher`` images come as data: URLs only."""

    def __init__(self, fetcher: Fetcher | None, limits: MediaLimits, observer: MediaObserver) -> None:
        self._fetcher = fetcher
        self._limits = limits
        self._worker = ThreadPoolExecutor(2, thread_name_prefix="sluice-media")
        self._observer = observer
        self._room = _Room(limits.requests, limits.requests_of_tenant)

    def place(self, tenant: str) -> AbstractAsyncContextManager[None]:
        """Room for the pictures of one request; keep them no longer than the block.

        How many requests hold pictures at once is bounded, in all and of one tenant: memory goes for their pixels.
        """
        return self._room.of(tenant)

    async def fetch(self, references: Sequence[ImageReference]) -> Images:
        """The pictures behind ``references``, each URL fetched once. Raises :class:`ApiError` that names the field."""
        by_url: dict[str, dict[Detail, ImageReference]] = {}
        for reference in references:
            by_url.setdefault(reference.url, {}).setdefault(reference.detail, reference)
        request = _Request(self, self._limits)
        tasks = [asyncio.ensure_future(request.pictures(list(each.values()))) for each in by_url.values()]
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                return dict(ChainMap(*await asyncio.gather(*tasks)))
        except TimeoutError:
            fault = MediaFault("image_fetch_failed", "The images took too long to arrive.")
            raise fault.at(references[0].param) from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def bytes_of(self, reference: ImageReference, budget: ByteBudget) -> bytes:
        """What is behind ``reference``, as it is. Raises :class:`MediaFault`."""
        if not is_inline(reference.url):
            if self._fetcher is None:
                raise MediaFault("url_not_allowed", "This server takes images as data: URLs only.")
            return await self._fetcher.fetch(reference.url, budget)
        data = await self.off_loop(decode_inline, reference.url, budget.each)
        budget.take(len(data), 0)
        return data

    async def start(self) -> None:
        """See :class:`~gateway.lifecycle.Service`."""

    async def stop(self) -> None:
        """See :class:`~gateway.lifecycle.Service`."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def degraded(self) -> Sequence[str]:
        """See :class:`~gateway.lifecycle.Service`: what other servers do is no fault of ours."""
        return ()

    async def off_loop(self, work: Callable[..., T], *arguments: object) -> T:
        """Run ``work`` on a thread of the stage."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work, *arguments)

    def observe(self, reference: ImageReference, outcome: str, size: int, started: float) -> None:
        """Count and log one image; of its URL only where it lives, as the rest may be a secret."""
        seconds = time.monotonic() - started
        scheme = reference.url[:8].lower().partition(":")[0]
        source = {"data": "inline", "http": "http", "https": "https"}.get(scheme, "other")
        self._observer.image_fetched(source, outcome, size, seconds)
        level = logging.DEBUG if outcome == "ok" else logging.INFO
        fields = {"source": source, "outcome": outcome, "bytes": size, "seconds": round(seconds, 3)}
        if (host := _HOST.match(reference.url)) is not None:
            fields["host"] = host[1]
        log.log(level, "image", extra={"fields": fields})


class _Request:
    """What the images of one request share."""

    def __init__(self, media: Media, limits: MediaLimits) -> None:
        self._media = media
        self._bytes = ByteBudget(limits.image_bytes, limits.request_bytes)
        self._pixels = PixelBudget(limits.request_pixels)
        self._turns = asyncio.Semaphore(limits.parallel)

    async def pictures(self, references: Sequence[ImageReference]) -> dict[tuple[str, Detail], Image]:
        """What is behind one URL, fetched once, for each detail that it is wanted in. Raises :class:`ApiError`."""
        first = references[0]
        async with self._turns:
            started, size, outcome = time.monotonic(), 0, "cancelled"
            try:
                data = await self._media.bytes_of(first, self._bytes)
                size = len(data)
                found = {each.key: await self._decode(data, each.detail) for each in references}
                outcome = "ok"
            except MediaFault as fault:
                outcome = fault.code
                raise fault.at(first.param) from None
            finally:
                self._media.observe(first, outcome, size, started)
            return found

    async def _decode(self, data: bytes, detail: Detail) -> Image:
        header = await self._media.off_loop(read_header, data)
        self._pixels.take(header.pixels)
        return await self._media.off_loop(decode, data, header, detail)


class _Room:
    """Places for requests that hold pictures; no tenant takes more than its share of them."""

    def __init__(self, places: int, places_of_tenant: int) -> None:
        self._places = asyncio.Semaphore(places)
        self._share = places_of_tenant
        self._of_tenant: dict[str, asyncio.Semaphore] = {}
        self._users: Counter[str] = Counter()

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a place, and keep it for the block."""
        own = self._of_tenant.setdefault(tenant, asyncio.Semaphore(self._share))
        self._users[tenant] += 1
        try:
            async with own, self._places:
                yield
        finally:
            self._users[tenant] -= 1
            if not self._users[tenant]:
                del self._users[tenant], self._of_tenant[tenant]
