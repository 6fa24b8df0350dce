"""GET /console: the page, which is public because it holds nothing; its data need a key like every other call."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.console.assets import CONTENT_SECURITY_POLICY, Asset
from gateway.exchange import Exchange
from gateway.routes.system import PUBLIC
from gateway.routing import Endpoint, Route

_HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode("ascii")),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def routes(assets: Iterable[Asset]) -> list[Route]:
    """One route a file."""
    return [
        Route("GET", asset.path, _serve(asset), _summary(asset), media_type=asset.media_type, **PUBLIC)
        for asset in assets
    ]


def _serve(asset: Asset) -> Endpoint:
    content_type = f"{asset.media_type}; charset=utf-8".encode("ascii")
    headers = [(b"content-type", content_type), *_HEADERS]

    async def show(exchange: Exchange) -> None:
        exchange.respond(200, asset.content, headers)

    return show


def _summary(asset: Asset) -> str:
    return "The console, a page for people" if asset.media_type == "text/html" else "A file of the console"
