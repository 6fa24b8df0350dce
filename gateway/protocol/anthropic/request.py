"""POST /v1/messages and /v1/messages/count_tokens: from the bytes of a body to a checked request.

Source: Anthropic's OpenAPI document (CreateMessageParams, CountMessageTokensParams). What it knows and this server does
not honour is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, PlainValidator, ValidationError

from engine.types import Constraint, Conversation, Image, Parsing, ReasoningEffort, Sampling, Tool, ToolUse
from gateway.guardian.check import Passage, Passages
from gateway.protocol import refused, strictjson
from gateway.protocol.anthropic.blocks import CACHE_CONTROL, InputMessage, TextBlock, read_text
from gateway.protocol.images import Detail, ImageReference, Images, check_images
from gateway.protocol.nested import kind_of, read_as, read_fields
from gateway.protocol.sampling import INT64_MAX, ModelName, RequestBounds, nullable_options, without_nulls
from gateway.protocol.structure import schema_constraint
from gateway.protocol.tools import (
    MAX_TOOLS,
    FunctionName,
    ToolChoice,
    check_names,
    read_finite,
    read_function_parameters,
    told_of,
    use_of,
)
from gateway.protocol.transcript import Transcript
from gateway.protocol.validation import array_too_long, bad_value, first_problem, wrong_type

MAX_STOPS: Final = 32
MAX_STOP_BYTES: Final = 1024

M = TypeVar("M", bound=BaseModel)

_REFUSED: Final[refused.Refusals] = {
    "cache_control": CACHE_CONTROL,
    "container": refused.Refusal("There are no containers."),
    "inference_geo": refused.Refusal("The server decides this; a request cannot."),
    "service_tier": refused.Refusal("There is one tier; only 'auto' and 'standard_only' are supported.",
                                    ("auto", "standard_only")),
    "mcp_servers": refused.Refusal("Only tools of the caller's own are supported."),
    "context_management": refused.Refusal("The context is never cut or summarised."),
    "diagnostics": refused.Refusal("Diagnostics are not supported."),
    "prefill": refused.Refusal("An answer cannot be begun for the model."),
    "speed": refused.Refusal("There is one speed.", ("standard",)),
    "user_profile_id": refused.Refusal("Use 'metadata.user_id' for a label of your end user."),
    "workspace_id": refused.Refusal("The key says whose request it is."),
    "betas": refused.Refusal("Beta features are not supported."),
    "output_format": refused.Refusal("Use 'output_config.format' instead."),
    "max_completion_tokens": refused.Refusal("Use 'max_tokens' instead."),
    "stop": refused.Refusal("Use 'stop_sequences' instead."),
}  # fmt: skip
_REFUSED_TOOL: Final[refused.Refusals] = {
    "cache_control": CACHE_CONTROL,
    "defer_loading": refused.Refusal("Every tool is told to the model.", (False,)),
    "eager_input_streaming": refused.Refusal("Input is sent as soon as it is there."),
    "allowed_callers": refused.Refusal("Only the model itself calls tools.", (["direct"],)),
    "input_examples": refused.Refusal("The model is not told of them; say it in 'description'."),
}


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra=nullable_options)


def _system(value: object) -> str:
    return read_text(value, "a string or an array of text blocks")


class MessagesTool(_Fields):
    """A tool of the caller's own."""

    type: Literal["custom"] = Field("custom", description="The kind of the tool; may be left out.")
    name: FunctionName = Field(description="What the model calls it by.")
    description: str | None = Field(None, description="Tells the model what it does and when to call it.")
    input_schema: Annotated[dict[str, Any], AfterValidator(read_function_parameters)] = Field(
        description="A JSON Schema of an object."
    )
    strict: bool = Field(False, description="Hold the input to `input_schema` by a grammar.")


def _tools(value: object) -> tuple[MessagesTool, ...]:
    if not isinstance(value, list):
        raise wrong_type("an array", value).within()
    if len(value) > MAX_TOOLS:
        raise array_too_long(MAX_TOOLS, len(value)).within()
    return tuple(_tool(each, f"[{index}]") for index, each in enumerate(value))


def _tool(value: object, at: str) -> MessagesTool:
    fields = {"type": "custom", **read_fields(value, at)}
    kind = fields["type"]
    # Every tool of Anthropic's own has a date in its type, and more will come.
    hosted = {str(kind): refused.Refusal("Only tools of the caller's own are supported.")}
    kind_of(fields, {"custom": MessagesTool}, hosted, at)
    return read_as(MessagesTool, fields, _REFUSED_TOOL, at)


class AutoChoice(_Fields):
    """The model decides, or must call at least one tool."""

    type: Literal["auto", "any"] = Field(description="`auto`: the model decides; `any`: it calls at least one.")
    disable_parallel_tool_use: bool = Field(False, description="True: at most one call per answer.")


class NamedChoice(_Fields):
    """The one tool that is called."""

    type: Literal["tool"] = Field(description="The kind of the choice.")
    name: str = Field(description="The name of one of `tools`.")
    disable_parallel_tool_use: bool = Field(False, description="True: at most one call per answer.")


