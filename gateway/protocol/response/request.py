"""POST /v1/responses: from the bytes of a body to a checked request.

Source: OpenAI's OpenAPI document (CreateResponse). What it knows and this server does not honour is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.types import Constraint, Conversation, Parsing, Sampling, Tool, ToolUse
from gateway.guardian.check import Passage, Passages
from gateway.protocol import refused, strictjson
from gateway.protocol.images import ImageReference, Images, check_images
from gateway.protocol.response.items import InputField, Item, MessageItem, check_ids
from gateway.protocol.response.options import (
    LOGPROBS,
    IncludeField,
    ReasoningField,
    ReasoningOptions,
    SchemaFormat,
    StreamOptionsField,
    TextField,
    TextOptions,
    ToolChoiceField,
    ToolsField,
    choice_wire,
)
from gateway.protocol.sampling import (
    INT64_MAX,
    Metadata,
    ModelName,
    RequestBounds,
    TopP,
    nullable_options,
    without_nulls,
)
from gateway.protocol.structure import JsonObjectFormat, informed, schema_constraint
from gateway.protocol.tools import ToolChoice, check_names, told_of, use_of
from gateway.protocol.transcript import Transcript
from gateway.protocol.validation import array_too_long, bad_value, first_problem, unsupported

NO_IMAGES: Final[Images] = {}
_CACHE: Final = "Prefix caching is automatic and cannot be steered; leave the field out."
_CHAT_ONLY: Final = (
    "n seed stop top_k min_p frequency_penalty presence_penalty repetition_penalty logit_bias ignore_eos "
    "structured_outputs"
)
_REFUSED: Final[refused.Refusals] = {
    **{name: refused.Refusal("It belongs to /v1/chat/completions.") for name in _CHAT_ONLY.split()},
    "background": refused.Refusal("Responses are made while the caller waits; only false is supported.", (False,)),
    "conversation": refused.Refusal("Use 'previous_response_id', or send the items themselves."),
    "context_management": refused.Refusal("The context is never cut or summarised."),
    "max_tool_calls": refused.Refusal("It bounds hosted tools, of which there are none."),
    "prompt": refused.Refusal("Prompt templates are not supported; send 'instructions' and 'input'."),
    "prompt_cache_key": refused.Refusal(_CACHE),
    "prompt_cache_retention": refused.Refusal(_CACHE),
    "prompt_cache_options": refused.Refusal(_CACHE),
    "service_tier": refused.Refusal("Only 'auto' and 'default' are supported.", ("auto", "default")),
    "truncation": refused.Refusal("An input that is too long is refused, never cut.", ("disabled",)),
    "moderation": refused.Refusal("Moderation is not a choice of the request."),
    "response_format": refused.Refusal("Use 'text.format' instead."),
    "reasoning_effort": refused.Refusal("Use 'reasoning.effort' instead."),
    "max_tokens": refused.Refusal("Use 'max_output_tokens' instead."),
    "max_completion_tokens": refused.Refusal("Use 'max_output_tokens' instead."),
    "messages": refused.Refusal("Use 'input' instead."),
    "logprobs": refused.Refusal(f"Use 'include' with '{LOGPROBS}' instead."),
}


class ResponseRequest(BaseModel):
    """An input to answer. Optional fields may be null, which means the same as leaving them out."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra=nullable_options)

    n: ClassVar[int] = 1

    model: ModelName = Field(description="A model id as listed by /v1/models.")
    input: InputField = Field(description="A text, or the items of the conversation so far.")
    instructions: str | None = Field(
        None, description="A system message before everything else; not carried over from an earlier response."
    )
    previous_response_id: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None, description="A stored response of yours that this one continues."
    )
    store: bool | None = Field(
        None, description="Keep the response for later. Default: true where the server keeps responses, else false."
    )
    max_output_tokens: int | None = Field(
        None, ge=1, le=INT64_MAX, description="Most tokens to generate; clamped to the server's bound."
    )
    temperature: float = Field(1.0, ge=0.0, le=2.0, description="0 is greedy; higher is more random.")
    top_p: TopP = Field(1.0, description="Sample from the smallest set of tokens with this probability mass.")
    include: IncludeField = Field((), description=f"`{LOGPROBS}` returns log probabilities of the text.")
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description=f"Alternatives to return per token; needs `include` with `{LOGPROBS}`."
    )
    text: TextField = Field(default_factory=TextOptions, description="What the text of the answer looks like.")
    tools: ToolsField = Field((), description="Functions that the model may call.")
    tool_choice: ToolChoiceField | None = Field(
        None,
        description="`auto`: the model decides; `none`: it is not told of the tools; `required`: it calls at least "
        "one; or the one function that it calls, or those that it may call.",
    )
    parallel_tool_calls: bool | None = Field(None, description="False: at most one call per answer.")
    reasoning: ReasoningField = Field(ReasoningOptions(), description="How to think.")
    stream: bool = Field(False, description="Answer with server-sent events.")
    stream_options: StreamOptionsField | None = Field(None, description="Only together with `stream: true`.")
    metadata: Metadata | None = Field(None, description="Up to 16 labels, kept with the response and for logs.")
    user: str | None = Field(None, max_length=512, description="A label of your end user, kept for logs only.")
    safety_identifier: str | None = Field(
        None, max_length=64, description="A label of your end user, kept for logs only."
    )

    @property
    def requested_max_tokens(self) -> int | None:
        """See :class:`gateway.pipeline.Generation`."""
        return self.max_output_tokens

    @property
    def wants_logprobs(self) -> bool:
        """Whether log probabilities are part of the answer."""
        return LOGPROBS in self.include

    def labels(self) -> Mapping[str, str]:
        """See :class:`gateway.pipeline.Generation`."""
        named = {"user": self.user, "safety_identifier": self.safety_identifier}
        metadata = {f"metadata.{name}": value for name, value in (self.metadata or {}).items()}
        return {**{name: value for name, value in named.items() if value is not None}, **metadata}

    def to_sampling(self, bounds: RequestBounds) -> Sampling:
        """See :class:`gateway.pipeline.Generation`."""
        return Sampling(
            max_tokens=min(self.max_output_tokens or bounds.max_tokens, bounds.max_tokens),
            temperature=self.temperature,
            top_p=self.top_p,
            logprobs=(self.top_logprobs or 0) if self.wants_logprobs else None,
        )

    def constraint(self) -> Constraint | None:
        """See :class:`gateway.pipeline.Generation`."""
        match self.text.format:
            case SchemaFormat() as form:
                return schema_constraint(form.json_schema, "text.format", ".schema", form.description)
            case JsonObjectFormat():
                return Constraint("json_object", "", "text.format")
            case _:
                return None

    def tool_use(self) -> ToolUse | None:
        """The tools as the engine takes them."""
        if not self.tools:
            return None
        declared = tuple(
            Tool(tool.name, tool.description, tool.parameters, bool(tool.strict), f"tools[{index}].parameters")
            for index, tool in enumerate(self.tools)
        )
        return use_of(declared, self.tool_choice, self.parallel_tool_calls)

    def parsing(self) -> Parsing:
        """See :class:`gateway.pipeline.Generation`: whether the model reasons is the engine's to know."""
        return Parsing(self.tool_use(), reasoning=True)

    @property
    def earlier(self) -> Sequence[Item]:
        """The items of earlier turns, oldest first."""
        return ()

    def after(self, items: tuple[Item, ...]) -> ResponseRequest:
        """The same request, continuing a conversation of these ``items``."""
        return ContinuedRequest.model_construct(**{**dict(self), "before": items})

    def images(self) -> list[ImageReference]:
        """Every image that the model would see. Raises :class:`~gateway.errors.ApiError` 400."""
        earlier = [(item, "previous_response_id") for item in self.earlier]
        items = [*earlier, *((item, f"input[{index}]") for index, item in enumerate(self.input))]
        return [image for item, at in items if isinstance(item, MessageItem) for image in item.images(at)]

    def conversation(self, images: Images = NO_IMAGES) -> Conversation:
        """What the model is given, earlier turns included, with the pictures that were fetched for it.

        Raises :class:`~gateway.errors.ApiError` 400.
        """
        transcript = Transcript()
        if self.instructions is not None:
            transcript.say("system", self.instructions)
        for item in self.earlier:
            item.tell(transcript, "previous_response_id", images)
        for index, item in enumerate(self.input):
            item.tell(transcript, f"input[{index}]", images)
        messages = informed(transcript.messages(), self.constraint())
        return Conversation(messages, self.tool_use(), self.reasoning.effort)

    def texts(self) -> Passages:
        """Everything that the model would read, and who wrote it."""
        use = self.tool_use()
        form = self.text.format
        described = form.description if isinstance(form, SchemaFormat) else None
        told = [Passage(text, "system") for text in (self.instructions, described) if text]
        said = [passage for item in (*self.earlier, *self.input) for passage in item.passages()]
        return [*told, *said, *(Passage(text, "tools") for text in told_of(use.tools if use else ()))]

    def echo(self) -> dict[str, Any]:
        """What the answer repeats of the request."""
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": None,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": self.previous_response_id,
            "reasoning": {"effort": self.reasoning.effort, "summary": None},
            "service_tier": "default",
            "temperature": self.temperature,
            "text": {"format": self.text.format.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": choice_wire(self.tool_choice),
            "tools": [tool.wire() for tool in self.tools],
            "top_logprobs": self.top_logprobs or 0,
            "top_p": self.top_p,
            "truncation": "disabled",
            **({} if self.user is None else {"user": self.user}),
            **({} if self.safety_identifier is None else {"safety_identifier": self.safety_identifier}),
        }


