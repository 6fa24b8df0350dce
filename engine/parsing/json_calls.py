"""Tool calls that are written as plain JSON: ``{"name": ..., "arguments": {...}}``.

No special tokens are needed, so any model can be told to write them. A reply is read as calls only as a whole: one
such object, an array of them, or several after one another (separated by white space, commas or semicolons), with
white space around. ``parameters`` stands for ``arguments``; arguments may be an object or a string that holds one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any, Final, NoReturn

from engine.parsing.piece import NOTHING, Piece
from engine.types import ToolCallDelta

#: A call begins with one of these keys; a reply that begins with another one is an ordinary JSON answer.
_FIRST_KEYS: Final = ("name", "arguments", "parameters", "type", "id")
_ARGUMENTS: Final = ("arguments", "parameters")
_WHITE: Final = " \t\n\r"
_BETWEEN: Final = _WHITE + ",;"
_FIRST_KEY: Final = re.compile(r'[ \t\n\r]*\[?[ \t\n\r]*\{[ \t\n\r]*"')
_NAME: Final = re.compile(r'[ \t\n\r]*\[?[ \t\n\r]*\{[ \t\n\r]*"name"[ \t\n\r]*:[ \t\n\r]*"([^"\\]*)"')
_FORCED_HEAD: Final = re.compile(
    r"""[ \t\n\r]* \{ [ \t\n\r]* "name" [ \t\n\r]* : [ \t\n\r]* "([^"\\]*)" [ \t\n\r]* ,
        [ \t\n\r]* "arguments" [ \t\n\r]* : [ \t\n\r]* (?=\{)""",
    re.VERBOSE,
)
_STRUCTURE: Final = re.compile(r'["{}\[\]]')
_STRING_END: Final = re.compile(r'["\\]')


def _no_constants(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_no_constants)


class CallReader:
    """Reads complete texts. ``names`` may be called; with ``parallel`` False only the first call of a text counts."""

    def __init__(self, names: Collection[str], *, parallel: bool = True) -> None:
        self._names = frozenset(names)
        self._parallel = parallel

    def read(self, text: str) -> tuple[ToolCallDelta, ...]:
        """The calls that ``text`` is made of; none if any of it is something else."""
        try:
            found = self._sequence(text)
        except (ValueError, RecursionError):
            return ()
        calls = [ToolCallDelta(index, name, arguments) for index, (name, arguments) in enumerate(found)]
        return tuple(calls if self._parallel else calls[:1])

    def may_become(self, text: str) -> bool:
        """False only if no text that begins with ``text`` is made of calls."""
        start = text.lstrip(_WHITE)
        if not start:
            return True
        if start[0] not in "{[":
            return False
        if (name := _NAME.match(text)) is not None:
            return name[1] in self._names
        if (key := _FIRST_KEY.match(text)) is None:
            return not start.lstrip(_WHITE + "[{")
        begun, quote, _ = text[key.end() :].partition('"')
        if "\\" in begun:
            return True  # an escape may spell any letter
        return begun in _FIRST_KEYS if quote else any(each.startswith(begun) for each in _FIRST_KEYS)

    def _sequence(self, text: str) -> list[tuple[str, str]]:
        text = text.strip(_WHITE)
        array = text.startswith("[")
        if array and not text.endswith("]"):
            raise ValueError("an array that does not end")
        at, end = (_skip(text, 1, _WHITE), len(text) - 1) if array else (0, len(text))
        calls = []
        while True:
            members, at = _members(text, at)
            calls.append(self._call(members))
            at = _skip(text, at, _WHITE)
            if at == end:
                return calls
            at = _after_separator(text, at, array)

    def _call(self, members: dict[str, tuple[Any, str]]) -> tuple[str, str]:
        if next(iter(members), None) not in _FIRST_KEYS:
            raise ValueError("the first key is not one of a call")
        name = members.get("name", (None, ""))[0]
        if not isinstance(name, str) or name not in self._names:
            raise ValueError("not a declared name")
        value, raw = next((members[key] for key in _ARGUMENTS if key in members), ({}, "{}"))
        if isinstance(value, str):
            value, raw = _DECODER.decode(value), value
        if not isinstance(value, dict):
            raise ValueError("arguments are an object")
        return name, raw


def _members(text: str, at: int) -> tuple[dict[str, tuple[Any, str]], int]:
    """The members of the object at ``at`` with their text, and where it ends. Raises ValueError if there is none."""
    if text[at : at + 1] != "{":
        raise ValueError("not an object")
    members: dict[str, tuple[Any, str]] = {}
    at = _skip(text, at + 1, _WHITE)
    while text[at : at + 1] != "}":
        key, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at, _WHITE)
        if not isinstance(key, str) or key in members or text[at : at + 1] != ":":
            raise ValueError("not a member")
        begin = _skip(text, at + 1, _WHITE)
        value, end = _DECODER.raw_decode(text, begin)
        members[key] = (value, text[begin:end])
        at = _skip(text, end, _WHITE)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1, _WHITE)
            if text[at : at + 1] == "}":
                raise ValueError("a trailing comma")
        elif text[at : at + 1] != "}":
            raise ValueError("members are separated by commas")
    return members, at + 1


def _after_separator(text: str, at: int, array: bool) -> int:
    """Where the next call begins: after one comma in an array; otherwise a comma, a semicolon or white space do."""
    if text[at] in ("," if array else ",;"):
        at += 1
    elif array:
        raise ValueError("items are separated by commas")
    return _skip(text, at, _WHITE)


def _skip(text: str, at: int, characters: str) -> int:
    while at < len(text) and text[at] in characters:
        at += 1
    return at


class HeldCalls:
    """For replies that may be calls or text: holds back what may still be calls, and decides at the end.

    What was sent as a call cannot be taken back, and broken JSON must be text: so a call leaves when it is whole.
    """

    unfinished_call = False

    def __init__(self, reader: CallReader) -> None:
        self._reader = reader
        self._held: str | None = ""

    def feed(self, text: str) -> Piece:
        """See :class:`engine.parsing.piece.Splitter`."""
        if self._held is None:
            return Piece(text)
        self._held += text
        # Beyond this the head that decides was seen, and looking again at each token would cost its square.
        if len(self._held) - len(text) > _HEAD or self._reader.may_become(self._held):
            return NOTHING
        held, self._held = self._held, None
        return Piece(held)

    def finish(self) -> Piece:
        """See :class:`engine.parsing.piece.Splitter`."""
        held, self._held = self._held or "", None
        calls = self._reader.read(held)
        return Piece(calls=calls) if calls else Piece(held)


#: Characters at a reply's beginning that can tell text from calls before its end.
_HEAD: Final = 512


class ForcedCalls:
    """For replies that a grammar holds to calls: arguments leave as they come.

    A reply that is cut short inside of arguments is a call with the arguments so far.
    """

    def __init__(self, names: Collection[str], *, parallel: bool = True) -> None:
        self._names = frozenset(names)
        self._last = None if parallel else 0
        self._held = ""
        self._call = -1
        self._scan: _ObjectScan | None = None

    @property
    def unfinished_call(self) -> bool:
        """See :class:`engine.parsing.piece.Splitter`."""
        return self._scan is not None

    def feed(self, text: str) -> Piece:
        """See :class:`engine.parsing.piece.Splitter`."""
        self._held += text
        calls: list[ToolCallDelta] = []
        while self._held and self._advance(calls):
            pass
        return Piece(calls=tuple(calls)) if calls else NOTHING

    def finish(self) -> Piece:
        """See :class:`engine.parsing.piece.Splitter`."""
        held, self._held = self._held, ""
        # After the first call nothing but the end of its object can be left.
        return Piece(held) if self._call < 0 else NOTHING

    def _advance(self, calls: list[ToolCallDelta]) -> bool:
        """One step; False when more text is needed."""
        if self._scan is not None:
            return self._take_arguments(calls)
        if self._call == self._last:
            self._held = ""
            return False
        start = self._held.lstrip(_BETWEEN + "}") if self._call >= 0 else self._held
        head = _FORCED_HEAD.match(start)
        if head is None or head[1] not in self._names:
            return False
        self._call += 1
        calls.append(ToolCallDelta(self._call, head[1], ""))
        self._held = start[head.end() :]
        self._scan = _ObjectScan()
        return True

    def _take_arguments(self, calls: list[ToolCallDelta]) -> bool:
        assert self._scan is not None
        end = self._scan.end_of(self._held)
        calls.append(ToolCallDelta(self._call, None, self._held[:end]))
        self._held = self._held[end:] if end is not None else ""
        if end is not None:
            self._scan = None
        return bool(self._held)


class _ObjectScan:
    """Finds the end of a JSON object that comes in pieces."""

    __slots__ = ("_depth", "_escaped", "_in_string")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def end_of(self, text: str) -> int | None:
        """Where the object ends in ``text``, the next piece; None if it goes on."""
        at = 0
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (_STRING_END if self._in_string else _STRUCTURE).search(text, at)
            if found is None:
                return None
            at = found.end()
            if self._ends_with(found[0]):
                return at
        return None

    def _ends_with(self, character: str) -> bool:
        if self._in_string:
            self._escaped = character == "\\"
            self._in_string = self._escaped
        elif character == '"':
            self._in_string = True
        else:
            self._depth += 1 if character in "{[" else -1
        return self._depth == 0 and not self._in_string
