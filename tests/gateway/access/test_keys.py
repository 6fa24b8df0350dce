from __future__ import annotations

import hashlib
import hmac
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.keys import KeyParts, is_public_id, key_digest, new_key, new_secret, parse_key

IDS = st.text(string.ascii_lowercase + string.digits, min_size=16, max_size=16)
SECRETS = st.text(string.ascii_letters + string.digits, min_size=43, max_size=43)
GOOD = b"sk-abcdefgh01234567-" + b"A" * 43


@given(IDS, SECRETS)
def test_what_is_written_is_read(public_id: str, secret: str) -> None:
    key = KeyParts(public_id, secret)
    assert parse_key(key.text().encode()) == key
    assert is_public_id(public_id)


@given(st.binary(max_size=100) | st.from_regex(rb"sk-[a-z0-9]{14,18}-[A-Za-z0-9]{41,45}\n?"))
def test_what_is_read_is_what_would_be_written(token: bytes) -> None:
    key = parse_key(token)
    assert key is None or key.text().encode() == token


@pytest.mark.parametrize(
    "token",
    [
        b"",
        GOOD + b"\n",
        GOOD + b" ",
        GOOD + b"\x00",
        b" " + GOOD,
        GOOD[:-1],
        GOOD + b"A",
        GOOD.replace(b"sk-", b"SK-"),
        GOOD.replace(b"abc", b"ABC"),
        GOOD.replace(b"AAA", b"A-A"),
        GOOD.replace(b"A", "Ａ".encode()),
        b"sk-*-*",
        b"sk-{abcdefgh01234567}-" + b"A" * 43,
        b"sk-' OR 1=1 -- 0000-" + b"A" * 43,
        b"A" * 1_000_000,
    ],
)
def test_other_forms_are_no_keys_of_ours(token: bytes) -> None:
    assert parse_key(GOOD) is not None
    assert parse_key(token) is None


def test_new_keys_have_the_form_and_differ() -> None:
    made = [new_key() for _ in range(1000)]
    assert all(parse_key(key.text().encode()) == key for key in made)
    assert len({key.public_id for key in made}) == len({key.secret for key in made}) == 1000
    assert set("".join(key.secret for key in made)) == set(string.ascii_letters + string.digits)
    assert len(new_secret()) == 43


def test_the_digest_is_a_keyed_hash_of_id_and_secret() -> None:
    key = KeyParts("abcdefgh01234567", "A" * 43)
    expected = hmac.new(b"pepper", b"abcdefgh01234567:" + b"A" * 43, hashlib.sha256).digest()
    assert key_digest(b"pepper", key) == expected
    others = [
        key_digest(b"peppex", key),
        key_digest(b"pepper", KeyParts("abcdefgh01234568", key.secret)),
        key_digest(b"pepper", KeyParts(key.public_id, "B" + "A" * 42)),
    ]
    assert expected not in others


def test_a_key_is_not_shown() -> None:
    assert "AAA" not in repr(parse_key(GOOD))
    assert "AAA" not in str(parse_key(GOOD))
