"""What is wrong with a request, in OpenAI's words: code, ``param`` and message, one error per request.

The texts follow what OpenAI's API answers, for example ``Invalid 'messages[2].tool_calls': array too long.
Expected an array with maximum length 128, but got an array with length 200 instead.``
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from gateway.errors import ApiError, invalid
from gateway.protocol.strictjson import json_path

_ECHO: Final = 64

_TYPE_NAMES: Final[dict[type, str]] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    list: "an array",
    dict: "an object",
    type(None): "null",
}

_EXPECTED: Final = {
    "string_type": "a string",
    "bool_type": "a boolean",
    "int_type": "an integer",
    "float_type": "a decimal",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
}

#: Patterns that say less than words do.
NO_MARKS: Final = r"^[^\s\x00-\x1f\x7f<|\\/>]+$"
_PATTERNS: Final = {
    NO_MARKS: "It must not be empty or have white space, a control character or one of < | > \\ /.",
    r"^[0-9a-f]{64}$": "Expected 64 hexadecimal digits in lower case.",
}

# What texts of a query string cannot be read as.
_READ_AS: Final = {
    "int_parsing": "an integer",
    "int_parsing_size": "an integer",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "date_from_datetime_parsing": "a day of the calendar",
    "date_parsing": "a day of the calendar",
}

# Where a code is worth telling before another: first that a field is not there to be told about, then types.
_FIRST: Final = frozenset({"unsupported_parameter", "unsupported_modality", "unknown_parameter"})
_SECOND: Final = frozenset({"missing_required_parameter", "invalid_type"})


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a value. ``text`` says ``{path}`` where the path of the value belongs."""

    code: str
    text: str

    def at(self, path: str) -> ApiError:
        """The 400 for this problem at ``path``."""
        return invalid(self.text.replace("{path}", path), code=self.code, param=path or None)

    def within(self, suffix: str = "") -> PydanticCustomError:
        """The same, raised inside of a validator; ``suffix`` leads from the field to the value: ``[0].type``."""
        return PydanticCustomError("problem", "{text}", {"code": self.code, "text": self.text, "suffix": suffix})


def type_name(value: object) -> str:
    """The JSON type of ``value`` with its article."""
    return _TYPE_NAMES.get(type(value), "another type")


