"""What a regular expression costs as a grammar, what of it a grammar cannot hold to, and the rest in plain words.

Patterns are taken apart by the standard library's own parser (``re._parser``, CPython 3.11 to 3.13), which also
refuses what is no regular expression at all. xgrammar never sees the pattern itself but what was understood of it,
written anew (:func:`plain_pattern`), so that the two cannot read it differently.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Final

from engine.structured import characters
from engine.structured.characters import Ranges
from engine.structured.refusal import INVALID, MAX_LENGTH, MAX_REGEX_BYTES, TOO_COMPLEX, UNSUPPORTED, NotEnforceable

#: Largest product of the counts of repeats inside of one another, and sum of all counts.
MAX_NESTED_COUNT: Final = 64
MAX_TOTAL_COUNT: Final = 4096

_REFUSED: Final = {
    op.ASSERT: "lookarounds",
    op.ASSERT_NOT: "lookarounds",
    op.GROUPREF: "references to groups",
    op.GROUPREF_EXISTS: "references to groups",
    op.ATOMIC_GROUP: "atomic groups",
    op.POSSESSIVE_REPEAT: "possessive repeats",
}
_REPEATS: Final = (op.MAX_REPEAT, op.MIN_REPEAT)
_CLASSES: Final = (op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN)
_LINE_ENDS: Final = (op.AT_BEGINNING, op.AT_END)


def check_pattern(pattern: str, *, inside_json: bool, invalid: str) -> None:
    """Refuse what is no regular expression (code ``invalid``), costs too much, or cannot be held to.

    ``inside_json``: it is for a JSON string, where some characters would have to be escaped and are not.
    Raises :class:`NotEnforceable`.
    """
    if "\x00" in pattern or len(pattern.encode("utf-8", "surrogatepass")) > MAX_REGEX_BYTES:
        raise NotEnforceable(invalid, f"expected a regular expression of at most {MAX_REGEX_BYTES} bytes without NUL.")
    tree = _parsed(pattern, invalid)
    if (total := _cost(tree, 1, 0)) > MAX_TOTAL_COUNT:
        raise NotEnforceable(TOO_COMPLEX, f"repeats of a regular expression may count to {MAX_TOTAL_COUNT}: {total}.")
    _Plain(inside_json).sequence(tree, first=True, last=True)


@lru_cache(maxsize=256)
def plain_pattern(pattern: str, *, inside_json: bool) -> str:
    """``pattern``, which is checked, with nothing in it but classes, groups, alternatives and repeats.

    It stands for whole texts, all of which match ``pattern``, whether by the rules of ECMA-262 or by Python's: what
    the two disagree about (digits and letters beyond ASCII) is left out.
    """
    return _Plain(inside_json).sequence(_parsed(pattern, INVALID), first=True, last=True)


def _parsed(pattern: str, invalid: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = _parser.parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise NotEnforceable(invalid, "this is not a regular expression that can be enforced.") from error
    if tree.state.flags & ~re.UNICODE.value:
        raise NotEnforceable(UNSUPPORTED, "flags in a regular expression cannot be enforced.")
    return tree


def _cost(tree: Iterable[tuple[Any, Any]], outer: int, counted: int) -> int:
    """How many characters long ``tree`` may be written out, inside of ``counted`` repeats of product ``outer``."""
    return sum(_cost_of(kind, value, outer, counted) for kind, value in tree)


def _cost_of(kind: Any, value: Any, outer: int, counted: int) -> int:
    if kind in _REFUSED:
        raise NotEnforceable(UNSUPPORTED, f"{_REFUSED[kind]} in a regular expression cannot be enforced.")
    if kind in _REPEATS:
        return _cost_of_repeat(value, outer, counted)
    match kind:
        case op.SUBPATTERN:
            return _cost(value[3], outer, counted)
        case op.BRANCH:
            return sum(_cost(branch, outer, counted) for branch in value[1])
        case _:
            return 1


def _cost_of_repeat(bounds: tuple[int, Any, Any], outer: int, counted: int) -> int:
    least, most, inner = bounds
    count = least if most is op.MAXREPEAT else int(most)
    if count > MAX_LENGTH:
        raise NotEnforceable(TOO_COMPLEX, f"a repeat may count to {MAX_LENGTH}.")
    if count <= 1:
        return _cost(inner, outer, counted)
    if counted and outer * count > MAX_NESTED_COUNT:
        raise NotEnforceable(
            TOO_COMPLEX, f"counts of nested repeats in a regular expression may multiply to {MAX_NESTED_COUNT}."
        )
    return count * _cost(inner, outer * count, counted + 1)


class _Plain:
    """Writes a parsed pattern anew."""

    def __init__(self, inside_json: bool) -> None:
        self._inside_json = inside_json

    def sequence(self, tree: Any, *, first: bool, last: bool) -> str:
        """``first``, ``last``: nothing is written before, or behind."""
        nodes = list(tree)
        moving = [place for place, (kind, _) in enumerate(nodes) if kind is not op.AT]
        begin, end = (moving[0], moving[-1]) if moving else (len(nodes), -1)
        return "".join(
            self._node(kind, value, first=first and place <= begin, last=last and place >= end)
            for place, (kind, value) in enumerate(nodes)
        )

    def _node(self, kind: Any, value: Any, *, first: bool, last: bool) -> str:
        if kind in _REPEATS:
            return self._repeat(value, first=first, last=last)
        match kind:
            case op.AT:
                return _anchor(value, first=first, last=last)
            case op.SUBPATTERN:
                _, added, removed, inner = value
                if added or removed:
                    raise NotEnforceable(UNSUPPORTED, "flags in a regular expression cannot be enforced.")
                return _group([self.sequence(inner, first=first, last=last)])
            case op.BRANCH:
                return _group([self.sequence(each, first=first, last=last) for each in value[1]])
            case _:
                return self._class(characters.members(kind, value))

    def _repeat(self, bounds: tuple[int, Any, Any], *, first: bool, last: bool) -> str:
        least, most, inner = bounds
        if most is not op.MAXREPEAT and int(most) == 0:
            return ""
        once = most is not op.MAXREPEAT and int(most) == 1
        text = self.sequence(inner, first=first and once, last=last and once)
        if not text:
            return ""
        if len(inner) > 1 or inner[0][0] not in _CLASSES:
            text = f"({text})"
        if most is op.MAXREPEAT:
            counts = {0: "*", 1: "+"}.get(least, f"{{{least},}}")
        else:
            counts = {(1, 1): ""}.get((least, int(most)), f"{{{least},{int(most)}}}")
        return text + counts

    def _class(self, found: Ranges) -> str:
        allowed = characters.written_plainly(found) if self._inside_json else characters.printable(found)
        if not allowed:
            raise NotEnforceable(
                UNSUPPORTED, "a pattern that names quotes, backslashes or control characters cannot be enforced."
            )
        return characters.as_class(allowed)


def _group(alternatives: Sequence[str]) -> str:
    """One of them; xgrammar knows no alternative that is empty."""
    written = [each for each in alternatives if each]
    if not written:
        return ""
    return f"({'|'.join(written)})" + ("{0,1}" if len(written) < len(alternatives) else "")


def _anchor(kind: Any, *, first: bool, last: bool) -> str:
    if kind not in _LINE_ENDS:
        raise NotEnforceable(UNSUPPORTED, "word boundaries in a regular expression cannot be enforced.")
    if not (first if kind is op.AT_BEGINNING else last):
        raise NotEnforceable(UNSUPPORTED, "'^' and '$' cannot be enforced but at the ends of a regular expression.")
    return ""
