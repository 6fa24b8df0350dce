"""What a verified token's claims mean here: how long it lives, whom it names and what that caller may do.

A claim that the configuration relies on and that is malformed makes the token invalid. One that is missing gives
nothing: no scope, no model, no adapter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from gateway.access.jws import Reason, TokenRefused
from gateway.access.principal import Principal, Scope
from gateway.limits.quota import UNLIMITED, Quota
from gateway.protocol.keys import LAST_MOMENT, MAX_ALLOWED_NAMES, Adapters, KeyQuota, Name, Tenant, Weight

if TYPE_CHECKING:
    from gateway.settings import JwtSettings

Claims = Mapping[str, Any]
T = TypeVar("T")

MAX_SUBJECT: Final = 255
_ID_DIGITS: Final = 24
_ABSENT: Final = object()

# As for keys of the store; but an empty list of models has a meaning here.
_STRICT: Final = ConfigDict(strict=True)
_TENANT: Final = TypeAdapter[str](Tenant, config=_STRICT)
_MODELS: Final = TypeAdapter[list[str]](Annotated[list[Name], Field(max_length=MAX_ALLOWED_NAMES)], config=_STRICT)
_ADAPTERS: Final = TypeAdapter[list[str]](Adapters, config=_STRICT)
_QUOTA: Final = TypeAdapter(KeyQuota)
_WEIGHT: Final = TypeAdapter[float](Weight, config=_STRICT)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """From when until when a token is good, in Unix seconds, the leeway for clocks included."""

    begins: float
    ends: float

    def check(self, now: float) -> None:
        """Raise :class:`TokenRefused` outside of it."""
        if now >= self.ends:
            raise TokenRefused(Reason.EXPIRED)
        if now < self.begins:
            raise TokenRefused(Reason.NOT_YET)


class ClaimRules:
    """Reads claims as the configuration of one issuer says. Methods raise :class:`TokenRefused`.

    Raises ValueError for a configured tenant that no tenant could be called.
    """

    def __init__(self, settings: JwtSettings) -> None:
        _TENANT.validate_python(settings.tenant)
        self._settings = settings
        self._scopes = {word: Scope(name) for word, name in settings.scopes.items()}

    def check_audience(self, claims: Claims) -> None:
        """It must be for us: ``aud`` is our name, or a list of names with ours among them."""
        audience = claims.get("aud")
        names = [audience] if isinstance(audience, str) else audience
        if not isinstance(names, list) or self._settings.audience not in names:
            raise TokenRefused(Reason.AUDIENCE)
        if not all(isinstance(name, str) for name in names):
            raise TokenRefused(Reason.AUDIENCE)

    def lifetime(self, claims: Claims) -> Lifetime:
        """``exp`` must be there, ``nbf`` and ``iat`` may."""
        leeway = self._settings.leeway
        begins = max((_moment(claims[name]) for name in ("nbf", "iat") if name in claims), default=float("-inf"))
        return Lifetime(begins - leeway, _moment(claims.get("exp")) + leeway)

    def principal(self, claims: Claims) -> Principal:
        """The caller that verified ``claims`` name."""
        settings = self._settings
        models = _value(claims, settings.models_claim, _MODELS, [])
        adapters = _value(claims, settings.adapters_claim, _ADAPTERS, [])
        quota = _value(claims, settings.quota_claim, _QUOTA, None)
        return Principal(
            _principal_id(settings.issuer, _subject(claims)),
            self._granted(claims),
            tenant=_value(claims, settings.tenant_claim, _TENANT, settings.tenant) or settings.tenant,
            models=None if models is None else frozenset(models),
            adapters=None if adapters is None else frozenset(adapters),
            quota=UNLIMITED if quota is None else Quota(**quota.model_dump()),
            weight=_value(claims, settings.weight_claim, _WEIGHT, 1.0) or 1.0,
            expires_at=_moment(claims.get("exp")),
        )

    def _granted(self, claims: Claims) -> frozenset[Scope]:
        """Words in a string, or a list of them; anything else is no scope, and no word is like another."""
        value = _claim(claims, self._settings.scope_claim)
        words = value.split(" ") if isinstance(value, str) else value
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            return frozenset()
        return frozenset(self._scopes[word] for word in words if word in self._scopes)


def _principal_id(issuer: str, subject: str) -> str:
    return "jwt-" + hashlib.sha256(f"{issuer}\0{subject}".encode()).hexdigest()[:_ID_DIGITS]


def _subject(claims: Claims) -> str:
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 1 <= len(subject) <= MAX_SUBJECT:
        raise TokenRefused(Reason.SUBJECT)
    return subject


def _moment(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LAST_MOMENT:
        raise TokenRefused(Reason.TIME)
    return float(value)


def _value(claims: Claims, name: str | None, form: TypeAdapter[T], absent: T | None) -> T | None:
    """The claim ``name`` in its form; ``absent`` if the token has none; None if none is configured."""
    if name is None:
        return None
    value = _claim(claims, name)
    if value is _ABSENT:
        return absent
    try:
        return form.validate_python(value)
    except ValidationError:
        raise TokenRefused(Reason.CLAIMS) from None


def _claim(claims: Claims, name: str) -> object:
    """The claim of that name, else the one that the name is a dotted path to."""
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _ABSENT
        found = found[part]
    return found
