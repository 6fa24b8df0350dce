"""What a response's request asks for besides its input: formats, tools, what to include.

Source: OpenAI's OpenAPI document (IncludeEnum, ResponseTextParam, FunctionTool, ToolChoiceParam, Reasoning).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, PlainValidator

from engine.types import ReasoningEffort
from gateway.protocol import refused
from gateway.protocol.nested import kind_of, read_as, read_fields
from gateway.protocol.sampling import nullable_options
from gateway.protocol.structure import JsonObjectFormat, TextFormat
from gateway.protocol.tools import (
    MAX_TOOLS,
    FunctionName,
    ToolChoice,
    plain_choice,
    read_finite,
    read_function_parameters,
)
from gateway.protocol.validation import array_too_long, not_one_of, unsupported, wrong_type

LOGPROBS: Final = "message.output_text.logprobs"

_OTHER_INCLUDES: Final = (
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
)
_HOSTED: Final = (
    "file_search computer computer_use_preview web_search web_search_preview mcp code_interpreter image_generation "
    "local_shell shell custom namespace tool_search apply_patch"
)
_HOSTED_TOOLS: Final[refused.Refusals] = {
    kind: refused.Refusal("Only functions of the caller's own are supported as tools.") for kind in _HOSTED.split()
}


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra=nullable_options)


def _include(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise wrong_type("an array", value).within()
    for index, each in enumerate(value):
        if isinstance(each, str) and each in _OTHER_INCLUDES:
            raise unsupported(f"Only '{LOGPROBS}' can be included.").within(f"[{index}]")
        if each != LOGPROBS:
            raise not_one_of(each, f"'{LOGPROBS}'").within(f"[{index}]")
    return tuple(value)


IncludeField = Annotated[
    tuple[str, ...], PlainValidator(_include, json_schema_input_type=list[Literal["message.output_text.logprobs"]])
]


class SchemaFormat(_Fields):
    """JSON that is valid against a schema."""

    type: Literal["json_schema"] = Field(description="The kind of the format.")
    name: FunctionName = Field(description="A name for it.")
    # "schema" is a method of pydantic's models.
    json_schema: Annotated[dict[str, Any], AfterValidator(read_finite)] = Field(
        alias="schema", description="The JSON Schema that the output is valid against."
    )
    strict: bool | None = Field(None, description="Makes no difference: the output is always held to the schema.")
    description: str | None = Field(None, description="What the answer is: the model is told.")


Format = TextFormat | JsonObjectFormat | SchemaFormat
_FORMATS: Final[dict[str, type[Format]]] = {
    "text": TextFormat,
    "json_object": JsonObjectFormat,
    "json_schema": SchemaFormat,
}


def _format(value: object) -> Format:
    fields = read_fields(value, "")
    return read_as(_FORMATS[kind_of(fields, _FORMATS, {}, "")], fields, {}, "")


class TextOptions(_Fields):
    """What the text of the answer looks like."""

    format: Annotated[Format, PlainValidator(_format, json_schema_input_type=Format)] = Field(
        default_factory=lambda: TextFormat(type="text"), description="Hold the output to JSON, or to a JSON Schema."
    )


def _text_options(value: object) -> TextOptions:
    refusals = {"verbosity": refused.Refusal("Ask for it in the input.", ("medium",))}
    return read_as(TextOptions, read_fields(value, ""), refusals, "")


TextField = Annotated[TextOptions, PlainValidator(_text_options, json_schema_input_type=TextOptions)]


class ResponseTool(_Fields):
    """A function that the model may call."""

    type: Literal["function"] = Field(description="The kind of the tool.")
    name: FunctionName = Field(description="What the model calls it by.")
    description: str | None = Field(None, description="Tells the model what it does and when to call it.")
    parameters: Annotated[dict[str, Any], AfterValidator(read_function_parameters)] | None = Field(
        None, description="A JSON Schema of an object; left out for a function without parameters."
    )
    strict: bool | None = Field(None, description="Hold the arguments to `parameters` by a grammar. Default: false.")

    def wire(self) -> dict[str, Any]:
        """As answers repeat it."""
        return {**self.model_dump(), "strict": bool(self.strict)}


def _tools(value: object) -> tuple[ResponseTool, ...]:
    if not isinstance(value, list):
        raise wrong_type("an array", value).within()
    if len(value) > MAX_TOOLS:
        raise array_too_long(MAX_TOOLS, len(value)).within()
    return tuple(_tool(each, f"[{index}]") for index, each in enumerate(value))


def _tool(value: object, at: str) -> ResponseTool:
    fields = read_fields(value, at)
    kind_of(fields, {"function": ResponseTool}, _HOSTED_TOOLS, at)
    refusals = {"defer_loading": refused.Refusal("Every tool is told to the model.", (False,))}
    return read_as(ResponseTool, fields, refusals, at)


ToolsField = Annotated[
    tuple[ResponseTool, ...],
    PlainValidator(_tools, json_schema_input_type=Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS)]),
]


class ChosenFunction(_Fields):
    """A function by its name."""

    type: Literal["function"] = Field(description="The kind of the tool.")
    name: str = Field(description="The name of one of `tools`.")


class ChosenTools(_Fields):
    """The tools that may be called, all of them being shown to the model."""

    type: Literal["allowed_tools"] = Field(description="The kind of the choice.")
    mode: Literal["auto", "required"] = Field(description="Whether one of them must be called.")
    tools: Annotated[list[ChosenFunction], FailFast()] = Field(
        min_length=1, max_length=MAX_TOOLS, description="Which of `tools` may be called."
    )


_CHOICES: Final = {"function": ChosenFunction, "allowed_tools": ChosenTools}


def _tool_choice(value: object) -> ToolChoice:
    if isinstance(value, str):
        return plain_choice(value)
    if not isinstance(value, dict):
        raise wrong_type("a string or an object", value).within()
    if kind_of(value, _CHOICES, _HOSTED_TOOLS, "") == "function":
        return ToolChoice("required", ((read_as(ChosenFunction, value, {}, "").name, ".name"),))
    chosen = read_as(ChosenTools, value, {}, "")
    names = tuple((tool.name, f".tools[{index}].name") for index, tool in enumerate(chosen.tools))
    return ToolChoice(chosen.mode, names)


ToolChoiceField = Annotated[
    ToolChoice,
    PlainValidator(
        _tool_choice, json_schema_input_type=Literal["none", "auto", "required"] | ChosenFunction | ChosenTools
    ),
]


def choice_wire(choice: ToolChoice | None) -> str | dict[str, Any]:
    """As answers repeat it."""
    if choice is None or not choice.only:
        return "auto" if choice is None else choice.mode
    if choice.only[0][1] == ".name":
        return {"type": "function", "name": choice.only[0][0]}
    tools = [{"type": "function", "name": name} for name, _ in choice.only]
    return {"type": "allowed_tools", "mode": choice.mode, "tools": tools}


class ReasoningOptions(_Fields):
    """How to think."""

    effort: ReasoningEffort | None = Field(
        None, description="How much to think before answering; only for models that reason, `none` for all."
    )


def _reasoning(value: object) -> ReasoningOptions:
    sent = refused.Refusal("What the model thought is sent as it is, in items of type 'reasoning'.")
    refusals = dict.fromkeys(("summary", "generate_summary", "context"), sent)
    return read_as(ReasoningOptions, read_fields(value, ""), refusals, "")


ReasoningField = Annotated[ReasoningOptions, PlainValidator(_reasoning, json_schema_input_type=ReasoningOptions)]


class StreamOptions(_Fields):
    """There is nothing to set: the usage is always told, nothing is padded."""


def _stream_options(value: object) -> StreamOptions:
    return read_as(StreamOptions, read_fields(value, ""), refused.STREAM_OPTIONS, "")


StreamOptionsField = Annotated[StreamOptions, PlainValidator(_stream_options, json_schema_input_type=StreamOptions)]
