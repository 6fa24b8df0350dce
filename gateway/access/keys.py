"""The form of our API keys, ``sk-<public id>-<secret>``, and the only thing that is kept of one: a peppered hash."""

from __future__ import annotations

import hmac
import re
import secrets
import string
from typing import Final, NamedTuple

# As the patterns below say. 43 characters of base 62 are 256 bits.
ID_LENGTH: Final = 16
SECRET_LENGTH: Final = 43
DIGEST_BYTES: Final = 32

_ID_ALPHABET: Final = string.ascii_lowercase + string.digits
_SECRET_ALPHABET: Final = string.ascii_letters + string.digits
_FORM: Final = re.compile(rb"sk-([a-z0-9]{16})-([A-Za-z0-9]{43})")
_ID: Final = re.compile(r"[a-z0-9]{16}")


class KeyParts(NamedTuple):
    """A key taken apart. ``public_id`` may be logged, ``secret`` may not."""

    public_id: str
    secret: str

    def text(self) -> str:
        """The whole key, as its owner keeps it."""
        return f"sk-{self.public_id}-{self.secret}"

    def __repr__(self) -> str:
        return f"KeyParts({self.public_id!r}, ***)"


def parse_key(token: bytes) -> KeyParts | None:
    """The parts of ``token``, or None if it does not have the form of a key of ours."""
    match = _FORM.fullmatch(token)
    return KeyParts(match[1].decode("ascii"), match[2].decode("ascii")) if match else None


def is_public_id(text: str) -> bool:
    """Whether ``text`` could be the public id of a key."""
    return _ID.fullmatch(text) is not None


def new_key() -> KeyParts:
    """A key that nobody has had before."""
    return KeyParts(_random(_ID_ALPHABET, ID_LENGTH), new_secret())


def new_secret() -> str:
    """A new secret part, for a new key or a rotated one."""
    return _random(_SECRET_ALPHABET, SECRET_LENGTH)


def key_digest(pepper: bytes, key: KeyParts) -> bytes:
    """What is stored of ``key``. The id is hashed along, so a hash fits no other row."""
    return hmac.digest(pepper, f"{key.public_id}:{key.secret}".encode("ascii"), "sha256")


def _random(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))
