"""Query strings: as strict as bodies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeVar, get_args
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError

from gateway.errors import invalid
from gateway.protocol.strictjson import json_path
from gateway.protocol.validation import bad_value, first_problem

Q = TypeVar("Q", bound=BaseModel)

_MAX_FIELDS: Final = 64
_INTEGER: Final = re.compile(r"-?[0-9]+")
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")


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
    _check_numbers(values, model)
    try:
        return model.model_validate_strings(values)
    except ValidationError as error:
        raise first_problem(error) from None


def _check_numbers(values: Mapping[str, str], model: type[BaseModel]) -> None:
    """Only plain decimal digits are an integer: no spaces (which ``+`` stands for), no underscores, no fraction."""
    for name, field in model.model_fields.items():
        value = values.get(field.alias or name)
        kinds = (field.annotation, *get_args(field.annotation))
        if value is not None and int in kinds and not _INTEGER.fullmatch(value):
            raise bad_value("Expected an integer.").at(field.alias or name)
        if value is not None and float in kinds and not _NUMBER.fullmatch(value):
            raise bad_value("Expected a number.").at(field.alias or name)
