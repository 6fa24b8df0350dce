"""What a regular expression costs as a grammar, and what of it a grammar cannot hold to.

Patterns are taken apart by the standard library's own parser (``re._parser``, CPython 3.11 to 3.13), which also
refuses what is no regular expression at all.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Final

from engine.structured.refusal import MAX_LENGTH, MAX_REGEX_BYTES, TOO_COMPLEX, UNSUPPORTED, NotEnforceable

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
_LINE_ENDS: Final = (op.AT_BEGINNING, op.AT_END)


def check_pattern(pattern: str, *, inside_json: bool, invalid: str) -> None:
    """Refuse what is no regular expression (code ``invalid``), costs too much, or cannot be held to.

    ``inside_json``: it is for a JSON string, where some characters would have to be escaped and are not.
    Raises :class:`NotEnforceable`.
    """
    if "\x00" in pattern or len(pattern.encode("utf-8", "surrogatepass")) > MAX_REGEX_BYTES:
        raise NotEnforceable(invalid, f"expected a regular expression of at most {MAX_REGEX_BYTES} bytes without NUL.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = _parser.parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise NotEnforceable(invalid, "this is not a regular expression that can be enforced.") from error
    if (total := _Cost(inside_json).of(tree, 1, 0)) > MAX_TOTAL_COUNT:
        raise NotEnforceable(TOO_COMPLEX, f"repeats of a regular expression may count to {MAX_TOTAL_COUNT}: {total}.")


class _Cost:
    def __init__(self, inside_json: bool) -> None:
        self._inside_json = inside_json

    def of(self, tree: Iterable[tuple[Any, Any]], outer: int, counted: int) -> int:
        """How many characters long ``tree`` may be written out, inside of ``counted`` repeats of product ``outer``."""
        return sum(self._node(kind, value, outer, counted) for kind, value in tree)

    def _node(self, kind: Any, value: Any, outer: int, counted: int) -> int:
        if kind in _REFUSED:
            raise NotEnforceable(UNSUPPORTED, f"{_REFUSED[kind]} in a regular expression cannot be enforced.")
        if kind in _REPEATS:
            return self._repeat(value, outer, counted)
        match kind:
            case op.SUBPATTERN:
                return self.of(value[3], outer, counted)
            case op.BRANCH:
                return sum(self.of(branch, outer, counted) for branch in value[1])
            case op.AT if value not in _LINE_ENDS:
                raise NotEnforceable(UNSUPPORTED, "word boundaries in a regular expression cannot be enforced.")
            case op.LITERAL:
                self._character(value)
            case op.IN:
                for inner, character in value:
                    if inner is op.LITERAL and value[0][0] is not op.NEGATE:
                        self._character(character)
        return 1

    def _repeat(self, bounds: tuple[int, Any, Any], outer: int, counted: int) -> int:
        least, most, inner = bounds
        count = least if most is op.MAXREPEAT else int(most)
        if count > MAX_LENGTH:
            raise NotEnforceable(TOO_COMPLEX, f"a repeat may count to {MAX_LENGTH}.")
        if count <= 1:
            return self.of(inner, outer, counted)
        if counted and outer * count > MAX_NESTED_COUNT:
            raise NotEnforceable(
                TOO_COMPLEX, f"counts of nested repeats in a regular expression may multiply to {MAX_NESTED_COUNT}."
            )
        return count * self.of(inner, outer * count, counted + 1)

    def _character(self, code: int) -> None:
        if self._inside_json and (code < 0x20 or code in (0x22, 0x5C, 0x7F) or 0xD800 <= code <= 0xDFFF):
            raise NotEnforceable(
                UNSUPPORTED, "a pattern that names quotes, backslashes or control characters cannot be enforced."
            )
