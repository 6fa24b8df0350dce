"""JSON as RFC 8259 means it, and a little stricter: what a request body may be, decided before any schema.

The decoder in C (jiter, the one below pydantic) reads the body once and refuses what is malformed, NaN, a lone
surrogate, not UTF-8 or a duplicate key. Only a refused body is read again, by a scanner that knows where it is,
to name the offending field. Integers keep all their digits, so that a field's own range refuses ``2**70``; a
float beyond the range of a double becomes an infinity, which no field's range admits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final, NoReturn

import jiter

from gateway.errors import ApiError, invalid

MAX_DEPTH: Final = 64
MAX_KEYS: Final = 10_000
MAX_KEY_BYTES: Final = 1024
# Brackets and colons in the raw bytes, those inside of texts included: one pass at memory speed. A body past this
# costs the decoder most of a second; as text it is more than any context holds.
MAX_STRUCTURE: Final = 250_000

_CLIP: Final = 64
_CLIP_PATH: Final = 512
_SCANNED_VALUES: Final = 50_000
_BLANK: Final = re.compile(r"[ \t\n\r]*+")
_SIMPLE_NAME: Final = re.compile(r"[^.\[\]\s]+")

Path = Iterable[str | int]


def json_path(path: Path) -> str:
    """``path`` as OpenAI writes it in ``param``: ``messages[2].content``.

    Clipped, since keys are the client's: 64 characters per key, 512 in all.
    """
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        else:
            out += f".{part[:_CLIP]}" if out else part[:_CLIP]
    return out[:_CLIP_PATH]


def loads(data: bytes) -> dict[str, object]:
    """The JSON object in ``data``. Linear in its size.

    Raises :class:`~gateway.errors.ApiError` 400: ``invalid_json``, ``json_too_deep``, ``duplicate_key``,
    ``invalid_unicode``, ``invalid_value`` (an integer of more than 4300 digits), ``too_many_keys``.
    """
    brackets = data.count(b"[") + data.count(b"{")
    if brackets + data.count(b":") > MAX_STRUCTURE:
        raise _diagnose(data, _too_many_keys(f"more than {MAX_STRUCTURE} brackets and colons"))
    try:
        value = jiter.from_json(data, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")
    except ValueError as error:
        raise _diagnose(data, _without_path(str(error))) from None
    if brackets > MAX_DEPTH or len(data) > MAX_KEY_BYTES:
        _check_shape(value)
    if not isinstance(value, dict):
        raise _malformed("expected an object")
    return value


def _check_shape(root: object) -> None:
    """Refuse nesting beyond MAX_DEPTH and oversized keys, level by level: no recursion to exhaust."""
    level = _containers([root])
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                _check_keys(node)
                below += _containers(node.values())
            else:
                below += _containers(node)
        if not below:
            return
        level = below
    raise _too_deep()


def _containers(values: Iterable[object]) -> list[Any]:
    return [value for value in values if value.__class__ is dict or value.__class__ is list]


def _check_keys(node: dict[str, object]) -> None:
    if len(node) > MAX_KEYS:
        raise _too_many_keys(f"an object with more than {MAX_KEYS} keys")
    # A character has at most four bytes: only a key this long needs to be encoded to be measured.
    if any(len(key) > MAX_KEY_BYTES // 4 and len(key.encode()) > MAX_KEY_BYTES for key in node):
        raise _too_many_keys(f"a key longer than {MAX_KEY_BYTES} bytes")


def _without_path(complaint: str) -> ApiError:
    """What the decoder's own complaint amounts to, for a fault that is too far in to be located."""
    duplicate = complaint.startswith("Detected duplicate key")
    return _duplicate_key(None) if duplicate else _malformed("it is not valid JSON")


