"""From request headers to a principal: one static key, the keys of the store, JWTs, or all of them together."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from typing import Final, Protocol

from gateway.access.principal import ALL_SCOPES, Principal, Scope
from gateway.errors import ApiError, invalid, invalid_api_key, missing_api_key

Headers = Sequence[tuple[bytes, bytes]]

# RFC 6750 section 2.1: exactly one space, then b64token.
_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] ([A-Za-z0-9\-._~+/]+=*)\Z")


class Identity(Protocol):
    """Tells who is calling."""

    def identify(self, headers: Headers) -> Principal:
        """The principal behind ``headers`` (lower-case names). Raises :class:`ApiError` 401 or 400."""


def bearer_token(headers: Headers) -> bytes:
    """The one bearer token in ``headers``. Raises :class:`ApiError` 401 (none, malformed) or 400 (several)."""
    found = [value for name, value in headers if name == b"authorization"]
    if not found:
        raise missing_api_key()
    if len(found) > 1:
        raise invalid("More than one Authorization header was sent.", code="ambiguous_credentials")
    match = _BEARER.match(found[0])
    if match is None:
        raise invalid_api_key()
    return match[1]


def with_key_header(headers: Headers, name: bytes) -> Headers:
    """``headers`` in which a key sent as ``name`` is a bearer token, as it is everywhere else.

    Raises :class:`ApiError` 400 where two credentials are sent that are not one and the same.
    """
    keys = [value for key, value in headers if key == name]
    if not keys:
        return headers
    for value in (value for key, value in headers if key == b"authorization"):
        match = _BEARER.match(value)
        keys.append(match[1] if match else value)
    if len(set(keys)) > 1:
        raise invalid("Different credentials were sent in several headers.", code="ambiguous_credentials")
    return [(b"authorization", b"Bearer " + keys[0])]


class TokenIdentity(Protocol):
    """Tells who holds a bearer token."""

    def identify_token(self, token: bytes) -> Principal | None:
        """The principal behind ``token``; None if it does not have the form of a token of this kind.

        Raises :class:`ApiError` 401, or 503 where what the token must be compared with is away.
        """


class Identities:
    """Several kinds of token together: each is judged by the first of ``kinds`` whose form it has, and by no other."""

    def __init__(self, kinds: Sequence[TokenIdentity]) -> None:
        self._kinds = tuple(kinds)

    def identify(self, headers: Headers) -> Principal:
        """See :class:`Identity`."""
        token = bearer_token(headers)
        for kind in self._kinds:
            principal = kind.identify_token(token)
            if principal is not None:
                return principal
        raise invalid_api_key()


class StaticKey:
    """One configured key with every scope. Only a keyed hash of it is kept in memory."""

    def __init__(self, key: str) -> None:
        self._pepper = secrets.token_bytes(32)
        self._digest = self._hash(key.encode())
        self._principal = Principal("static", ALL_SCOPES)

    def identify(self, headers: Headers) -> Principal:
        """See :class:`Identity`. Takes the same time for every wrong key."""
        principal = self.identify_token(bearer_token(headers))
        if principal is None:
            raise invalid_api_key()
        return principal

    def identify_token(self, token: bytes) -> Principal | None:
        """See :class:`TokenIdentity`: any other text may be a token of another kind."""
        return self._principal if hmac.compare_digest(self._hash(token), self._digest) else None

    def _hash(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, key=self._pepper, digest_size=32).digest()


class NoAuth:
    """Everyone is the same principal: only behind ``--allow-no-auth``."""

    def __init__(self) -> None:
        self._principal = Principal("anonymous", ALL_SCOPES)

    def identify(self, headers: Headers) -> Principal:  # noqa: ARG002 - the interface
        """See :class:`Identity`."""
        return self._principal


def require_scope(principal: Principal, scope: Scope) -> None:
    """Raise :class:`ApiError` 403 that names the scope if ``principal`` lacks it."""
    if not principal.may(scope):
        raise ApiError(
            403,
            f"This key lacks the scope '{scope.value}'.",
            code="insufficient_scope",
            type="permission_error",
            headers={"www-authenticate": f'Bearer realm="sluice", error="insufficient_scope", scope="{scope.value}"'},
        )