class NoChoice(_Fields):
    """The model is not told of the tools."""

    type: Literal["none"] = Field(description="The kind of the choice.")


Choice = AutoChoice | NamedChoice | NoChoice
_CHOICES: Final[dict[str, type[Choice]]] = {
    "auto": AutoChoice,
    "any": AutoChoice,
    "tool": NamedChoice,
    "none": NoChoice,
}


def _tool_choice(value: object) -> Choice:
    fields = read_fields(value, "")
    return read_as(_CHOICES[kind_of(fields, _CHOICES, {}, "")], fields, {}, "")


class Thinking(_Fields):
    """Whether to think before answering."""

    type: Literal["adaptive", "disabled"] = Field(
        description="`adaptive`: as the model sees fit, which is also the default; `disabled`: not at all."
    )


def _thinking(value: object) -> Thinking:
    fields = read_fields(value, "")
    budget = refused.Refusal("Thoughts cannot be bounded by themselves; use 'adaptive' and 'max_tokens'.")
    kind_of(fields, {"adaptive": None, "disabled": None}, {"enabled": budget}, "")
    shown = refused.Refusal("What the model thought is sent as it is.")
    return read_as(Thinking, fields, {"display": shown, "budget_tokens": budget}, "")


class JsonFormat(_Fields):
    """JSON that is valid against a schema."""

    type: Literal["json_schema"] = Field(description="The kind of the format.")
    # "schema" is a method of pydantic's models.
    json_schema: Annotated[dict[str, Any], AfterValidator(read_finite)] = Field(
        alias="schema", description="The JSON Schema that the output is valid against."
    )


class OutputConfig(_Fields):
    """What the output is like."""

    effort: Literal["low", "medium", "high", "xhigh"] | None = Field(
        None, description="How much to think before answering; only for models that reason."
    )
    format: JsonFormat | None = Field(None, description="Hold the output to a JSON Schema.")


class MessagesMetadata(_Fields):
    """About the request."""

    user_id: str | None = Field(None, max_length=512, description="A label of your end user, kept for logs only.")


def _stops(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise wrong_type("an array", value).within()
    if len(value) > MAX_STOPS:
        raise array_too_long(MAX_STOPS, len(value)).within()
    for index, each in enumerate(value):
        if not isinstance(each, str) or not each or len(each.encode()) > MAX_STOP_BYTES:
            raise bad_value(f"Expected a string of 1 to {MAX_STOP_BYTES} bytes.").within(f"[{index}]")
    return tuple(value)


def _fraction(value: float) -> float:
    if not 0 < value <= 1:
        raise bad_value("Expected a number above 0 and at most 1.").within()
    return value


_StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_BYTES)]


class CountTokensRequest(_Fields):
    """A conversation whose tokens are to be counted."""

    model: ModelName = Field(description="A model id as listed by /v1/models.")
    messages: Annotated[tuple[InputMessage, ...], FailFast(), Field(min_length=1, strict=False)] = Field(
        description="The conversation so far; the last message is not the assistant's."
    )
    system: Annotated[str, PlainValidator(_system, json_schema_input_type=str | list[TextBlock])] | None = Field(
        None, description="What is said before everything else: a text, or text blocks."
    )
    tools: Annotated[
        tuple[MessagesTool, ...],
        PlainValidator(_tools, json_schema_input_type=Annotated[list[MessagesTool], Field(max_length=MAX_TOOLS)]),
    ] = Field((), description="Tools that the model may call.")
    tool_choice: Annotated[Choice, PlainValidator(_tool_choice, json_schema_input_type=Choice)] | None = Field(
        None, description="Whether a tool is called, and which. Default: `auto`."
    )
    thinking: Annotated[Thinking, PlainValidator(_thinking, json_schema_input_type=Thinking)] | None = Field(
        None, description="Whether to think before answering."
    )
    output_config: OutputConfig = Field(OutputConfig(), description="What the output is like.")

    @property
    def effort(self) -> ReasoningEffort | None:
        """As the engine takes it."""
        if self.thinking is not None and self.thinking.type == "disabled":
            return "none"
        return self.output_config.effort

    def tool_use(self) -> ToolUse | None:
        """The tools as the engine takes them."""
        if not self.tools:
            return None
        declared = tuple(
            Tool(tool.name, tool.description, tool.input_schema, tool.strict, f"tools[{index}].input_schema")
            for index, tool in enumerate(self.tools)
        )
        parallel = not getattr(self.tool_choice, "disable_parallel_tool_use", False)
        return use_of(declared, _choice_of(self.tool_choice), parallel)

    def images(self) -> list[ImageReference]:
        """Every image that the model would see."""
        return [image for index, each in enumerate(self.messages) for image in each.images(f"messages[{index}]")]

    def conversation(self, images: Images) -> Conversation:
        """What the model is given, with the pictures that were fetched for it.

        Raises :class:`~gateway.errors.ApiError` 400.
        """
        transcript = Transcript()
        if self.system is not None:
            transcript.say("system", self.system)
        for index, message in enumerate(self.messages):
            message.tell(transcript, f"messages[{index}]", images)
        return Conversation(transcript.messages(), self.tool_use(), self.effort)

    def texts(self) -> Passages:
        """Everything that the model would read, and who wrote it."""
        use = self.tool_use()
        told = [Passage(self.system, "system")] if self.system else []
        said = [passage for message in self.messages for passage in message.passages()]
        return [*told, *said, *(Passage(text, "tools") for text in told_of(use.tools if use else ()))]


