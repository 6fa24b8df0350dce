"""What ``format`` holds a string or a number to.

xgrammar 0.2.8 takes some of them too loosely (31 June, ``10.0.0.010``, quotes in JSON pointers): these are patterns
here, which both RFC 3339 and Python's own readers agree with. Years are those of four digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from engine.structured.patterns import plain_pattern

_LEAP: Final = r"([1-9][0-9](0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26])00)-02-29"
_DAY: Final = r"((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
_DATE: Final = rf"({_LEAP}|[1-9][0-9]{{3}}-{_DAY})"
_MINUTE: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]"
_TIME: Final = rf"{_MINUTE}:[0-5][0-9](\.[0-9]{{1,6}})?(Z|[+-]{_MINUTE})"
_BYTE: Final = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])"
_POINTER: Final = r"(/([^~/]|~[01])*)*"

PATTERNS: Final[Mapping[str, str]] = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "ipv4": rf"^({_BYTE}\.){{3}}{_BYTE}$",
    "json-pointer": f"^{_POINTER}$",
    "relative-json-pointer": f"^(0|[1-9][0-9]*)(#|{_POINTER})$",
}
#: By xgrammar; their shape is held to, not what is behind them.
SHAPES: Final = frozenset({"duration", "email", "hostname", "ipv6", "uuid", "uri", "uri-reference", "uri-template"})
#: Hints for whoever shows or stores a text, all of which are valid.
FREE: Final = frozenset({"password", "path", "binary"})
STRINGS: Final = frozenset(PATTERNS) | SHAPES | FREE

#: The fewest and the most characters that a format can have: bounds that say no more are held to with it.
LENGTHS: Final[Mapping[str, tuple[int, int | None]]] = {
    "date": (10, 10),
    "time": (9, None),
    "date-time": (20, None),
    "ipv4": (7, 15),
    "uuid": (36, 36),
    "duration": (3, None),
    "email": (3, None),
    "hostname": (1, None),
    "ipv6": (2, None),
    "uri": (2, None),
}

#: OpenAPI's; every number is read as a double anyway.
NUMBERS: Final[Mapping[str, frozenset[str]]] = {
    "integer": frozenset({"int32", "int64"}),
    "number": frozenset({"float", "double"}),
}
INT32: Final = (-(2**31), 2**31 - 1)

#: Formats of Zod's whose meaning is the pattern beside them.
BY_PATTERN: Final = frozenset(
    {"cuid", "cuid2", "ulid", "nanoid", "xid", "ksuid", "e164", "mac", "cidrv4", "cidrv6", "base64", "base64url"}
    | {"starts_with", "ends_with", "includes", "lowercase", "uppercase", "regex"}
)
_HEX: Final = "[0-9a-fA-F]"
_ZOD_UUID: Final = rf"{_HEX}{{8}}-{_HEX}{{4}}-%s{_HEX}{{3}}-[89abAB]{_HEX}{{3}}-{_HEX}{{12}}"
_ZOD_DATE: Final = (
    r"(?:(?:\d\d[2468][048]|\d\d[13579][26]|\d\d0[48]|[02468][048]00|[13579][26]00)-02-29"
    r"|\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    r"|(?:02)-(?:0[1-9]|1\d|2[0-8])))"
)
_ZOD_TIME: Final = r"T(?:(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?"
_ZOD_BYTE: Final = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])"
_MAIL: Final = r"^([A-Za-z0-9_'+-]+\.)*[A-Za-z0-9_+-]+@([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,63}$"
#: What Zod writes beside standard formats, with what satisfies both.
WELL_KNOWN: Final[Mapping[tuple[str, str], str]] = {
    **{
        ("uuid", f"^({_ZOD_UUID % version})$"): f"^{_ZOD_UUID % version}$"
        for version in ("1", "2", "3", "4", "5", "6", "7", "8")
    },
    (
        "uuid",
        f"^({_ZOD_UUID % '[1-8]'}|00000000-0000-0000-0000-000000000000|ffffffff-ffff-ffff-ffff-ffffffffffff)$",
    ): f"^{_ZOD_UUID % '[1-8]'}$",
    ("uuid", f"^({_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}})$"): (
        f"^{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}$"
    ),
    **{
        ("email", pattern): _MAIL
        for pattern in (
            r"^(?:[A-Za-z0-9_'+\-]+\.)*[A-Za-z0-9_'+\-]*[A-Za-z0-9_+-]@(?:[A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$",
            r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$",
        )
    },
    ("date", f"^{_ZOD_DATE}$"): PATTERNS["date"],
    ("date-time", f"^{_ZOD_DATE}{_ZOD_TIME}(?:Z))$"): rf"^{_DATE}T{_MINUTE}:[0-5][0-9](\.[0-9]{{1,6}})?Z$",
    ("date-time", f"^{_ZOD_DATE}{_ZOD_TIME}(?:Z|([+-](?:[01]\\d|2[0-3]):[0-5]\\d)))$"): PATTERNS["date-time"],
    ("ipv4", rf"^(?:{_ZOD_BYTE}\.){{3}}{_ZOD_BYTE}$"): PATTERNS["ipv4"],
}  # fmt: skip

#: What may stand in a JSON string as it is. The last character is written out: xgrammar makes a grammar of it in a
#: fifth of the time that it takes for the same class in an escaped form.
_CHARACTER: Final = "[ !#-\\[\\]-\U0010ffff]"


def held_by(form: str | None, pattern: str | None, least: int, most: int | None) -> Mapping[str, str] | None:
    """What xgrammar is told of a string, so that all of it holds; None where there are no words for it.

    ``least``, ``most``: its bounds in characters. ``pattern`` is checked, or one of :data:`WELL_KNOWN`.
    """
    form = None if form in FREE else form
    if form is not None and pattern is not None:
        if (form, pattern) not in WELL_KNOWN and form not in BY_PATTERN:
            return None
        pattern = WELL_KNOWN.get((form, pattern), pattern)
    if (least or most is not None) and (form is not None or pattern is not None):
        if form is None or not _implied(form, least, most):
            return None
        least, most = 0, None
    if pattern is None and form is not None and form in PATTERNS:
        pattern = PATTERNS[form]
    if pattern is not None:
        return {"pattern": f"^{plain_pattern(pattern, inside_json=True)}$"}
    if form is not None:
        return {"format": form}
    return {"pattern": f"^{_CHARACTER}{{{least},{'' if most is None else most}}}$"} if least or most is not None else {}


def _implied(form: str, least: int, most: int | None) -> bool:
    fewest, greatest = LENGTHS.get(form, (0, None))
    return least <= fewest and (most is None or (greatest is not None and greatest <= most))
