"""Bearer JWTs: signed by an issuer we know, for us, now. No request for a token ever leaves this process."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import jwt

from gateway.access.claims import ClaimRules, Lifetime
from gateway.access.jwk import VerificationKey
from gateway.access.jwks import KeySet, KeySetHooks, Pace
from gateway.access.jwks_source import KeySource
from gateway.access.jws import CompactToken, Reason, TokenRefused, read_compact
from gateway.errors import invalid_token, token_expired
from gateway.settings import SettingsError

if TYPE_CHECKING:
    from gateway.access.principal import Principal
    from gateway.settings import JwtSettings

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
MAX_REMEMBERED: Final = 10_000
_DOTS: Final = 2


class JwtObserver(Protocol):
    """What metrics want to know."""

    def jwks_fetched(self, good: bool) -> None:
        """An issuer was asked for its keys."""

    def jwks_keys(self, issuer: str, count: int) -> None:
        """So many keys of ``issuer`` are in use now."""

    def jwt_refused(self, reason: str) -> None:
        """A token was refused; ``reason`` is one of :class:`~gateway.access.jws.Reason`."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that was believed, and what must still hold for it to be believed again."""

    principal: Principal
    lifetime: Lifetime
    key: VerificationKey
    keys: KeySet


class Issuer:
    """One issuer's tokens."""

    def __init__(self, name: str, algorithms: Collection[str], rules: ClaimRules, keys: KeySet) -> None:
        self.name = name
        self.keys = keys
        self._algorithms = frozenset(algorithms)
        self._rules = rules
        self._signatures = jwt.PyJWS(ALGORITHMS, options={"enforce_minimum_key_length": True})

    def verify(self, token: bytes, parts: CompactToken) -> Verified:
        """Believe ``token`` for its lifetime. Raises :class:`TokenRefused`, :class:`~gateway.errors.ApiError` 503."""
        if parts.algorithm not in self._algorithms:
            raise TokenRefused(Reason.ALGORITHM)
        key = self.keys.find(parts.kid, parts.algorithm)
        if key is None:
            raise TokenRefused(Reason.KEY)
        self._check_signature(token, parts, key)
        self._rules.check_audience(parts.claims)
        return Verified(self._rules.principal(parts.claims), self._rules.lifetime(parts.claims), key, self.keys)

    def _check_signature(self, token: bytes, parts: CompactToken, key: VerificationKey) -> None:
        """By the algorithm of our own record of the key."""
        try:
            payload = self._signatures.decode(token, key.material, [key.algorithm])
        except jwt.InvalidTokenError:
            raise TokenRefused(Reason.SIGNATURE) from None
        # What was signed is what was read.
        if payload != parts.payload:
            raise TokenRefused(Reason.FORM)


class JwtIdentity:
    """A :class:`~gateway.access.identify.TokenIdentity` and a :class:`~gateway.lifecycle.Service`.

    A verified token is remembered by the hash of the whole of it, for as long as its key is published and it has not
    expired. ``wall`` is Unix time in seconds.
    """

    def __init__(
        self,
        issuers: Sequence[Issuer],
        *,
        on_refused: Callable[[str], None] = lambda _reason: None,
        wall: Callable[[], float] = time.time,
        max_remembered: int = MAX_REMEMBERED,
    ) -> None:
        self._issuers = {issuer.name: issuer for issuer in issuers}
        self._on_refused = on_refused
        self._wall = wall
        self._max_remembered = max_remembered
        self._remembered: OrderedDict[bytes, Verified] = OrderedDict()

    # -- who is calling -------------------------------------------------------------------------------------------

    def identify_token(self, token: bytes) -> Principal | None:
        """The principal behind ``token``; None if it does not have the form of a JWT.

        Raises :class:`~gateway.errors.ApiError`: 401 ``token_expired`` or ``invalid_token``, which does not say why;
        503 ``auth_unavailable`` if there are no keys to verify it with.
        """
        if token.count(b".") != _DOTS:
            return None
        try:
            return self._verified(token).principal
        except TokenRefused as refused:
            self._on_refused(refused.reason.value)
            raise (token_expired() if refused.reason is Reason.EXPIRED else invalid_token()) from None

    def _verified(self, token: bytes) -> Verified:
        digest = hashlib.sha256(token).digest()
        known = self._remembered.pop(digest, None)
        if known is None or not known.keys.holds(known.key):
            known = self._verify(token)
        known.lifetime.check(self._wall())
        self._remembered[digest] = known
        if len(self._remembered) > self._max_remembered:
            self._remembered.popitem(last=False)
        return known

    def _verify(self, token: bytes) -> Verified:
        parts = read_compact(token)
        return self._issuer(parts.claims.get("iss")).verify(token, parts)

    def _issuer(self, name: Any) -> Issuer:
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise TokenRefused(Reason.ISSUER)
        return issuer

    # -- what keeps it up to date ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """See :class:`~gateway.lifecycle.Service`: returns when each issuer was asked once, in a few seconds."""
        await asyncio.gather(*(issuer.keys.start() for issuer in self._issuers.values()))

    async def stop(self) -> None:
        """See :class:`~gateway.lifecycle.Service`."""
        await asyncio.gather(*(issuer.keys.stop() for issuer in self._issuers.values()))

    def degraded(self) -> Sequence[str]:
        """See :class:`~gateway.lifecycle.Service`."""
        return () if all(issuer.keys.fresh for issuer in self._issuers.values()) else ("jwks",)


def jwt_identity(settings: Sequence[JwtSettings], observer: JwtObserver) -> JwtIdentity:
    """The JWTs of all configured issuers. Raises :class:`SettingsError` for what cannot work."""
    hooks = KeySetHooks(on_fetch=observer.jwks_fetched, on_keys=observer.jwks_keys)
    names = [each.issuer for each in settings]
    if len(set(names)) < len(names):
        raise SettingsError("jwt: the same issuer stands there twice")
    issuers = [_issuer(f"jwt.{number}", each, hooks) for number, each in enumerate(settings)]
    return JwtIdentity(issuers, on_refused=observer.jwt_refused)


def _issuer(path: str, settings: JwtSettings, hooks: KeySetHooks) -> Issuer:
    if settings.max_stale < settings.refresh_interval:
        raise SettingsError(f"{path}.max_stale: shorter than refresh_interval, keys would be gone before the next ones")
    try:
        source = KeySource(settings.issuer, settings.jwks_url)
    except ValueError as error:
        raise SettingsError(f"{path}.{'jwks_url' if settings.jwks_url else 'issuer'}: {error}") from error
    try:
        rules = ClaimRules(settings)
    except ValueError:
        raise SettingsError(f"{path}.tenant: expected 1 to 128 of the characters A-Z a-z 0-9 _ . -") from None
    pace = Pace(settings.refresh_interval, settings.max_stale)
    keys = KeySet(settings.issuer, source, settings.algorithms, pace, hooks)
    return Issuer(settings.issuer, settings.algorithms, rules, keys)
