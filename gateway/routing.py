"""The route table: what exists, who may call it, what it counts as. A route that leaves one open stops the start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pydantic import BaseModel

from gateway.access.principal import Scope
from gateway.dialect import OPENAI, Dialect
from gateway.errors import method_not_allowed, unknown_url
from gateway.guardian.check import GuardPolicy
from gateway.limits.reserve import LimitClass

if TYPE_CHECKING:
    from gateway.exchange import Exchange

Endpoint = Callable[["Exchange"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path. ``path`` is exact; or ends in ``{name}``, which takes the rest, slashes included; or has
    one ``{name}`` in the middle, which takes one segment, or any number with ``slashes``.

    ``scope`` None means public: anyone may call it, and ``public`` must say so too. ``request``, ``query``,
    ``response`` and ``stream`` are what the OpenAPI document says of body, query string, answer and events. ``dialect``
    is whose clients call it; ``errors`` are statuses that it may answer with beside those that every route has.
    ``form``: the body is multipart/form-data instead of JSON; ``octets``: it is bytes as they are. ``peers``: only
    other servers of the deployment call it, who show their seal instead of a key, and have limited and judged what
    they ask for.
    """

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    scope: Scope | None
    limit_class: LimitClass
    guard: GuardPolicy
    public: bool = False
    runs_model: bool = False
    request: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    response: type[BaseModel] | None = None
    stream: type[BaseModel] | None = None
    media_type: str = "application/json"
    dialect: Dialect = OPENAI
    errors: frozenset[int] = frozenset()
    form: bool = False
    octets: bool = False
    slashes: bool = False
    peers: bool = False

    @property
    def quiet(self) -> bool:
        """Whether machines ask again and again, so that answers are not worth a line in the access log."""
        return self.public or (self.peers and not self.runs_model)

    def check(self) -> None:
        """Raise ValueError if the declaration has a hole."""
        if (self.scope is None) is not (self.public or self.peers):
            raise ValueError(f"{self.method} {self.path}: declare a scope, or public=True")
        open_ended = self.limit_class is LimitClass.NONE or self.guard is GuardPolicy.NONE
        if self.runs_model and open_ended and not self.peers:
            raise ValueError(f"{self.method} {self.path}: a route that runs a model needs a limit class and a guard")


class RouteTable:
    """Finds routes by the exact bytes of the path: no redirects, no normalising, nothing decoded before the match."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[bytes, dict[str, Route]] = {}
        self._patterns: list[tuple[bytes, bytes, dict[str, Route]]] = []
        for route in self.routes:
            route.check()
            self._methods(route.path)[route.method] = route

    def _methods(self, path: str) -> dict[str, Route]:
        literal, brace, rest = path.partition("{")
        start, end = literal.encode("ascii"), rest.partition("}")[2].encode("ascii")
        if not brace:
            return self._exact.setdefault(start, {})
        for prefix, suffix, methods in self._patterns:
            if (prefix, suffix) == (start, end):
                return methods
        self._patterns.append((start, end, {}))
        # The most specific first: `{id}/rotate` before `{id}`.
        self._patterns.sort(key=lambda pattern: (len(pattern[0]), len(pattern[1])), reverse=True)
        return next(methods for prefix, suffix, methods in self._patterns if (prefix, suffix) == (start, end))

    def find(self, method: str, raw_path: bytes) -> tuple[Route, str]:
        """The route and the rest of its path. Raises :class:`gateway.errors.ApiError` 404 or 405."""
        exact = self._exact.get(raw_path)
        if exact is not None:
            return _by_method(exact, method), ""
        for prefix, suffix, methods in self._patterns:
            if not (raw_path.startswith(prefix) and raw_path.endswith(suffix)):
                continue
            rest = _rest(raw_path[len(prefix) : len(raw_path) - len(suffix)])
            if rest and ("/" not in rest or not suffix or any(route.slashes for route in methods.values())):
                return _by_method(methods, method), rest
        raise unknown_url()


def _by_method(methods: Mapping[str, Route], method: str) -> Route:
    route = methods.get(method)
    if route is None:
        raise method_not_allowed(", ".join(sorted(methods)))
    return route


def _rest(raw: bytes) -> str:
    """The decoded tail of a path, or nothing if it is not one plain name (with inner slashes)."""
    try:
        text = unquote(raw.decode("ascii"), errors="strict")
    except UnicodeDecodeError:
        return ""
    segments = text.split("/")
    plain = all(segment not in ("", ".", "..") for segment in segments) and text.isprintable()
    return text if plain else ""
