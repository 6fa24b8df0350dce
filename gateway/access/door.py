"""The first step of every request that is not public: from where, who, and may they?"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Protocol

from gateway.access.address import caller_address
from gateway.access.identify import Headers, Identity, require_scope, with_key_header
from gateway.access.principal import Principal, Scope
from gateway.errors import ApiError

if TYPE_CHECKING:
    from gateway.access.failures import FailedCredentials
    from gateway.exchange import Exchange

MISSING = "missing_api_key"


class OnDenied(Protocol):
    """Told of every caller who was turned away at a route of ``scope``."""

    def __call__(self, exchange: Exchange, scope: Scope, error: ApiError) -> None:
        """Must not raise."""


def unobserved(exchange: Exchange, scope: Scope, error: ApiError) -> None:
    """An :class:`OnDenied` for deployments without an audit log."""


class Door:
    """Lets callers in, or turns them away before anything costly happens."""

    def __init__(
        self,
        identity: Identity,
        failures: FailedCredentials,
        trusted_proxies: Sequence[IPv4Network | IPv6Network],
        on_denied: OnDenied = unobserved,
    ) -> None:
        self._identity = identity
        self._failures = failures
        self._trusted = tuple(trusted_proxies)
        self._on_denied = on_denied

    def locate(self, exchange: Exchange) -> str:
        """The caller's address, behind trusted proxies."""
        client = exchange.scope.get("client")
        exchange.address = caller_address(client[0] if client else None, exchange.scope["headers"], self._trusted)
        return exchange.address

    def enter(self, exchange: Exchange, scope: Scope) -> Principal:
        """Identify the caller, who must hold ``scope``. Raises :class:`ApiError` 400, 401, 403, 429 or 503."""
        address = self.locate(exchange)
        self._failures.check(address)
        try:
            exchange.principal = self._identity.identify(self._credentials(exchange))
            require_scope(exchange.principal, scope)
        except ApiError as error:
            # No credentials is nobody's guess.
            if error.status == 401 and error.code != MISSING:
                self._failures.failed(address)
            if error.status in (401, 403):
                self._on_denied(exchange, scope, error)
            raise
        return exchange.principal

    @staticmethod
    def _credentials(exchange: Exchange) -> Headers:
        headers: Headers = exchange.scope["headers"]
        name = exchange.route.dialect.key_header if exchange.route is not None else None
        return headers if name is None else with_key_header(headers, name)