class MessagesRequest(CountTokensRequest):
    """A conversation to continue. Optional fields may be null, which means the same as leaving them out."""

    n: ClassVar[int] = 1

    max_tokens: int = Field(ge=1, le=INT64_MAX, description="Most tokens to generate; clamped to the server's bound.")
    stop_sequences: Annotated[
        tuple[str, ...],
        PlainValidator(_stops, json_schema_input_type=Annotated[list[_StopString], Field(max_length=MAX_STOPS)]),
    ] = Field((), description="Strings that end the output; they are not part of it.")
    stream: bool = Field(False, description="Answer with server-sent events.")
    temperature: float = Field(1.0, ge=0.0, le=1.0, description="0 is greedy; higher is more random.")
    top_p: Annotated[
        float, AfterValidator(_fraction), Field(json_schema_extra={"exclusiveMinimum": 0, "maximum": 1})
    ] = Field(1.0, description="Sample from the smallest set of tokens with this probability mass.")
    top_k: int = Field(0, ge=0, le=INT64_MAX, description="Sample from this many likeliest tokens; 0: from all.")
    metadata: MessagesMetadata = Field(MessagesMetadata(), description="About the request.")

    @property
    def requested_max_tokens(self) -> int | None:
        """See :class:`gateway.pipeline.Generation`."""
        return self.max_tokens

    def labels(self) -> Mapping[str, str]:
        """See :class:`gateway.pipeline.Generation`."""
        return {} if self.metadata.user_id is None else {"metadata.user_id": self.metadata.user_id}

    def to_sampling(self, bounds: RequestBounds) -> Sampling:
        """See :class:`gateway.pipeline.Generation`."""
        return Sampling(
            max_tokens=min(self.max_tokens, bounds.max_tokens),
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=self.stop_sequences,
        )

    def constraint(self) -> Constraint | None:
        """See :class:`gateway.pipeline.Generation`."""
        form = self.output_config.format
        return None if form is None else schema_constraint(form.json_schema, "output_config.format", ".schema")

    def parsing(self) -> Parsing:
        """See :class:`gateway.pipeline.Generation`: whether the model reasons is the engine's to know."""
        return Parsing(self.tool_use(), reasoning=True)


def _choice_of(choice: Choice | None) -> ToolChoice | None:
    match choice:
        case NamedChoice():
            return ToolChoice("required", ((choice.name, ".name"),))
        case NoChoice():
            return ToolChoice("none")
        case AutoChoice(type="any"):
            return ToolChoice("required")
        case _:
            return None


def parse_messages(data: bytes, bounds: RequestBounds) -> MessagesRequest:
    """The request in ``data``. Pure: may run in a worker thread. Raises :class:`~gateway.errors.ApiError` 400."""
    return _parse(MessagesRequest, data, bounds)


def parse_count(data: bytes, bounds: RequestBounds) -> CountTokensRequest:
    """The request in ``data``. Pure: may run in a worker thread. Raises :class:`~gateway.errors.ApiError` 400."""
    return _parse(CountTokensRequest, data, bounds)


C = TypeVar("C", bound=CountTokensRequest)


def _parse(model: type[C], data: bytes, bounds: RequestBounds) -> C:
    body = without_nulls(refused.screen(strictjson.loads(data), frozenset(model.model_fields), _REFUSED))
    messages = body.get("messages")
    if isinstance(messages, list) and len(messages) > bounds.max_messages:
        raise array_too_long(bounds.max_messages, len(messages)).at("messages")
    try:
        request = model.model_validate(body)
    except ValidationError as error:
        raise first_problem(error) from None
    _check_together(request)
    check_images(request.images(), bounds.max_images, "messages")
    return request


class _Unseen(dict[tuple[str, Detail], Image]):
    """Stands for the pictures while a conversation is only looked through."""

    def __missing__(self, key: tuple[str, Detail]) -> Image:
        return Image(0, 0, b"")


def _check_together(request: CountTokensRequest) -> None:
    if request.messages[-1].role == "assistant":
        raise bad_value("The last message must not be the assistant's: an answer cannot be begun for the model.").at(
            f"messages[{len(request.messages) - 1}].role"
        )
    names = [(tool.name, f"tools[{index}].name") for index, tool in enumerate(request.tools)]
    if request.tools:
        check_names(names, _choice_of(request.tool_choice))
        if request.output_config.format is not None:
            raise bad_value("It cannot be combined with 'tools'.").at("output_config.format")
    elif request.tool_choice is not None and request.tool_choice.type not in ("auto", "none"):
        raise bad_value("Only allowed when 'tools' are given.").at("tool_choice")
    for index, message in enumerate(request.messages):
        if message.role != "user" and message.images(""):
            raise bad_value("Only messages of role 'user' may have images.").at(f"messages[{index}].content")
    request.conversation(_Unseen())
