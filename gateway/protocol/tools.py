"""Tools on the wire: what may be called, what must be, and the calls of earlier turns.

Source: OpenAI's OpenAPI document (ChatCompletionTool, ChatCompletionToolChoiceOption, ChatCompletionMessageToolCall).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator

from engine.types import Tool, ToolCall, ToolUse
from gateway.protocol import strictjson
from gateway.protocol.sampling import nullable_options
from gateway.protocol.validation import Problem, bad_value, missing, not_one_of, unknown, wrong_type

MAX_TOOLS: Final = 128
MAX_CALLS: Final = 128
MAX_CALL_ID: Final = 256
NAME_PATTERN: Final = r"^[a-zA-Z0-9_-]{1,64}$"
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MODES: Final = "'none', 'auto', 'required', or an object"


def _function_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise bad_value("Expected 1 to 64 of the letters a-z and A-Z, digits, underscores and dashes.").within()
    return value


def read_function_parameters(value: dict[str, Any]) -> dict[str, Any]:
    """A function's schema, which is one of an object."""
    if value.get("type", "object") != "object":
        raise Problem("invalid_json_schema", "Invalid '{path}': expected a schema of type 'object'.").within()
    return read_finite(value)


def read_finite(value: dict[str, Any]) -> dict[str, Any]:
    """Free JSON of the caller's that must be written again. Raises the problem for what JSON cannot say."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise bad_value("It has a number beyond the range of a double.").within() from None
    return value


FunctionName = Annotated[
    str, AfterValidator(_function_name), Field(json_schema_extra={"pattern": NAME_PATTERN, "minLength": 1})
]


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra=nullable_options)


class FunctionDefinition(_Fields):
    """A function that the model may call."""

    name: FunctionName = Field(description="What the model calls it by.")
    description: str | None = Field(None, description="Tells the model what it does and when to call it.")
    parameters: Annotated[dict[str, Any], AfterValidator(read_function_parameters)] | None = Field(
        None, description="A JSON Schema of an object; left out for a function without parameters."
    )
    strict: bool | None = Field(None, description="Hold the arguments to `parameters` by a grammar.")


class FunctionTool(_Fields):
    """A tool."""

    type: Literal["function"] = Field(description="The kind of the tool.")
    function: FunctionDefinition = Field(description="The function.")


class CalledFunction(_Fields):
    """What was called."""

    name: FunctionName = Field(description="The function's name.")
    arguments: str = Field(description="The arguments, as the JSON text that the model wrote.")


class MessageToolCall(_Fields):
    """A call that the assistant made earlier."""

    id: str = Field(min_length=1, max_length=MAX_CALL_ID, description="What a `tool` message answers it by.")
    type: Literal["function"] = Field(description="The kind of the call.")
    function: CalledFunction = Field(description="The function and its arguments.")


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """``only``: names with their places below ``tool_choice``; empty for every tool."""

    mode: Literal["none", "auto", "required"]
    only: tuple[tuple[str, str], ...] = ()


def plain_choice(word: str) -> ToolChoice:
    """A ``tool_choice`` that is one word. Raises the problem at its place below the field."""
    match word:
        case "none" | "auto" | "required":
            return ToolChoice(word)
        case _:
            raise not_one_of(word, _MODES).within()


def read_tool_choice(value: object) -> ToolChoice:
    """A checked ``tool_choice``. Raises the problem at its place below the field."""
    if isinstance(value, str):
        return plain_choice(value)
    if not isinstance(value, dict):
        raise wrong_type("a string or an object", value).within()
    match value.get("type"):
        case "function":
            return ToolChoice("required", (_named(value, ""),))
        case "allowed_tools":
            return _allowed(value)
        case None:
            raise missing().within(".type")
        case other:
            raise not_one_of(other, "'function' and 'allowed_tools'").within(".type")


def _allowed(value: Mapping[str, object]) -> ToolChoice:
    allowed = _object(value, "allowed_tools", "")
    _only_keys(value, ("type", "allowed_tools"), "")
    at = ".allowed_tools"
    _only_keys(allowed, ("mode", "tools"), at)
    mode, tools = allowed.get("mode"), allowed.get("tools")
    if mode != "auto" and mode != "required":
        raise (missing() if mode is None else not_one_of(mode, "'auto' and 'required'")).within(f"{at}.mode")
    if not isinstance(tools, list):
        raise (missing() if tools is None else wrong_type("an array", tools)).within(f"{at}.tools")
    if not 1 <= len(tools) <= MAX_TOOLS:
        raise bad_value(f"Expected 1 to {MAX_TOOLS} tools.").within(f"{at}.tools")
    return ToolChoice(mode, tuple(_reference(tool, f"{at}.tools[{index}]") for index, tool in enumerate(tools)))


def _reference(tool: object, at: str) -> tuple[str, str]:
    if not isinstance(tool, dict):
        raise wrong_type("an object", tool).within(at)
    if tool.get("type") != "function":
        raise not_one_of(tool.get("type"), "'function'").within(f"{at}.type")
    return _named(tool, at)


def _named(value: Mapping[str, object], at: str) -> tuple[str, str]:
    function = _object(value, "function", at)
    _only_keys(value, ("type", "function"), at)
    _only_keys(function, ("name",), f"{at}.function")
    name, place = function.get("name"), f"{at}.function.name"
    if not isinstance(name, str):
        raise (missing() if name is None else wrong_type("a string", name)).within(place)
    return name, place


def _object(value: Mapping[str, object], key: str, at: str) -> Mapping[str, object]:
    member = value.get(key)
    if not isinstance(member, dict):
        raise (missing() if member is None else wrong_type("an object", member)).within(f"{at}.{key}")
    return member


def _only_keys(value: Mapping[str, object], known: Sequence[str], at: str) -> None:
    for key in value:
        if key not in known:
            raise unknown().within(at + "." + strictjson.json_path([key]))


class NamedFunction(_Fields):
    """A function by its name."""

    name: str = Field(description="The name of one of `tools`.")


class NamedTool(_Fields):
    """A tool by its name."""

    type: Literal["function"] = Field(description="The kind of the tool.")
    function: NamedFunction = Field(description="The function.")


class AllowedTools(_Fields):
    """The tools that may be called, all of them being shown to the model."""

    mode: Literal["auto", "required"] = Field(description="Whether one of them must be called.")
    tools: list[NamedTool] = Field(min_length=1, max_length=MAX_TOOLS, description="Which of `tools` may be called.")


class AllowedChoice(_Fields):
    """A choice among some of the tools."""

    type: Literal["allowed_tools"] = Field(description="The kind of the choice.")
    allowed_tools: AllowedTools = Field(description="The tools and the mode.")


ToolChoiceField = Annotated[
    ToolChoice,
    PlainValidator(
        read_tool_choice,
        json_schema_input_type=Literal["none", "auto", "required"] | NamedTool | AllowedChoice,
    ),
]


def check_tools(tools: Sequence[FunctionTool], choice: ToolChoice | None, parallel: bool | None) -> None:
    """What no single field can know. Raises :class:`~gateway.errors.ApiError` 400."""
    if not tools:
        for name, value in (("tool_choice", choice), ("parallel_tool_calls", parallel)):
            if value is not None:
                raise bad_value("Only allowed when 'tools' are given.").at(name)
        return
    check_names([(tool.function.name, f"tools[{index}].function.name") for index, tool in enumerate(tools)], choice)


def check_names(names: Sequence[tuple[str, str]], choice: ToolChoice | None) -> None:
    """Every tool has a name of its own, and the choice names one of them. ``names`` with their places in the request.

    Raises :class:`~gateway.errors.ApiError` 400.
    """
    known: set[str] = set()
    for name, place in names:
        if name in known:
            raise bad_value("Another tool has this name.").at(place)
        known.add(name)
    for name, place in choice.only if choice else ():
        if name not in known:
            raise bad_value("No tool has this name.").at(f"tool_choice{place}")


def tool_use(tools: Sequence[FunctionTool], choice: ToolChoice | None, parallel: bool | None) -> ToolUse:
    """As the engine takes them."""
    declared = tuple(
        Tool(
            tool.function.name,
            tool.function.description,
            tool.function.parameters,
            bool(tool.function.strict),
            f"tools[{index}].function.parameters",
        )
        for index, tool in enumerate(tools)
    )
    return use_of(declared, choice, parallel)


def use_of(tools: tuple[Tool, ...], choice: ToolChoice | None, parallel: bool | None) -> ToolUse:
    """What the model may do with ``tools``."""
    chosen = choice or ToolChoice("auto")
    return ToolUse(tools, chosen.mode, tuple(name for name, _ in chosen.only), parallel is not False)


def told_of(tools: Sequence[Tool]) -> list[str]:
    """What the model would read of ``tools``."""
    return [written([tool.name, tool.description, tool.parameters]) for tool in tools]


def written(value: object) -> str:
    """JSON of whatever a caller may send: integers keep all their digits."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def made_calls(calls: Sequence[MessageToolCall]) -> tuple[ToolCall, ...]:
    """As the engine takes them."""
    return tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in calls)
