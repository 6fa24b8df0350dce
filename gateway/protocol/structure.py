"""Structured output on the wire: ``response_format`` and vLLM's ``structured_outputs``.

Only the form is checked here; whether a schema, a regular expression or a grammar can be held to is the engine's to say
(:meth:`engine.types.Engine.constrain`). Sources: OpenAI's OpenAPI document (ResponseFormatText, -JsonObject,
-JsonSchema), vLLM 0.32 ``sampling_params.py`` (StructuredOutputsParams).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from engine.types import ChatMessage, Constraint
from gateway.protocol import strictjson
from gateway.protocol.sampling import nullable_options
from gateway.protocol.validation import (
    array_too_long,
    bad_value,
    empty_array,
    empty_string,
    missing,
    not_one_of,
    unknown,
    unsupported,
    wrong_type,
)

MAX_CHOICES: Final = 500
MAX_CHOICE_CHARACTERS: Final = 16 * 1024
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_KINDS: Final = ("json", "regex", "choice", "grammar", "json_object")
_FORMATS: Final = "'text', 'json_object' and 'json_schema'"


def read_response_format(value: object) -> Constraint | None:
    """A checked ``response_format``; None for plain text. Raises the problem at its place below the field."""
    fields = _object(value, "")
    kind = fields.get("type")
    match kind:
        case "text" | "json_object":
            _only(fields, ("type",), "")
            return None if kind == "text" else Constraint("json_object", "", "response_format")
        case "json_schema":
            _only(fields, ("type", "json_schema"), "")
            return _json_schema(fields.get("json_schema"))
        case None:
            raise missing().within(".type")
        case _:
            raise not_one_of(kind, _FORMATS).within(".type")


def _json_schema(value: object) -> Constraint:
    at = ".json_schema"
    if value is None:
        raise missing().within(at)
    fields = _object(value, at)
    _only(fields, ("name", "schema", "strict", "description"), at)
    name, strict, description = fields.get("name"), fields.get("strict"), fields.get("description")
    if name is None:
        raise missing().within(f"{at}.name")
    if not isinstance(name, str):
        raise wrong_type("a string", name).within(f"{at}.name")
    if not _NAME.fullmatch(name):
        raise bad_value("Expected 1 to 64 of the letters a-z and A-Z, digits, underscores and dashes.").within(
            f"{at}.name"
        )
    if strict is not None and not isinstance(strict, bool):
        raise wrong_type("a boolean", strict).within(f"{at}.strict")
    if description is not None and not isinstance(description, str):
        raise wrong_type("a string", description).within(f"{at}.description")
    return schema_constraint(fields.get("schema"), "response_format", f"{at}.schema", description)


def schema_constraint(schema: object, field: str, at: str, description: str | None = None) -> Constraint:
    """A JSON Schema that stands ``at`` some place below the request's ``field``; its properties keep their order."""
    if schema is None:
        raise missing().within(at)
    return Constraint("json_schema", json.dumps(schema), field + at, description or None)


def informed(messages: Sequence[ChatMessage], constraint: Constraint | None) -> list[ChatMessage]:
    """``messages``, the model told what its answer is to be where the caller says so.

    It stands in the first message if that is a system's: many chat templates take one, and only there.
    """
    told = list(messages)
    if constraint is None or constraint.description is None:
        return told
    note = f"Answer with JSON. What it is: {constraint.description}"
    first = told[0] if told else None
    if first is None or first.role not in ("system", "developer"):
        return [ChatMessage("system", note), *told]
    content = first.content
    joined = f"{content}\n\n{note}" if isinstance(content, str) else (*content, f"\n\n{note}")
    return [replace(first, content=joined), *told[1:]]


