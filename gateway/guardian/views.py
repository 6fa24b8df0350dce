"""The same text as a reader could take it: without invisible marks and look-alikes, decoded, spelled backwards.

What hides a text from a pattern hides it from no reader: people and models see through look-alikes, and models decode.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import quopri
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
#: What was decoded beyond this number is read as one text.
MAX_DECODED: Final = 32
SHORTEST_DECODED: Final = 5
ACCIDENT: Final = 12
#: An encoded text of which a look may have seen no more than the end.
LONG_ENCODED: Final = 24

#: Digits and signs that stand for letters; ``1`` stands for two of them.
_LEET: Final = str.maketrans("0123456789@$!|", "oizeasgtbgasil")
_LEET_L: Final = str.maketrans("0123456789@$!|", "olzeasgtbgasil")
_LEET_WORD: Final = re.compile(r"[A-Za-z][0-9@$!|]|[0-9@$!|][A-Za-z]")
_SPACED: Final = re.compile(r"(?<!\w)(?:[^\W_][\W_]{1,4}){2,}[^\W_](?!\w)")
_GAPS: Final = re.compile(r"[\W_]+")
#: What divides a word that a reader sees whole: marks of emphasis, hyphens, the end of a line.
_DIVIDED: Final = re.compile(r"(?<=[^\W_])(?:(?:<[^<>]{1,60}>){1,4}|[^\w\s]{1,3}|_{1,3}|-?[ \t]*\r?\n[ \t]*)(?=[^\W_])")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{8,}={0,2}")
_BASE64_LINES: Final = re.compile(r"(?<![A-Za-z0-9+/])(?:[A-Za-z0-9+/]{16,}\r?\n)+[A-Za-z0-9+/]+={0,2}")
_BASE32: Final = re.compile(r"\b[A-Z2-7]{12,}={0,6}")
_HEX: Final = re.compile(r"\b(?:(?:0x|U\+0{0,6})?[0-9A-Fa-f]{2}[\s:,;.\-]{0,2}){4,}")
_HEX_MARK: Final = re.compile(r"0x|U\+0*|[\s:,;.\-]")
_BINARY: Final = re.compile(r"\b(?:[01]{8}[\s,]?){4,}")
_DECIMAL: Final = re.compile(r"\b(?:\d{2,3}[\s,;.\-]{1,2}){3,}\d{2,3}\b")
_MORSE: Final = re.compile(
    r"(?:[.\u00b7\u2022\-\u2013\u2014_]{1,5}(?:\s|/|\|){1,3}){3,}[.\u00b7\u2022\-\u2013\u2014_]{1,5}"
)
_ESCAPES: Final = re.compile(
    r"\\(?:u\{([0-9A-Fa-f]{1,6})\}|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|x([0-9A-Fa-f]{2})|([0-3][0-7]{2}))"
    r"|%u([0-9A-Fa-f]{4})"
)
_PERCENT: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_QUOTED: Final = re.compile(r"=[0-9A-F]{2}")
_ENTITY: Final = re.compile(r"&(?:#\d+|#[xX][0-9A-Fa-f]+|[A-Za-z]{2,31};)")
#: Unicode's invisible copies of ASCII (Tags block).
_TAGS: Final = {0xE0000 + code: chr(code) for code in range(0x20, 0x7F)}
_NO_TAGS: Final = dict.fromkeys(_TAGS)
#: Variation selectors, which carry a byte each and show nothing.
_SELECTORS: Final = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]+")
#: Bytes that no character of UTF-8 begins with.
_CONTINUED: Final = bytes(range(0x80, 0xC0))
#: Letters that show nothing, and a blank of Braille.
_BLANK: Final = dict.fromkeys([0x115F, 0x1160, 0x3164, 0xFFA0, 0x2800])
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
#: Letters in squares, circles and flags and small capitals, which NFKC leaves alone; and those of Braille.
_PICTURED: Final = {
    **{first + place: letter for first in (0x1F150, 0x1F170, 0x1F1E6) for place, letter in enumerate(_LETTERS)},
    **dict(zip(map(ord, "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘǫʀꜱᴛᴜᴠᴡxʏᴢ"), _LETTERS, strict=True)),
    **dict(zip(map(ord, "⠁⠃⠉⠙⠑⠋⠛⠓⠊⠚⠅⠇⠍⠝⠕⠏⠟⠗⠎⠞⠥⠧⠺⠭⠽⠵"), _LETTERS, strict=True)),
}
#: Letters on their heads, and those that are another letter then.
_TURNED: Final = str.maketrans("ɐqɔpǝɟƃɓɥᴉıɾʞɯudbɹʇnʌʍʎ", "abcdefgghiijkmnpqrtuvwy")
_TURNED_MARK: Final = re.compile("[ɐɔǝɟƃɥᴉɾʞɯɹʇʌʍʎ]")
_MORSE_CODE: Final = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.."
)
_MORSE_LETTERS: Final = dict(zip(_MORSE_CODE.split(" "), _LETTERS, strict=True))
_MORSE_SIGNS: Final = str.maketrans("\u00b7\u2022\u2013\u2014_", "..---")


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
    plain, bare = visible(text), without_tags(text)
    folded = fold(plain)
    beside = () if bare == plain else (fold(bare), *_decoded(bare, MAX_DEPTH))
    found = tuple(dict.fromkeys((*beside, *_decoded(plain, MAX_DEPTH))))
    # What is beyond the bound is not left out: whoever sends much that can be decoded would hide the rest behind it.
    decoded = (*found[: MAX_DECODED - 1], "\n".join(found[MAX_DECODED - 1 :])) if len(found) > MAX_DECODED else found
    tricks = tuple(way for each in (folded, *decoded) for way in _tricks(each))
    return Views(plain, folded, decoded, tricks)


def visible(text: str) -> str:
    """``text`` as it looks: compatibility forms made plain (NFKC), invisible and combining marks left out."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", text.translate(_TAGS | _BLANK))
    return "".join(
        character for character in text if unicodedata.category(character) not in ("Cf", "Cc") or character in "\n\r\t"
    )