class ContinuedRequest(ResponseRequest):
    """A request together with the conversation that it continues; never read from the wire."""

    before: tuple[Item, ...] = ()

    @property
    def earlier(self) -> Sequence[Item]:
        """See :class:`ResponseRequest`."""
        return self.before


_ACCEPTED: Final = frozenset(ResponseRequest.model_fields)
_STORE: Final = "This server does not keep responses (its setting responses.store is off)."


def parse_response(data: bytes, bounds: RequestBounds, *, stores: bool) -> ResponseRequest:
    """The request in ``data``. Pure: may run in a worker thread. ``stores``: the server keeps responses.

    Raises :class:`~gateway.errors.ApiError` 400 that names the field.
    """
    body = without_nulls(refused.screen(strictjson.loads(data), _ACCEPTED, _REFUSED))
    items = body.get("input")
    if isinstance(items, list) and len(items) > bounds.max_messages:
        raise array_too_long(bounds.max_messages, len(items)).at("input")
    try:
        request = ResponseRequest.model_validate(body)
    except ValidationError as error:
        raise first_problem(error) from None
    _check_store(request, stores=stores)
    check_images(request.images(), bounds.max_images, "input")
    _check_together(request)
    return request


def _check_store(request: ResponseRequest, *, stores: bool) -> None:
    if stores:
        return
    for name, wanted in (("store", request.store), ("previous_response_id", request.previous_response_id)):
        if wanted:
            raise unsupported(_STORE).at(name)


def _check_together(request: ResponseRequest) -> None:
    check_ids(request.input)
    if request.stream_options is not None and not request.stream:
        raise bad_value("Only allowed when 'stream' is true.").at("stream_options")
    if request.top_logprobs is not None and not request.wants_logprobs:
        raise bad_value(f"Only allowed when 'include' has '{LOGPROBS}'.").at("top_logprobs")
    if request.tools:
        _check_tools(request)
    elif request.tool_choice not in (None, ToolChoice("auto"), ToolChoice("none")):
        raise bad_value("Only allowed when 'tools' are given.").at("tool_choice")


def _check_tools(request: ResponseRequest) -> None:
    names = [(tool.name, f"tools[{index}].name") for index, tool in enumerate(request.tools)]
    check_names(names, request.tool_choice)
    if request.constraint() is not None:
        raise bad_value("It cannot be combined with 'tools'.").at("text.format")
    if request.wants_logprobs:
        raise bad_value("Log probabilities cannot be combined with 'tools'.").at("include")
