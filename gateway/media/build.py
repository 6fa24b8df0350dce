"""The media stage, as the settings want it."""

from __future__ import annotations

from gateway.media.dial import DialPolicy, Doorman
from gateway.media.fetch import Fetcher, FetchLimits
from gateway.media.resolver import Lookup, Resolver, system_lookup
from gateway.media.stage import Media, MediaLimits, MediaObserver
from gateway.settings import MediaSettings


def build_media(settings: MediaSettings, observer: MediaObserver, lookup: Lookup = system_lookup) -> Media:
    """``lookup`` resolves names."""
    policy = DialPolicy(
        ports=settings.allowed_ports,
        hosts=[host.lower().rstrip(".") for host in settings.allowed_hosts],
        networks=settings.allowed_networks,
    )
    fetcher = Fetcher(
        Doorman(policy, Resolver(settings.dns_seconds, lookup)),
        FetchLimits(settings.image_seconds, settings.redirects),
    )
    limits = MediaLimits(
        image_bytes=settings.image_bytes,
        request_bytes=settings.request_bytes,
        request_pixels=settings.request_pixels,
        request_seconds=settings.request_seconds,
        parallel=settings.parallel,
        requests=settings.requests,
        requests_of_tenant=settings.requests_per_tenant,
    )
    return Media(fetcher if settings.fetch else None, limits, observer)
