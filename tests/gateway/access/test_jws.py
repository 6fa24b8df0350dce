from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.access.jws import MAX_KID, MAX_TOKEN_BYTES, CompactToken, Reason, TokenRefused, read_compact
from tests.support.issuer import segment

HEADER = {"alg": "RS256", "kid": "one", "typ": "JWT"}
CLAIMS = {"iss": "me", "sub": "you"}
SIGNATURE = segment(b"signature")


def token(header: object = HEADER, payload: object = CLAIMS, signature: bytes = SIGNATURE) -> bytes:
    return b".".join([segment(header), segment(payload), signature])


def refusal(data: bytes) -> Reason:
    with pytest.raises(TokenRefused) as refused:
        read_compact(data)
    return refused.value.reason


def test_a_token_taken_apart() -> None:
    parts = read_compact(token())
    assert parts == CompactToken("RS256", "one", CLAIMS, json.dumps(CLAIMS).encode())
    assert read_compact(token({"alg": "RS256"})).kid is None
    assert read_compact(token({**HEADER, "typ": "at+JWT"})).algorithm == "RS256"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"..", b"a.b", b"a.b.c.d", segment(HEADER) + b"." + segment(CLAIMS) + b".",
        token(signature=b"A"), token(signature=b"AAAAA"),
        b"." + segment(CLAIMS) + b"." + SIGNATURE,
        token(b"{"), token(b"[]"), token(b"null"), token(payload=b'"text"'), token(payload=b"{}x"),
        token(b"\xff\xfe"), token(payload=b'{"sub":"\xff"}'), token(b"\xef\xbb\xbf" + json.dumps(HEADER).encode()),
        token(payload=b'{"sub":"\\ud800"}'), token(payload=b'{"exp":NaN}'), token(payload=b'{"exp":Infinity}'),
        token(payload=b"[" * 3000), token(payload=b'{"a":' * 1000 + b"1" + b"}" * 1000),
        token(payload=b'{"n":' + b"9" * 5000 + b"}"),
        token(payload={"pad": "x" * MAX_TOKEN_BYTES}),
    ],
)  # fmt: skip
def test_what_is_no_token(data: bytes) -> None:
    assert refusal(data) is Reason.FORM


@pytest.mark.parametrize(
    "payload",
    [b'{"sub":"a","sub":"a"}', b'{"sub":"a","su\\u0062":"b"}', b'{"realm":{"roles":[],"roles":["admin"]}}'],
)
def test_a_name_that_stands_twice(payload: bytes) -> None:
    assert refusal(token(payload=payload)) is Reason.FORM
    assert refusal(token(header=b'{"alg":"RS256","x":' + payload + b"}")) is Reason.FORM


@pytest.mark.parametrize(
    "change",
    [{"alg": None}, {"alg": 1}, {"alg": ["RS256"]}, {"typ": 1}, {"typ": None}, {"typ": "JWE"}, {"typ": "logout+jwt"},
     {"crit": ["exp"]}, {"crit": []}, {"b64": False}, {"b64": True}, {"kid": None}, {"kid": 7}, {"kid": ["one"]},
     {"kid": {}}, {"kid": ""}, {"kid": "x" * (MAX_KID + 1)}, {"kid": "a\nb"}, {"kid": "a\0b"}, {"kid": "\u202e"}],
)  # fmt: skip
def test_headers_that_are_refused(change: dict[str, object]) -> None:
    assert refusal(token({**HEADER, **change})) is Reason.HEADER


def test_a_header_without_an_algorithm() -> None:
    assert refusal(token({"kid": "one"})) is Reason.HEADER


SPELLINGS: list[Callable[[bytes], bytes]] = [
    lambda s: s + b"=",
    lambda s: s + b"==",
    lambda s: s + b"\n",
    lambda s: s[:4] + b"\n" + s[4:],
    lambda s: b" " + s,
    lambda s: s + b"%3D",
    lambda s: b"+" + s[1:],
    lambda s: s[:-1] + b"/",
]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("spell", SPELLINGS)
def test_other_spellings_of_base64(place: int, spell: Callable[[bytes], bytes]) -> None:
    parts = token().split(b".")
    parts[place] = spell(parts[place])
    assert refusal(b".".join(parts)) is Reason.FORM


def test_bits_to_spare() -> None:
    """``QQ`` and ``QR`` both decode to ``A``; only one of them is a token."""
    assert base64.urlsafe_b64decode(b"QR==") == b"A"
    assert read_compact(token(signature=b"QQ")).algorithm == "RS256"
    assert refusal(token(signature=b"QR")) is Reason.FORM


@given(st.binary(max_size=200) | st.lists(st.binary(max_size=60), min_size=3, max_size=3).map(
    lambda parts: b".".join(map(segment, parts))))  # fmt: skip
@example(b"e30.e30.e30")
def test_nothing_else_is_ever_raised(data: bytes) -> None:
    try:
        read_compact(data)
    except TokenRefused:
        return
    pytest.fail("three random parts made a token")
