"""Sets of characters as regular expressions name them, so that ECMA-262 and Python agree about every one left in.

A set is a sorted row of ranges (first and last code point). What a negated class leaves in must be in neither reading
of what it names: sets are widened before they are turned round.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from re import _constants as op  # type: ignore[attr-defined]
from typing import Any, Final

Ranges = Sequence[tuple[int, int]]

_LAST: Final = 0x10FFFF
_DIGITS: Final = ((0x30, 0x39),)
_WORD: Final = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_BLANKS: Final = ((0x09, 0x0D), (0x20, 0x20))
#: ECMA-262's white space and Python's together.
_ANY_BLANKS: Final = (
    *((0x09, 0x0D), (0x1C, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)),
    *((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
#: Digits, and every part of Unicode beyond ASCII that holds one: Python takes all of them for digits.
_ANY_DIGITS: Final = (*_DIGITS, (0x660, 0x1DFF), (0xA620, 0xABFF), (0xFF10, 0x1EFFF), (0x1FBF0, _LAST))
_ANY_WORD: Final = (*_WORD, (0x80, _LAST))
_LINE_ENDS: Final = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))

#: What may not stand in a JSON string as it is, and DEL.
_NOT_PLAIN: Final = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F))


def members(kind: Any, value: Any) -> Ranges:
    """What one node of a parsed pattern stands for, which is one character."""
    match kind:
        case op.LITERAL:
            return ((value, value),)
        case op.NOT_LITERAL:
            return complement(((value, value),))
        case op.ANY:
            return complement(_LINE_ENDS)
        case op.IN if value[0][0] is op.NEGATE:
            return complement(_union(value[1:], wide=True))
        case op.IN:
            return _union(value, wide=False)
        case _:
            raise AssertionError(kind)


def _union(items: Iterable[tuple[Any, Any]], *, wide: bool) -> Ranges:
    return _merged([each for kind, value in items for each in _item(kind, value, wide=wide)])


def _item(kind: Any, value: Any, *, wide: bool) -> Ranges:
    match kind:
        case op.LITERAL:
            return ((value, value),)
        case op.RANGE:
            return (value,)
        case op.CATEGORY:
            return _category(value, wide=wide)
        case _:
            raise AssertionError(kind)


def _category(value: Any, *, wide: bool) -> Ranges:
    match value:
        case op.CATEGORY_DIGIT:
            return _ANY_DIGITS if wide else _DIGITS
        case op.CATEGORY_SPACE:
            return _ANY_BLANKS if wide else _BLANKS
        case op.CATEGORY_WORD:
            return _ANY_WORD if wide else _WORD
        case op.CATEGORY_NOT_DIGIT:
            return complement(_DIGITS if wide else _ANY_DIGITS)
        case op.CATEGORY_NOT_SPACE:
            return complement(_BLANKS if wide else _ANY_BLANKS)
        case op.CATEGORY_NOT_WORD:
            return complement(_WORD if wide else _ANY_WORD)
        case _:
            raise AssertionError(value)


def complement(ranges: Ranges) -> Ranges:
    """Everything else."""
    found, next_one = [], 0
    for first, last in _merged(ranges):
        if first > next_one:
            found.append((next_one, first - 1))
        next_one = last + 1
    return [*found, (next_one, _LAST)] if next_one <= _LAST else found


def written_plainly(ranges: Ranges) -> Ranges:
    """Of these what may stand in a JSON string as it is."""
    return _whole(complement([*complement(ranges), *_NOT_PLAIN]))


def printable(ranges: Ranges) -> Ranges:
    """Of these all but NUL."""
    return _whole(complement([*complement(ranges), (0, 0)]))


def _whole(ranges: Ranges) -> Ranges:
    """Without halves of surrogate pairs at the ends, which cannot be written; between the ends they do no harm."""
    found = [(0xE000 if _half(first) else first, 0xD7FF if _half(last) else last) for first, last in ranges]
    return [(first, last) for first, last in found if first <= last]


def as_class(ranges: Ranges) -> str:
    """As a class of a regular expression. Characters are written as they are: xgrammar makes a grammar of them in a
    fifth of the time that it takes for the same class in an escaped form."""
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1] and chr(ranges[0][0]).isalnum():
        return chr(ranges[0][0])
    return "[" + "".join(_written(first, last) for first, last in ranges) + "]"


def _written(first: int, last: int) -> str:
    return _escaped(first) if first == last else f"{_escaped(first)}-{_escaped(last)}"


def _half(code: int) -> bool:
    return 0xD800 <= code <= 0xDFFF


def _escaped(code: int) -> str:
    if code < 0x20:
        return f"\\x{code:02x}"
    return "\\" + chr(code) if chr(code) in "\\[]^-" else chr(code)


def _merged(ranges: Ranges) -> Ranges:
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found
