"""An issuer's published keys (RFC 7517): which of them may verify tokens here, and with what."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from gateway.access.jws import MAX_KID, strict_json

MAX_KEYS: Final = 100
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

# Where key type and curve leave no choice, the algorithm follows from them.
_ALGORITHMS: Final[Mapping[tuple[object, object], str]] = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}
_MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {"RS256": ("n", "e"), "ES256": ("x", "y"), "EdDSA": ("x",)}
_SECRET_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
# As many characters as the modulus of the largest RSA key.
_NUMBER: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_RSA_BITS // 6 + 1}}}")


class UnusableKeySet(Exception):
    """A document that is no key set, or holds no key for us. The message says why and may be logged."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key and the one algorithm that it is for: tokens have no say in it. Equal if it is the same key."""

    kid: str | None
    algorithm: str
    fingerprint: bytes
    material: PublicKey = field(compare=False, repr=False)


class VerificationKeys:
    """What one issuer's tokens are verified with; no two keys share a kid."""

    def __init__(self, keys: Iterable[VerificationKey]) -> None:
        self._keys = frozenset(keys)
        self._by_kid = {key.kid: key for key in self._keys if key.kid is not None}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: VerificationKey) -> bool:
        return key in self._keys

    def knows(self, kid: str) -> bool:
        """Whether there is a key of that name."""
        return kid in self._by_kid

    def find(self, kid: str | None, algorithm: str) -> VerificationKey | None:
        """The key that ``kid`` names, if it is for ``algorithm``; without a name, the only one that is."""
        if kid is None:
            fitting = [key for key in self._keys if key.algorithm == algorithm]
            return fitting[0] if len(fitting) == 1 else None
        key = self._by_kid.get(kid)
        return key if key is not None and key.algorithm == algorithm else None


class ParsedKeys(NamedTuple):
    """The usable keys of a document; ``refused`` says of each other one, by its kid, why it is not."""

    keys: VerificationKeys
    refused: tuple[tuple[str, str], ...]


class _Refused(Exception):
    """A key that is not used; the message says why."""


def parse_key_set(document: bytes, algorithms: Collection[str]) -> ParsedKeys:
    """The keys in ``document`` for ``algorithms``. Takes a while for many keys. Raises :class:`UnusableKeySet`."""
    keys: list[VerificationKey] = []
    refused: list[tuple[str, str]] = []
    for entry in _entries(document):
        try:
            keys.append(_verification_key(entry, algorithms))
        except _Refused as problem:
            refused.append((_name(entry), str(problem)))
    named = Counter(key.kid for key in keys if key.kid is not None)
    refused += [(kid, "the kid of several keys") for kid, count in named.items() if count > 1]
    unique = [key for key in keys if key.kid is None or named[key.kid] == 1]
    if not unique:
        why = f": {refused[0][0]!r} is refused ({refused[0][1]})" if refused else ""
        raise UnusableKeySet(f"no usable key{why}")
    return ParsedKeys(VerificationKeys(unique), tuple(refused))


def _entries(document: bytes) -> list[object]:
    try:
        value = strict_json(document)
    except ValueError:
        raise UnusableKeySet("not JSON") from None
    entries = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise UnusableKeySet("not a set of keys")
    if len(entries) > MAX_KEYS:
        raise UnusableKeySet(f"more than {MAX_KEYS} keys")
    return entries


def _name(entry: object) -> str:
    kid = entry.get("kid") if isinstance(entry, dict) else None
    return kid[:MAX_KID] if isinstance(kid, str) else "(no kid)"


def _verification_key(entry: object, algorithms: Collection[str]) -> VerificationKey:
    if not isinstance(entry, dict):
        raise _Refused("not an object")
    kid = entry.get("kid")
    if kid is not None and not (isinstance(kid, str) and 1 <= len(kid) <= MAX_KID and kid.isprintable()):
        raise _Refused("a malformed kid")
    _check_purpose(entry)
    algorithm = _algorithm(entry)
    if algorithm not in algorithms:
        raise _Refused("an algorithm that is not accepted")
    material = _material(entry, algorithm)
    spki = material.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return VerificationKey(kid, algorithm, hashlib.sha256(spki).digest(), material)


def _check_purpose(entry: Mapping[str, Any]) -> None:
    if not _SECRET_MEMBERS.isdisjoint(entry):
        raise _Refused("a secret or private key, which no issuer should publish")
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise _Refused("not for signatures")


def _algorithm(entry: Mapping[str, Any]) -> str:
    kty, curve = entry.get("kty"), entry.get("crv")
    if not isinstance(kty, str) or not isinstance(curve, str | None):
        raise _Refused("a malformed key type")
    fitting = _ALGORITHMS.get((kty, curve))
    if fitting is None or entry.get("alg", fitting) != fitting:
        raise _Refused("a key type, curve or algorithm that is not supported")
    return fitting


def _material(entry: Mapping[str, Any], algorithm: str) -> PublicKey:
    members = {name: entry.get(name) for name in _MEMBERS[algorithm]}
    if not all(isinstance(value, str) and _NUMBER.fullmatch(value) for value in members.values()):
        raise _Refused("a malformed or oversized number")
    # Nothing but what a public key is made of reaches the library.
    public = {"kty": entry["kty"], "crv": entry.get("crv"), **members}
    try:
        return _checked(PyJWK(public, algorithm).key)
    except (PyJWTError, ValueError):
        raise _Refused("not a public key") from None


def _checked(key: object) -> PublicKey:
    if isinstance(key, RSAPublicKey) and not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise _Refused(f"an RSA key of {key.key_size} bits")
    if not isinstance(key, PublicKey):
        raise _Refused("not a public key")
    return key
