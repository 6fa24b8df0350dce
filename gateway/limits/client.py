"""Clients of Redis by URL: one server, a cluster, or a primary that sentinels know.

Beside the URLs of redis-py (``redis://``, ``rediss://``, ``unix://``, with its query options for TLS):

- ``redis+cluster://[user:password@]host:port`` (``rediss+cluster`` with TLS): any node of the cluster;
- ``redis+sentinel://[user:password@]h1:p1,h2:p2/service[?db=N&sentinel_username=U&sentinel_password=P]``: the user and
  password of the primary; its own for the sentinels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.settings import SettingsError

_SINGLE: Final = ("redis://", "rediss://", "unix://")
_SENTINEL: Final = ("redis+sentinel://", "rediss+sentinel://")
_CLUSTER: Final = ("redis+cluster://", "rediss+cluster://")
_SENTINEL_PORT: Final = 26379
#: Connections made for one purpose are not bound to the few milliseconds of a decision.
DEFAULT_TIMEOUT: Final = 2.0

Client = Redis | RedisCluster


def connector(
    url: str, *, timeout: float | None = DEFAULT_TIMEOUT, connect_timeout: float = DEFAULT_TIMEOUT
) -> Callable[[], Any]:
    """What makes a new client of ``url``; nothing is connected to before its first command.

    ``timeout`` and ``connect_timeout`` are in seconds, per step; ``timeout`` None: the caller sets one. Nothing is
    tried again by itself. Raises :class:`~gateway.settings.SettingsError` for a URL that cannot be used; the message
    does not hold it.
    """
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": connect_timeout,
        "retry": Retry(NoBackoff(), 0),
        "socket_keepalive": True,
    }
    try:
        if url.startswith(_SINGLE):
            Redis.from_url(url, **options)
            return lambda: Redis.from_url(url, **options)
        if url.startswith(_CLUSTER):
            return _cluster(url, options)
        if url.startswith(_SENTINEL):
            return _sentinel(url, options)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"redis_url: {type(error).__name__}: not a URL of Redis") from None
    raise SettingsError(
        "redis_url: expected redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://h1,h2/service"
    )


def _cluster(url: str, options: dict[str, Any]) -> Callable[[], Any]:
    plain = url.replace("+cluster", "", 1)
    # Once more: a node that has moved is found at the second try.
    chosen = {**options, "retry": Retry(NoBackoff(), 1)}

    def connect() -> Any:
        return RedisCluster.from_url(plain, **chosen)

    connect()
    return connect


def _sentinel(url: str, options: dict[str, Any]) -> Callable[[], Any]:
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    service = parts.path.strip("/")
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if not service or not hosts:
        raise ValueError("no service")
    nodes = [_node(host) for host in hosts.split(",")]
    if parts.scheme.startswith("rediss"):
        options = {**options, "ssl": True}
    own = {name: query[f"sentinel_{name}"] for name in ("username", "password") if f"sentinel_{name}" in query}
    primary: dict[str, Any] = {
        "username": unquote(user) or None,
        "password": unquote(password) or None,
        "db": int(query.get("db", 0)),
    }

    def connect() -> Any:
        # One that does not answer must leave time to ask the next.
        asking = {**options, **own, "socket_timeout": options["socket_connect_timeout"] / len(nodes)}
        sentinel = Sentinel(nodes, sentinel_kwargs=asking, **options)  # type: ignore[no-untyped-call]
        return sentinel.master_for(service, **primary)

    return connect


def _node(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":") if ":" in text else (text, "", str(_SENTINEL_PORT))
    return host, int(port)
