"""Query strings: as strict as bodies."""

from __future__ import annotations

from typing import Final, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError

from gateway.errors import invalid
from gateway.protocol.strictjson import json_path
from gateway.protocol.validation import bad_value, first_problem

Q = TypeVar("Q", bound=BaseModel)

_MAX_FIELDS: Final = 64


def parse_query(raw: bytes, model: type[Q]) -> Q:
    """The checked parameters in the query string ``raw``; every name once, none that ``model`` does not know.

    Raises :class:`~gateway.errors.ApiError` 400 that names the parameter.
    """
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(raw),
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError:
        raise invalid("The query string is malformed.", code="invalid_query") from None
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise bad_value("It appears more than once.").at(json_path([name]))
        if "\x00" in value:
            raise bad_value("It must not hold a NUL character.").at(json_path([name]))
        values[name] = value
    try:
        return model.model_validate_strings(values)
    except ValidationError as error:
        raise first_problem(error) from None
