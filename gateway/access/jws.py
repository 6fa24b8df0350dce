"""The compact form of a JWT (RFC 7515, 7519), read strictly, before any key is looked at.

There is one spelling of a token: whatever another reader might understand differently is refused here.
"""

from __future__ import annotations

import base64
import enum
import re
from dataclasses import dataclass
from typing import Any, Final

import jiter

MAX_TOKEN_BYTES: Final = 8192
MAX_KID: Final = 256

# `=`, newlines and the standard alphabet are other spellings of the same bytes.
_SEGMENT: Final = re.compile(rb"[A-Za-z0-9_-]+")
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
# Extensions that change what is signed; none is understood here. ``crit`` lists those that must be.
_EXTENSIONS: Final = ("crit", "b64")


class Reason(enum.Enum):
    """Why a token was refused: for operators, callers are not told."""

    FORM = "form"
    HEADER = "header"
    ISSUER = "issuer"
    ALGORITHM = "algorithm"
    KEY = "key"
    SIGNATURE = "signature"
    AUDIENCE = "audience"
    SUBJECT = "subject"
    TIME = "time"
    EXPIRED = "expired"
    NOT_YET = "not_yet"
    CLAIMS = "claims"


class TokenRefused(Exception):
    """A token that is not to be believed."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class CompactToken:
    """A token taken apart; nothing of it is proven. ``payload`` is the JSON that ``claims`` were read from."""

    algorithm: str
    kid: str | None
    claims: dict[str, Any]
    payload: bytes


def read_compact(token: bytes) -> CompactToken:
    """Take ``token`` apart. Raises :class:`TokenRefused`."""
    segments = token.split(b".")
    if len(token) > MAX_TOKEN_BYTES or len(segments) != 3:
        raise TokenRefused(Reason.FORM)
    encoded_header, payload, _ = map(_decoded, segments)
    header = _object(encoded_header)
    _check_header(header)
    return CompactToken(header["alg"], header.get("kid"), _object(payload), payload)


def strict_json(data: bytes) -> object:
    """The JSON value in ``data``. Raises ValueError: malformed, NaN, not UTF-8, a lone surrogate, a name twice."""
    return jiter.from_json(data, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="none")


def _decoded(segment: bytes) -> bytes:
    if _SEGMENT.fullmatch(segment) is None or len(segment) % 4 == 1:
        raise TokenRefused(Reason.FORM)
    decoded = base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    # The last character may have bits to spare.
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != segment:
        raise TokenRefused(Reason.FORM)
    return decoded


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = strict_json(data)
    except ValueError:
        raise TokenRefused(Reason.FORM) from None
    if not isinstance(value, dict):
        raise TokenRefused(Reason.FORM)
    return value


def _check_header(header: dict[str, Any]) -> None:
    kind, kid = header.get("typ", "JWT"), header.get("kid", "none")
    good = (
        isinstance(header.get("alg"), str)
        and isinstance(kind, str)
        and kind.lower() in _TYPES
        and isinstance(kid, str)
        and 1 <= len(kid) <= MAX_KID
        and kid.isprintable()
        and not any(name in header for name in _EXTENSIONS)
    )
    if not good:
        raise TokenRefused(Reason.HEADER)
