"""The same text as a reader could take it: without invisible marks and look-alikes, decoded, spelled backwards.

What hides a text from a pattern hides it from no reader: people and models see through look-alikes, and models decode.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final
from urllib.parse import unquote

from confusable_homoglyphs.confusables import confusables_data

#: Decoded texts may hide others; nobody reads deeper.
MAX_DEPTH: Final = 3
MAX_DECODED: Final = 32

_LEET: Final = str.maketrans("013457@$!|", "oleastasil")
_LEET_WORD: Final = re.compile(r"[A-Za-z][013457@$!|]|[013457@$!|][A-Za-z]")
_SPACED: Final = re.compile(r"(?<!\w)(?:\w[\s._*\-]{1,2}){2,}\w(?!\w)")
_GAPS: Final = re.compile(r"[\s._*\-]+")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{12,}={0,2}")
_BASE32: Final = re.compile(r"\b[A-Z2-7]{16,}={0,6}")
_HEX: Final = re.compile(r"\b(?:0x)?(?:[0-9A-Fa-f]{2}[\s:,]?){6,}")
_BINARY: Final = re.compile(r"\b(?:[01]{8}[\s,]?){4,}")
_ESCAPES: Final = re.compile(r"\\(?:u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|x[0-9A-Fa-f]{2})")
_PERCENT: Final = re.compile(r"(?:%[0-9A-Fa-f]{2}){2,}")
_ENTITY: Final = re.compile(r"&(?:#\d+|#x[0-9A-Fa-f]+|[a-z]{2,8});")
#: Unicode's invisible copies of ASCII (Tags block).
_TAGS: Final = {0xE0000 + code: chr(code) for code in range(0x20, 0x7F)}


@dataclass(frozen=True, slots=True)
class Views:
    """``plain``: the text without invisible marks; ``folded``: and without look-alikes; ``decoded``: what was encoded
    in it; ``tricks``: the other ways to write it.
    """

    plain: str
    folded: str
    decoded: tuple[str, ...]
    tricks: tuple[str, ...]

    def all(self) -> tuple[str, ...]:
        """Every view once."""
        return tuple(dict.fromkeys((self.plain, self.folded, *self.decoded, *self.tricks)))

    def read(self) -> tuple[str, ...]:
        """What a learned evaluator is asked about."""
        return tuple(dict.fromkeys((self.plain, self.folded, *self.decoded)))


def views_of(text: str) -> Views:
    """The views of ``text``. Pure; takes time in proportion to its length."""
    plain = visible(text)
    folded = fold(plain)
    decoded = tuple(dict.fromkeys(_decoded(plain, MAX_DEPTH)))[:MAX_DECODED]
    tricks = tuple(way for each in (folded, *decoded) for way in _tricks(each))
    return Views(plain, folded, decoded, tricks)


def visible(text: str) -> str:
    """``text`` as it looks: compatibility forms made plain (NFKC), invisible and combining marks left out."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", text.translate(_TAGS))
    return "".join(
        character for character in text if unicodedata.category(character) not in ("Cf", "Cc") or character in "\n\r\t"
    )


def fold(text: str) -> str:
    """``text`` in ASCII as far as it looks like that: accents dropped, look-alikes of other scripts replaced."""
    if text.isascii():
        return text
    bare = "".join(
        each for each in unicodedata.normalize("NFKD", text) if unicodedata.category(each) not in ("Mn", "Me")
    )
    return bare.translate(_look_alikes())


@cache
def _look_alikes() -> dict[int, str]:
    """Characters outside ASCII that Unicode's table of confusables takes for a letter or digit of it."""
    table = {}
    for character, alike in confusables_data.items():
        if len(character) == 1 and not character.isascii():
            ascii_ones = [each["c"] for each in alike if each["c"].isascii() and each["c"].isalnum()]
            if ascii_ones:
                table[ord(character)] = ascii_ones[0]
    return table


def _tricks(text: str) -> Iterator[str]:
    yield codecs.encode(text, "rot13")
    yield text[::-1]
    if _has_digits_in_words(text):
        yield text.translate(_LEET)
    if _SPACED.search(text):
        yield _SPACED.sub(lambda match: _GAPS.sub("", match[0]), text)


def _has_digits_in_words(text: str) -> bool:
    return _LEET_WORD.search(text) is not None


def _decoded(text: str, depth: int) -> Iterator[str]:
    if not depth:
        return
    for found in _layer(text):
        clear = fold(visible(found))
        yield clear
        yield from _decoded(clear, depth - 1)


def _layer(text: str) -> Iterator[str]:
    for pattern, decode in _ENCODINGS:
        for match in pattern.finditer(text):
            found = decode(match[0])
            if found is not None and _is_text(found):
                yield found
    for pattern, decode_all in _INLINE:
        if pattern.search(text):
            yield decode_all(text)


def _is_text(raw: str) -> bool:
    if len(raw) < 4:
        return False
    printable = sum(character.isprintable() or character in "\n\r\t" for character in raw)
    return printable / len(raw) > 0.95 and sum(character.isalpha() for character in raw) / len(raw) > 0.5


def _utf8(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _from_base64(text: str) -> str | None:
    standard = text.rstrip("=").replace("-", "+").replace("_", "/")
    if len(standard) % 4 == 1:
        standard = standard[:-1]
    try:
        return _utf8(base64.b64decode(standard + "=" * (-len(standard) % 4)))
    except (binascii.Error, ValueError):
        return None


def _from_base32(text: str) -> str | None:
    bare = text.rstrip("=")
    try:
        return _utf8(base64.b32decode(bare + "=" * (-len(bare) % 8)))
    except (binascii.Error, ValueError):
        return None


def _from_hex(text: str) -> str | None:
    digits = re.sub(r"0x|[\s:,]", "", text)
    return _utf8(bytes.fromhex(digits[: len(digits) // 2 * 2]))


def _from_binary(text: str) -> str | None:
    return _utf8(bytes(int(byte, 2) for byte in re.findall(r"[01]{8}", text)))


def _from_escapes(text: str) -> str:
    return _ESCAPES.sub(lambda match: chr(min(int(match[0][2:], 16), 0x10FFFF)), text)


_ENCODINGS: Final[tuple[tuple[re.Pattern[str], Callable[[str], str | None]], ...]] = (
    (_BASE64, _from_base64),
    (_BASE32, _from_base32),
    (_HEX, _from_hex),
    (_BINARY, _from_binary),
)
_INLINE: Final[tuple[tuple[re.Pattern[str], Callable[[str], str]], ...]] = (
    (_PERCENT, unquote),
    (_ENTITY, html.unescape),
    (_ESCAPES, _from_escapes),
)
