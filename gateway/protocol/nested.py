"""Objects inside of arrays whose kind decides their fields: read one by one, with every problem at its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from gateway.protocol import refused, strictjson
from gateway.protocol.sampling import without_nulls
from gateway.protocol.validation import missing, not_one_of, unsupported, worst_problem, wrong_type

M = TypeVar("M", bound=BaseModel)


def read_fields(value: object, at: str) -> refused.Fields:
    """``value`` as an object, nulls left out. Raises the problem ``at`` its place below the field."""
    if not isinstance(value, dict):
        raise wrong_type("an object", value).within(at)
    return without_nulls(value)


def read_as(model: type[M], fields: refused.Fields, refusals: refused.Refusals, at: str) -> M:
    """``fields`` checked; those of ``refusals`` are let through where they ask for nothing.

    Raises the problem at its place below ``at``, as a validator of the field does.
    """
    known = frozenset(field.alias or name for name, field in model.model_fields.items())
    for name, problem in refused.foreign(fields, known, refusals):
        raise problem.within(f"{at}.{strictjson.json_path([name])}")
    try:
        return model.model_validate({name: member for name, member in fields.items() if name in known})
    except ValidationError as error:
        path, found = worst_problem(error)
        raise found.within(f"{at}.{path}") from None


def kind_of(fields: refused.Fields, kinds: Mapping[str, object], refusals: refused.Refusals, at: str) -> str:
    """The ``type`` of an object, one of ``kinds``. Raises the problem at its place, with a hint for ``refusals``."""
    kind = fields.get("type")
    if kind is None:
        raise missing().within(f"{at}.type")
    if isinstance(kind, str):
        if kind in kinds:
            return kind
        if kind in refusals:
            raise unsupported(refusals[kind].hint).within(f"{at}.type")
    raise not_one_of(kind, ", ".join(f"'{each}'" for each in kinds)).within(f"{at}.type")
