"""The console's files, read once at start. They hold no data: whatever is shown, the page asks the API for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Final

#: Nothing but our own files, and no markup that is made from text: ``innerHTML`` and its kin throw.
CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

_PAGE: Final = "index.html"
_MODULES: Final = (
    "main",
    "api",
    "dom",
    "charts",
    "overview",
    "models",
    "adapters",
    "keys",
    "secrets",
    "usage",
    "guard",
    "playground",
)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file: where it is served, as what, and its bytes."""

    path: str
    media_type: str
    content: bytes


def read_assets() -> list[Asset]:
    """The page first, then what it is made of."""
    return [
        _read("/console", _PAGE, "text/html"),
        _read("/console/console.css", "console.css", "text/css"),
        _read("/console/icon.svg", "icon.svg", "image/svg+xml"),
        *(_read(f"/console/{name}.js", f"{name}.js", "text/javascript") for name in _MODULES),
    ]


def _read(path: str, name: str, media_type: str) -> Asset:
    return Asset(path, media_type, (files("gateway.console") / "static" / name).read_bytes())