def _diagnose(data: bytes, otherwise: ApiError) -> ApiError:
    """The first fault in ``data`` with its path, or ``otherwise`` if there is none within the scanner's reach."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return _malformed(f"invalid UTF-8 at byte {error.start}")
    try:
        _Scanner(text).document()
    except ApiError as error:
        return error
    except _OutOfReachError:
        return otherwise
    return otherwise


class _OutOfReachError(Exception):
    """The fault lies beyond the values that the scanner is willing to look at."""


class _Scanner:
    """Walks a text value by value, keeping the path, until the first fault raises :class:`ApiError`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._pos = 0
        self._path: list[str | int] = []
        self._budget = _SCANNED_VALUES
        self._scalar = json.JSONDecoder(parse_int=self._integer, parse_constant=self._constant).raw_decode

    def document(self) -> None:
        if self._next() == "\ufeff":
            self._fail("a byte order mark is not allowed")
        self._value()
        if self._next():
            self._fail("unexpected text after the end of the object")

    def _value(self) -> None:
        self._budget -= 1
        if self._budget < 0:
            raise _OutOfReachError
        match self._next():
            case "{":
                self._enter(self._object)
            case "[":
                self._enter(self._array)
            case _:
                self._string_or_scalar()

    def _enter(self, read: Any) -> None:
        if len(self._path) >= MAX_DEPTH:
            raise _too_deep()
        self._pos += 1
        read()

    def _object(self) -> None:
        seen: set[str] = set()
        if self._closed_by("}"):
            return
        while True:
            self._path.append(self._key(seen))
            if self._next() != ":":
                self._fail("expected ':' after a key")
            self._pos += 1
            self._value()
            self._path.pop()
            if not self._continues("}"):
                return

    def _array(self) -> None:
        if self._closed_by("]"):
            return
        self._path.append(0)
        index = 0
        while True:
            self._path[-1] = index
            self._value()
            index += 1
            if not self._continues("]"):
                break
        self._path.pop()

    def _key(self, seen: set[str]) -> str:
        if self._next() != '"':
            self._fail("expected a key in double quotes")
        start = self._pos + 1
        key = self._string_or_scalar(inside=self._text[start : start + _CLIP])
        if key in seen:
            raise _duplicate_key(json_path([*self._path, key]))
        seen.add(key)
        return key

    def _string_or_scalar(self, inside: str | None = None) -> str:
        try:
            value, self._pos = self._scalar(self._text, self._pos)
        except json.JSONDecodeError as error:
            self._pos = error.pos
            self._fail("expected a value" if error.msg == "Expecting value" else error.msg.lower())
        if isinstance(value, str) and not _is_unicode(value):
            raise _invalid_unicode(json_path(self._path if inside is None else [*self._path, _escaped_name(inside)]))
        return str(value)

    def _integer(self, digits: str) -> int:
        if len(digits.lstrip("-")) > 4300:
            raise _monster_integer(json_path(self._path))
        return 0

    def _constant(self, name: str) -> NoReturn:
        raise _malformed(f"{name} is not a JSON number", json_path(self._path) or None)

    def _next(self) -> str:
        blank = _BLANK.match(self._text, self._pos)
        self._pos = blank.end() if blank else self._pos
        return self._text[self._pos : self._pos + 1]

    def _closed_by(self, close: str) -> bool:
        closed = self._next() == close
        self._pos += closed
        return closed

    def _continues(self, close: str) -> bool:
        found = self._next()
        if found not in (",", close) or not found:
            self._fail(f"expected ',' or '{close}'")
        self._pos += 1
        return found == ","

    def _fail(self, reason: str) -> NoReturn:
        line = self._text.count("\n", 0, self._pos) + 1
        column = self._pos - self._text.rfind("\n", 0, self._pos)
        raise _malformed(f"{reason} (line {line}, column {column})")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _escaped_name(raw: str) -> str:
    """The beginning of a key as it stands in the source: its escapes are plain ASCII, so it can be shown."""
    name = _SIMPLE_NAME.match(raw.split('"')[0])
    return name.group() if name else ""


def _malformed(reason: str, param: str | None = None) -> ApiError:
    return invalid(f"We could not parse the JSON body of your request: {reason}.", code="invalid_json", param=param)


def _too_deep() -> ApiError:
    return invalid(f"The JSON body is nested deeper than {MAX_DEPTH} levels.", code="json_too_deep")


def _too_many_keys(what: str) -> ApiError:
    return invalid(f"The JSON body has {what}.", code="too_many_keys")


def _duplicate_key(param: str | None) -> ApiError:
    where = f": '{param}'" if param else ""
    return invalid(f"A key appears twice in one object{where}.", code="duplicate_key", param=param)


def _invalid_unicode(param: str) -> ApiError:
    return invalid(f"Invalid '{param}': it has a lone surrogate.", code="invalid_unicode", param=param or None)


def _monster_integer(param: str) -> ApiError:
    return invalid(f"Invalid '{param}': an integer of too many digits.", code="invalid_value", param=param or None)