def read_structured_outputs(value: object) -> Constraint:
    """A checked ``structured_outputs``. Raises the problem at its place below the field."""
    fields = {name: member for name, member in _object(value, "").items() if member is not None}
    for name in fields:
        if name not in _KINDS:
            raise unsupported("One of 'json', 'regex', 'choice', 'grammar' and 'json_object' is.").within(
                "." + strictjson.json_path([name])
            )
    if fields.get("json_object") is False:
        del fields["json_object"]
    if len(fields) != 1:
        raise bad_value("Expected exactly one of 'json', 'regex', 'choice', 'grammar' and 'json_object'.").within()
    ((kind, member),) = fields.items()
    return _of_kind(kind, member, f".{kind}")


def _of_kind(kind: str, value: object, at: str) -> Constraint:
    param = "structured_outputs" + at
    match kind:
        case "json":
            return schema_constraint(_parsed(value, at), "structured_outputs", at)
        case "json_object":
            if value is not True:
                raise wrong_type("a boolean", value).within(at)
            return Constraint("json_object", "", param)
        case "choice":
            return Constraint("choice", json.dumps(_choices(value, at)), param)
        case _:
            if not isinstance(value, str):
                raise wrong_type("a string", value).within(at)
            if not value:
                raise empty_string().within(at)
            return Constraint("regex" if kind == "regex" else "grammar", value, param)


def _parsed(value: object, at: str) -> object:
    """vLLM's clients send the schema as an object or as its text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise bad_value("Expected a JSON Schema, as an object or as JSON text.").within(at) from None


def _choices(value: object, at: str) -> list[str]:
    if not isinstance(value, list):
        raise wrong_type("an array", value).within(at)
    if not value:
        raise empty_array().within(at)
    if len(value) > MAX_CHOICES:
        raise array_too_long(MAX_CHOICES, len(value)).within(at)
    for index, choice in enumerate(value):
        if not isinstance(choice, str):
            raise wrong_type("a string", choice).within(f"{at}[{index}]")
        if not choice:
            raise empty_string().within(f"{at}[{index}]")
    if sum(map(len, value)) > MAX_CHOICE_CHARACTERS:
        raise bad_value(f"Expected at most {MAX_CHOICE_CHARACTERS} characters in all.").within(at)
    return value


def _object(value: object, at: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise wrong_type("an object", value).within(at)
    return value


def _only(fields: Mapping[str, object], known: tuple[str, ...], at: str) -> None:
    for name, member in fields.items():
        if name not in known and member is not None:
            raise unknown().within(at + "." + strictjson.json_path([name]))


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra=nullable_options)


class TextFormat(_Fields):
    """Plain text."""

    type: Literal["text"] = Field(description="The kind of the format.")


class JsonObjectFormat(_Fields):
    """Any JSON object."""

    type: Literal["json_object"] = Field(description="The kind of the format.")


class NamedSchema(_Fields):
    """A schema."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")] = Field(description="A name for it.")
    # "schema" is a method of pydantic's models.
    json_schema: dict[str, Any] = Field(alias="schema", description="The JSON Schema that the output is valid against.")
    strict: bool | None = Field(None, description="Makes no difference: the output is always held to the schema.")
    description: str | None = Field(None, description="What the answer is: the model is told.")


class JsonSchemaFormat(_Fields):
    """JSON that is valid against a schema."""

    type: Literal["json_schema"] = Field(description="The kind of the format.")
    json_schema: NamedSchema = Field(description="The schema and its name.")


class StructuredOutputs(_Fields):
    """What the output is held to: exactly one of these."""

    json_: dict[str, Any] | str | None = Field(None, alias="json", description="A JSON Schema, or its text.")
    regex: str | None = Field(None, min_length=1, description="A regular expression for the whole output.")
    choice: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_CHOICES)] | None = (
        Field(None, description="The output is one of these.")
    )
    grammar: str | None = Field(None, min_length=1, description="A grammar in EBNF, as xgrammar takes it.")
    json_object: bool | None = Field(None, description="True: any JSON object.")


ResponseFormatField = Annotated[
    Constraint | None,
    PlainValidator(read_response_format, json_schema_input_type=TextFormat | JsonObjectFormat | JsonSchemaFormat),
]
StructuredOutputsField = Annotated[
    Constraint, PlainValidator(read_structured_outputs, json_schema_input_type=StructuredOutputs)
]