def without_tags(text: str) -> str:
    """``text`` as :func:`visible` has it, without what is written in invisible tags."""
    return visible(text.translate(_NO_TAGS)) if not text.isascii() else text


def fold(text: str) -> str:
    """``text`` in ASCII as far as it looks like that: accents dropped, look-alikes of other scripts replaced."""
    if text.isascii():
        return text
    bare = "".join(
        each
        for each in unicodedata.normalize("NFKD", text.translate(_PICTURED))
        if unicodedata.category(each) not in ("Mn", "Me")
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
    whole = [text]
    if _SPACED.search(text):
        whole.append(_SPACED.sub(lambda match: _GAPS.sub("", match[0]), text))
    if _DIVIDED.search(text):
        whole.append(_DIVIDED.sub("", text))
    for each in whole:
        yield each
        yield codecs.encode(each, "rot13")
        yield each[::-1]
        if _LEET_WORD.search(each):
            yield each.translate(_LEET)
            yield each.translate(_LEET_L)


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
            for found in decode(match[0]):
                if _is_text(found):
                    yield found
    if (plain := _without_escapes(text)) != text:
        yield plain
    if _TURNED_MARK.search(text):
        yield text.translate(_TURNED)


def _without_escapes(text: str) -> str:
    for pattern, decode_all in _INLINE:
        if pattern.search(text):
            text = decode_all(text)
    return text


def _is_text(raw: str) -> bool:
    if len(raw) < SHORTEST_DECODED:
        return False
    printable = sum(character.isprintable() or character in "\n\r\t" for character in raw)
    # What is short is decoded from any word, and is a text by accident.
    letters = 0.6 if len(raw) > ACCIDENT else 0.9
    return printable / len(raw) > 0.95 and sum(character.isalnum() for character in raw) / len(raw) > letters


def _utf8(raw: bytes) -> Iterator[str]:
    """``raw`` as text, if it is; not what is cut off at its ends, nor the zero bytes of UTF-16."""
    raw = raw.replace(b"\0", b"").lstrip(_CONTINUED)
    try:
        yield raw.decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            yield raw[: error.start].decode()


def _from_base64(text: str) -> Iterator[str]:
    """From each of the places where a group may begin: a look may begin anywhere in an encoded text."""
    standard = re.sub(r"\s", "", text).rstrip("=").replace("-", "+").replace("_", "/")
    for start in range(4 if len(standard) >= LONG_ENCODED else 1):
        piece = standard[start:]
        piece = piece[:-1] if len(piece) % 4 == 1 else piece
        try:
            yield from _utf8(base64.b64decode(piece + "=" * (-len(piece) % 4)))
        except (binascii.Error, ValueError):
            continue


def _from_base32(text: str) -> Iterator[str]:
    for start in range(8 if len(text) >= LONG_ENCODED else 1):
        piece = text.rstrip("=")[start:]
        # Groups end behind two, four, five or seven characters.
        piece = piece[:-1] if len(piece) % 8 in (1, 3, 6) else piece
        try:
            yield from _utf8(base64.b32decode(piece + "=" * (-len(piece) % 8)))
        except (binascii.Error, ValueError):
            continue


def _from_hex(text: str) -> Iterator[str]:
    digits = _HEX_MARK.sub("", text)
    for start in range(2):
        piece = digits[start:]
        yield from _utf8(bytes.fromhex(piece[: len(piece) // 2 * 2]))


def _from_binary(text: str) -> Iterator[str]:
    yield from _utf8(bytes(int(byte, 2) for byte in re.findall(r"[01]{8}", text)))


def _from_decimal(text: str) -> Iterator[str]:
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    if all(number < 256 for number in numbers):
        yield from _utf8(bytes(numbers))


def _from_morse(text: str) -> Iterator[str]:
    signs = re.split(r"[\s/|]+", text.translate(_MORSE_SIGNS))
    letters = [_MORSE_LETTERS.get(sign) for sign in signs if sign]
    if None not in letters:
        yield "".join(letter for letter in letters if letter)


def _from_selectors(text: str) -> Iterator[str]:
    yield from _utf8(bytes(code - 0xFE00 if (code := ord(each)) < 0xE0100 else code - 0xE0100 + 16 for each in text))


def _from_escapes(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        octal = match[5]
        code = int(octal, 8) if octal else int(next(group for group in match.groups() if group), 16)
        return chr(min(code, 0x10FFFF))

    return _ESCAPES.sub(character, text)


def _from_quoted(text: str) -> str:
    return quopri.decodestring(text.encode("utf-8", "replace")).decode("utf-8", "replace")


_ENCODINGS: Final[tuple[tuple[re.Pattern[str], Callable[[str], Iterator[str]]], ...]] = (
    (_BASE64, _from_base64),
    (_BASE64_LINES, _from_base64),
    (_BASE32, _from_base32),
    (_HEX, _from_hex),
    (_BINARY, _from_binary),
    (_DECIMAL, _from_decimal),
    (_MORSE, _from_morse),
    (_SELECTORS, _from_selectors),
)
_INLINE: Final[tuple[tuple[re.Pattern[str], Callable[[str], str]], ...]] = (
    (_PERCENT, unquote),
    (_QUOTED, _from_quoted),
    (_ENTITY, html.unescape),
    (_ESCAPES, _from_escapes),
)