def shown(value: object) -> str:
    """``value`` short enough for a message."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _ECHO else text[:_ECHO] + "..."


def missing() -> Problem:
    """A required field is absent or null."""
    return Problem("missing_required_parameter", "Missing required parameter: '{path}'.")


def unknown() -> Problem:
    """A field nobody knows."""
    return Problem("unknown_parameter", "Unknown parameter: '{path}'.")


def unsupported(hint: str) -> Problem:
    """A known field that is not honoured; ``hint`` is a sentence."""
    return Problem("unsupported_parameter", f"Unsupported parameter: '{{path}}'. {hint}")


def wrong_type(expected: str, value: object) -> Problem:
    """``expected`` with its article, as in "an integer"."""
    return Problem(
        "invalid_type", f"Invalid type for '{{path}}': expected {expected}, but got {type_name(value)} instead."
    )


def bad_value(reason: str) -> Problem:
    """Anything else; ``reason`` is a sentence."""
    return Problem("invalid_value", f"Invalid '{{path}}': {reason}")


def not_one_of(value: object, allowed: str) -> Problem:
    """``allowed`` as a list for a reader: ``'system', 'user' or 'assistant'``."""
    got = f"'{shown(value)}'" if isinstance(value, str) else type_name(value)
    return Problem("invalid_value", f"Invalid value for '{{path}}': {got}. Supported values are: {allowed}.")


def below(limit: float, value: object) -> Problem:
    """``value`` is under ``limit``; an int ``limit`` belongs to an integer field, a float to a decimal one."""
    return _out_of_range("below", "minimum", ">=", limit, value)


def above(limit: float, value: object) -> Problem:
    """``value`` is over ``limit``; an int ``limit`` belongs to an integer field, a float to a decimal one."""
    return _out_of_range("above", "maximum", "<=", limit, value)


def _out_of_range(side: str, end: str, sign: str, limit: float, value: object) -> Problem:
    kind = "decimal" if isinstance(limit, float) else "integer"
    return Problem(
        f"{kind}_{side}_{end[:3]}_value",
        f"Invalid '{{path}}': {kind} {side} {end} value. "
        f"Expected a value {sign} {shown(limit)}, but got {shown(value)} instead.",
    )


def array_too_long(limit: int, length: int) -> Problem:
    """More than ``limit`` items."""
    return Problem(
        "array_above_max_length",
        "Invalid '{path}': array too long. "
        f"Expected an array with maximum length {limit}, but got an array with length {length} instead.",
    )


def empty_array() -> Problem:
    """No item where at least one is needed."""
    return Problem(
        "empty_array",
        "Invalid '{path}': empty array. Expected an array with minimum length 1, but got an empty array instead.",
    )


def empty_string() -> Problem:
    """No character where at least one is needed."""
    return Problem(
        "empty_string",
        "Invalid '{path}': empty string. Expected a string with minimum length 1, but got an empty string instead.",
    )


def string_too_long(limit: int, length: int) -> Problem:
    """More than ``limit`` characters."""
    return Problem(
        "string_above_max_length",
        "Invalid '{path}': string too long. "
        f"Expected a string with maximum length {limit}, but got a string with length {length} instead.",
    )


def too_many_keys(limit: int, count: int) -> Problem:
    """More than ``limit`` keys."""
    return Problem(
        "too_many_keys",
        "Invalid '{path}': too many properties. "
        f"Expected an object with at most {limit} properties, but got an object with {count} properties instead.",
    )


def first_problem(error: ValidationError) -> ApiError:
    """The one error to answer for ``error``: fields we do not have first, then types, then values; ties in field order.

    The models keep the number of errors small: arrays stop at their first bad item.
    """
    path, problem = worst_problem(error)
    return problem.at(path)


def worst_problem(error: ValidationError) -> tuple[str, Problem]:
    """The problem that :func:`first_problem` tells, and its path."""
    found = [_located(detail) for detail in error.errors(include_url=False)]
    return min(found, key=lambda each: _rank(each[1]))


def _rank(problem: Problem) -> int:
    if problem.code in _FIRST:
        return 0
    return 1 if problem.code in _SECOND else 2


def _located(detail: ErrorDetails) -> tuple[str, Problem]:
    context: dict[str, Any] = detail.get("ctx", {})
    path = json_path(detail["loc"])
    if detail["type"] == "problem":
        return path + context["suffix"], Problem(context["code"], context["text"])
    return path, _problem(detail, context)


def _problem(detail: ErrorDetails, context: dict[str, Any]) -> Problem:
    value = detail["input"]
    match detail["type"]:
        case "missing":
            return _missing_field(detail["loc"])
        case "extra_forbidden":
            return unknown()
        case "greater_than_equal":
            return below(context["ge"], value)
        case "less_than_equal":
            return above(context["le"], value)
        case "greater_than":
            return bad_value(f"Expected a value > {shown(context['gt'])}, but got {shown(value)} instead.")
        case "too_short":
            return empty_array()
        case "too_long":
            return array_too_long(context["max_length"], len(value))
        case "string_too_short":
            return empty_string()
        case "string_too_long":
            return string_too_long(context["max_length"], len(value))
        case "string_pattern_mismatch":
            return bad_value(_PATTERNS.get(context["pattern"], f"Expected text like {context['pattern']}."))
        case "literal_error":
            return not_one_of(value, context["expected"])
        case "float_type" if type(value) is int:
            # Integers are decimals too; this one is beyond what a double can be.
            return above(sys.float_info.max, value) if value > 0 else below(-sys.float_info.max, value)
        case kind if kind in _EXPECTED:
            return wrong_type(_EXPECTED[kind], value)
        case kind if kind in _READ_AS:
            return bad_value(f"Expected {_READ_AS[kind]}.")
        case _:
            return bad_value("The value is not valid.")


def _missing_field(loc: tuple[int | str, ...]) -> Problem:
    # OpenAI's table for messages: no role is a role it does not know, no content is content of no type.
    match loc:
        case ("messages", int(), "role"):
            return bad_value("A role is required.")
        case ("messages", int(), "content"):
            return wrong_type("a string or an array of content parts", None)
        case _:
            return missing()
