from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.jwk import MAX_KEYS, UnusableKeySet, parse_key_set
from tests.support.issuer import jwk, key_set, private_key, public_jwk, rsa_key

ALL = ("RS256", "ES256", "EdDSA")
GOOD = jwk("ES256", "good")
NAMELESS = jwk("ES256", "good", kid=None)


def spki(key: Any) -> bytes:
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def refused(entry: object) -> str:
    """Why ``entry`` is not used, beside a good one that is."""
    parsed = parse_key_set(json.dumps({"keys": [entry, GOOD]}).encode(), ALL)
    assert parsed.keys.find("good", "ES256") is not None
    assert len(parsed.keys) == 1
    assert len(parsed.refused) == 1
    return parsed.refused[0][1]


@pytest.mark.parametrize("algorithm", ALL)
def test_a_key_is_for_one_algorithm(algorithm: str) -> None:
    keys = parse_key_set(key_set(jwk(algorithm, "k")), ALL).keys
    key = keys.find("k", algorithm)
    assert key is not None
    assert key.algorithm == algorithm
    assert spki(key.material) == spki(private_key(algorithm, "k").public_key())
    assert all(keys.find("k", other) is None for other in (*ALL, "HS256", "none", "PS256") if other != algorithm)


@pytest.mark.parametrize("algorithm", ALL)
def test_the_algorithm_follows_from_the_key_if_it_is_not_said(algorithm: str) -> None:
    keys = parse_key_set(key_set(jwk(algorithm, "k", alg=None, use=None)), ALL).keys
    assert keys.find("k", algorithm) is not None


def test_equal_if_it_is_the_same_key() -> None:
    first, again = (parse_key_set(key_set(jwk("RS256", "a")), ALL).keys.find("a", "RS256") for _ in range(2))
    other = parse_key_set(key_set(public_jwk("RS256", rsa_key(2048), kid="a")), ALL).keys
    assert first == again
    assert first is not None
    assert first not in other


@pytest.mark.parametrize(
    "entry",
    [None, 7, "key", [], {}, {"kty": "oct", "k": "c2VjcmV0", "kid": "good"}, {"kty": "RSA"}, {"kty": ["RSA"]},
     {"kty": "EC", "crv": 5}],
)  # fmt: skip
def test_what_is_no_public_key(entry: object) -> None:
    assert refused(entry)


@pytest.mark.parametrize(
    ("algorithm", "change"),
    [
        ("RS256", {"use": "enc"}), ("RS256", {"use": None, "key_ops": ["encrypt"]}), ("RS256", {"key_ops": 7}),
        ("RS256", {"alg": "RS512"}), ("RS256", {"alg": "PS256"}), ("RS256", {"alg": "HS256"}),
        ("RS256", {"alg": "none"}), ("RS256", {"alg": 5}), ("RS256", {"kty": "rsa"}),
        ("RS256", {"kid": 5}), ("RS256", {"kid": ""}), ("RS256", {"kid": "x" * 300}), ("RS256", {"kid": "a\nb"}),
        ("RS256", {"n": "AQAB"}), ("RS256", {"n": "A" * 2000}), ("RS256", {"n": 5}), ("RS256", {"n": ""}),
        ("RS256", {"e": "AQ"}), ("RS256", {"e": "Ag"}), ("RS256", {"e": "AA"}), ("RS256", {"n": "ä" * 300}),
        ("RS256", {"d": "c2VjcmV0"}), ("RS256", {"k": "c2VjcmV0"}), ("ES256", {"d": "c2VjcmV0"}),
        ("ES256", {"crv": "P-384"}), ("ES256", {"crv": "secp256k1", "alg": None}), ("ES256", {"x": "AQAB"}),
        ("ES256", {"y": "A" * 43}), ("ES256", {"alg": "RS256"}), ("EdDSA", {"crv": "X25519", "alg": None}),
        ("EdDSA", {"x": "AQAB"}), ("EdDSA", {"alg": "ES256"}),
    ],
)  # fmt: skip
def test_keys_that_are_refused(algorithm: str, change: dict[str, Any]) -> None:
    assert refused(jwk(algorithm, "bad", **change))


def test_weak_huge_and_foreign_keys() -> None:
    assert refused(public_jwk("RS256", rsa_key(1024), kid="weak")) == "an RSA key of 1024 bits"
    assert refused(public_jwk("ES256", ec.generate_private_key(ec.SECP384R1()), kid="other"))
    assert refused(public_jwk("EdDSA", ed448.Ed448PrivateKey.generate(), kid="other"))


def test_only_accepted_algorithms() -> None:
    document = key_set(jwk("RS256", "a"), jwk("ES256", "b"))
    keys = parse_key_set(document, ("ES256",)).keys
    assert keys.find("b", "ES256") is not None
    assert keys.find("a", "RS256") is None
    assert not keys.knows("a")


def test_a_kid_of_two_keys_names_none() -> None:
    twins = [jwk("RS256", "twin"), public_jwk("ES256", private_key("ES256", "other"), kid="twin")]
    parsed = parse_key_set(key_set(*twins, GOOD), ALL)
    assert parsed.refused == (("twin", "the kid of several keys"),)
    assert len(parsed.keys) == 1
    with pytest.raises(UnusableKeySet, match="twin"):
        parse_key_set(key_set(*twins), ALL)


def test_without_a_kid_there_must_be_one_key_only() -> None:
    one = parse_key_set(key_set(jwk("RS256", "a"), jwk("ES256", "b", kid=None)), ALL).keys
    assert one.find(None, "RS256") == one.find("a", "RS256")
    assert one.find(None, "ES256") is not None
    assert one.find(None, "EdDSA") is None
    assert parse_key_set(key_set(jwk("RS256", "a"), jwk("RS256", "b")), ALL).keys.find(None, "RS256") is None


@pytest.mark.parametrize(
    "document",
    [b"", b"<html>down for maintenance</html>", b"null", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[]}', b"\xff",
     b'{"keys":[],"keys":[]}', b"[" * 100_000, key_set(*[NAMELESS] * (MAX_KEYS + 1)),
     key_set({"kty": "oct", "k": "AAAA"})],
)  # fmt: skip
def test_documents_without_a_key_for_us(document: bytes) -> None:
    with pytest.raises(UnusableKeySet):
        parse_key_set(document, ALL)


def test_a_private_key_is_not_told_of() -> None:
    secret = "c2VjcmV0c2VjcmV0"
    parsed = parse_key_set(key_set(jwk("RS256", "leak", d=secret), GOOD), ALL)
    assert secret not in repr(parsed.refused)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3)
)


@given(st.dictionaries(st.sampled_from(["kty", "crv", "alg", "use", "key_ops", "kid", "n", "e", "x", "y", "d"]), _JSON))
def test_whatever_an_issuer_publishes_the_good_key_stays(change: dict[str, Any]) -> None:
    parsed = parse_key_set(json.dumps({"keys": [{**jwk("RS256", "odd"), **change}, GOOD]}).encode(), ALL)
    assert parsed.keys.find("good", "ES256") is not None or change.get("kid") == "good"


def test_ed25519_is_read() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    assert len(parse_key_set(key_set(public_jwk("EdDSA", key)), ALL).keys) == 1
