"""POST /v1/chat/completions: from the bytes of a body to a checked request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, FailFast, Field, PlainValidator, ValidationError

from engine.types import ChatMessage, Constraint, Conversation, Image, Parsing, ReasoningEffort, ToolUse
from gateway.guardian.check import Passage, Passages, Source
from gateway.protocol import refused, strictjson
from gateway.protocol.images import ImagePart, ImageReference, Images, check_images, read_image_url
from gateway.protocol.sampling import (
    INT64_MAX,
    GenerationFields,
    Metadata,
    RequestBounds,
    check_generation,
    nullable_options,
    screen_body,
    without_nulls,
)
from gateway.protocol.structure import ResponseFormatField, StructuredOutputsField, informed
from gateway.protocol.tools import (
    MAX_CALLS,
    MAX_TOOLS,
    FunctionTool,
    MessageToolCall,
    ToolChoiceField,
    check_tools,
    made_calls,
    told_of,
    tool_use,
)
from gateway.protocol.validation import (
    NO_MARKS,
    Problem,
    array_too_long,
    bad_value,
    empty_array,
    first_problem,
    missing,
    not_one_of,
    unsupported,
    wrong_type,
)

MAX_PARTS: Final = 1024
_SOURCES: Final[Mapping[str, Source]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


class TextPart(BaseModel):
    """A piece of text."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"] = Field(description="The kind of the part.")
    text: str = Field(description="The text itself.")


#: A message's text, or pieces of text and images in order; None is for assistants that only called tools.
Pieces = str | tuple[str | ImageReference, ...] | None


def read_content(value: object) -> Pieces:
    """What is in a message.

    Parts that are all text are joined by a newline, as vLLM's renderer does for templates that take strings.
    Source: vLLM 0.32 ``renderers/chat_utils.py``, ``_parse_chat_message_content_parts``.
    """
    if value is None or type(value) is str:
        return value
    if not isinstance(value, list):
        raise wrong_type("a string or an array of content parts", value).within()
    if not value:
        raise empty_array().within()
    if len(value) > MAX_PARTS:
        raise array_too_long(MAX_PARTS, len(value)).within()
    pieces = [_read_part(part, f"[{index}]") for index, part in enumerate(value)]
    texts = [piece for piece in pieces if isinstance(piece, str)]
    return "\n".join(texts) if len(texts) == len(pieces) else tuple(pieces)


def _read_part(part: object, at: str) -> str | ImageReference:
    if not isinstance(part, dict):
        raise wrong_type("an object", part).within(at)
    kind = _part_type(part, at)
    for name, problem in refused.foreign(part, _PART_FIELDS[kind], refused.PART):
        raise problem.within(strictjson.json_path([at, name]))
    if kind == "image_url":
        return read_image_url(part.get("image_url"), f"{at}.image_url")
    text = part.get("text")
    if text is None:
        raise missing().within(f"{at}.text")
    if not isinstance(text, str):
        raise wrong_type("a string", text).within(f"{at}.text")
    return text


def _part_type(part: refused.Fields, at: str) -> str:
    kind = part.get("type")
    if kind is None:
        raise missing().within(f"{at}.type")
    if not isinstance(kind, str):
        raise not_one_of(kind, _PART_TYPES).within(f"{at}.type")
    if kind in _PART_FIELDS:
        return kind
    if kind in refused.MODALITIES:
        raise Problem("unsupported_modality", "Invalid '{path}': only text and images are taken.").within()
    if kind in refused.PART_TYPES:
        raise unsupported(refused.PART_TYPES[kind].hint).within(f"{at}.type")
    raise not_one_of(kind, _PART_TYPES).within(f"{at}.type")


Content = Annotated[
    Pieces,
    PlainValidator(
        read_content,
        json_schema_input_type=str | Annotated[list[TextPart | ImagePart], Field(min_length=1, max_length=MAX_PARTS)],
    ),
]


class Message(BaseModel):
    """One message of the conversation."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra=nullable_options)

    role: Literal["developer", "system", "user", "assistant", "tool"] = Field(description="Who speaks.")
    content: Content = Field(
        None,
        description="The text, or parts: texts, which are joined by newlines, and images. "
        "Required, except for an assistant that called tools.",
    )
    # OpenAI's own pattern for names; it also keeps the marks of chat templates out.
    name: str | None = Field(None, max_length=64, pattern=NO_MARKS, description="Tells speakers of one role apart.")
    tool_calls: Annotated[list[MessageToolCall], FailFast(), Field(max_length=MAX_CALLS)] = Field(
        default_factory=list, description="Of an assistant: the calls that it made."
    )
    tool_call_id: str | None = Field(None, description="Of a tool: the id of the earlier call that it answers.")
    reasoning_content: str | None = Field(None, description="Of an assistant: what it thought.")
    reasoning: str | None = Field(None, description="Another name of `reasoning_content`.")

    @property
    def thought(self) -> str | None:
        """The reasoning, under whichever name it came."""
        return self.reasoning if self.reasoning_content is None else self.reasoning_content

    @property
    def pieces(self) -> Sequence[str | ImageReference]:
        """What is in it, one by one."""
        if self.content is None:
            return ()
        return (self.content,) if isinstance(self.content, str) else self.content

    @property
    def written(self) -> list[str]:
        """The texts in it."""
        return [piece for piece in self.pieces if isinstance(piece, str)]

    def to_engine(self, images: Images) -> ChatMessage:
        """The message as the engine takes it, with the pictures that were fetched for it."""
        calls = made_calls(self.tool_calls)
        return ChatMessage(self.role, self._shown(images), self.name, calls, self.tool_call_id, self.thought)

    def _shown(self, images: Images) -> str | tuple[str | Image, ...]:
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return tuple(piece if isinstance(piece, str) else images[piece.key] for piece in self.content)

    def images(self) -> list[ImageReference]:
        """The images in it, their paths from the message."""
        return [replace(piece, param=f"content{piece.param}") for piece in self.pieces if not isinstance(piece, str)]

    def texts(self) -> list[Passage]:
        """Every text in it that the model would read."""
        source = _SOURCES[self.role]
        calls = [text for call in self.tool_calls for text in (call.function.name, call.function.arguments)]
        texts = (*self.written, self.name, *calls, self.thought)
        ids = (*(call.id for call in self.tool_calls), self.tool_call_id)
        told = [Passage(text, source) for text in texts if text]
        return told + [Passage(each, source, label=True) for each in ids if each]


class ChatCompletionRequest(GenerationFields):
    """A conversation to continue. Optional fields may be null, which means the same as leaving them out."""

    messages: Annotated[list[Message], FailFast(), Field(min_length=1)] = Field(
        description="The conversation so far, at most 2048 messages unless the server is set otherwise."
    )
    max_completion_tokens: int | None = Field(
        None, ge=1, le=INT64_MAX, description="The newer name of `max_tokens`; if both are given they must be equal."
    )
    logprobs: bool = Field(False, description="Return the log probability of each token of the output.")
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="Alternatives to return per token; needs `logprobs: true`."
    )
    metadata: Metadata | None = Field(None, description="Up to 16 labels, kept for logs only.")
    safety_identifier: str | None = Field(
        None, max_length=64, description="A label of your end user, kept for logs only."
    )
    tools: Annotated[list[FunctionTool], FailFast(), Field(min_length=1, max_length=MAX_TOOLS)] = Field(
        default_factory=list, description="Functions that the model may call."
    )
    tool_choice: ToolChoiceField | None = Field(
        None,
        description="`auto`: the model decides; `none`: it is not told of the tools; `required`: it calls at least "
        "one; or the one function that it calls, or those that it may call.",
    )
    parallel_tool_calls: bool | None = Field(None, description="False: at most one call per answer.")
    reasoning_effort: ReasoningEffort | None = Field(
        None, description="How much to think before answering; only for models that reason, `none` for all."
    )
    include_reasoning: bool = Field(True, description="False: what the model thought is left out of the answer.")
    # What follows is documented here and decided in `refused.BODY`: other values are refused by name.
    store: Literal[False] | None = Field(None, description="Completions are never stored.")
    service_tier: Literal["auto", "default"] | None = Field(None, description="There is one tier.")
    modalities: list[Literal["text"]] | None = Field(None, description="Output is text.")
    response_format: ResponseFormatField = Field(
        None, description="Hold the output to JSON, or to a JSON Schema; its grammar lets nothing else through."
    )
    structured_outputs: StructuredOutputsField | None = Field(
        None, description="vLLM's way to hold the output to a schema, a regular expression, choices or a grammar."
    )

    @property
    def requested_max_tokens(self) -> int | None:
        """Tokens per choice that the caller asked for; None leaves it to the server."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def sampled_logprobs(self) -> int | None:
        """Alternatives per token in the answer, or None for no log probabilities."""
        return self.top_logprobs or 0 if self.logprobs else None

    def labels(self) -> Mapping[str, str]:
        """See :meth:`GenerationFields.labels`; labels of ``metadata`` keep their names under ``metadata.``."""
        identifier = {} if self.safety_identifier is None else {"safety_identifier": self.safety_identifier}
        metadata = {f"metadata.{name}": value for name, value in (self.metadata or {}).items()}
        return {**super().labels(), **identifier, **metadata}

    def images(self) -> Sequence[ImageReference]:
        """Every image in it, in order."""
        return images_of(self.messages)

    def conversation(self, images: Images) -> Conversation:
        """The conversation as the engine takes it, with the pictures that were fetched for it."""
        conversation = conversation_of(self.messages, images, self.tool_use(), self.reasoning_effort)
        return replace(conversation, messages=informed(conversation.messages, self.constraint()))

    def tool_use(self) -> ToolUse | None:
        """The tools as the engine takes them."""
        return None if not self.tools else tool_use(self.tools, self.tool_choice, self.parallel_tool_calls)

    def constraint(self) -> Constraint | None:
        """See :meth:`GenerationFields.constraint`."""
        return self.response_format or self.structured_outputs

    def parsing(self) -> Parsing:
        """See :meth:`GenerationFields.parsing`: whether the model reasons is the engine's to know."""
        return Parsing(self.tool_use(), reasoning=True)

    def texts(self) -> Passages:
        """Everything that the model would read: messages, earlier calls, results, and the tools' own words."""
        use = self.tool_use()
        tools = [Passage(text, "tools") for text in told_of(use.tools if use else ())]
        constraint = self.constraint()
        described = [Passage(constraint.description, "system")] if constraint and constraint.description else []
        return [*described, *(text for message in self.messages for text in message.texts()), *tools]


def conversation_of(
    messages: Sequence[Message],
    images: Images,
    tools: ToolUse | None = None,
    effort: ReasoningEffort | None = None,
) -> Conversation:
    """``messages`` as the engine takes them."""
    return Conversation([each.to_engine(images) for each in messages], tools, effort)


def images_of(messages: Sequence[Message]) -> list[ImageReference]:
    """Every image in ``messages``, in order, with the path of its URL."""
    return [
        replace(image, param=f"messages[{index}].{image.param}")
        for index, message in enumerate(messages)
        for image in message.images()
    ]


_FIELDS: Final = (frozenset(ChatCompletionRequest.model_fields) - refused.BODY.keys()) | {"response_format"}
_MESSAGE_FIELDS: Final = frozenset(Message.model_fields)
_PART_FIELDS: Final = {"text": frozenset(TextPart.model_fields), "image_url": frozenset(ImagePart.model_fields)}
_PART_TYPES: Final = "'text' or 'image_url'"


def parse_chat(data: bytes, bounds: RequestBounds) -> ChatCompletionRequest:
    """The request in ``data``. Pure: may run in a worker thread.

    Raises :class:`~gateway.errors.ApiError` 400 that names the field.
    """
    return read_chat(strictjson.loads(data), bounds)


def read_chat(fields: refused.Fields, bounds: RequestBounds) -> ChatCompletionRequest:
    """The same for a body that is decoded already."""
    body = screen_body(fields, _FIELDS)
    messages = body.get("messages")
    if isinstance(messages, list):
        body = {**body, "messages": screen_messages(messages, bounds.max_messages)}
    try:
        request = ChatCompletionRequest.model_validate(body)
    except ValidationError as error:
        raise first_problem(error) from None
    _check_together(request, bounds)
    return request


def screen_messages(messages: list[object], limit: int) -> list[object]:
    """``messages`` without nulls and neutral fields. Raises :class:`~gateway.errors.ApiError` 400 for too many, and for
    roles and fields that are not honoured.
    """
    if len(messages) > limit:
        raise array_too_long(limit, len(messages)).at("messages")
    return [_screen_message(message, index) for index, message in enumerate(messages)]


def _screen_message(message: object, index: int) -> object:
    if not isinstance(message, dict):
        return message
    fields = cast(refused.Fields, message)
    role = fields.get("role")
    if isinstance(role, str) and role in refused.ROLES:
        raise unsupported(refused.ROLES[role].hint).at(f"messages[{index}].role")
    return without_nulls(refused.screen(fields, _MESSAGE_FIELDS, refused.MESSAGE, "messages", index))


def check_messages(messages: Sequence[Message]) -> None:
    """What a message may carry depends on who speaks and what was said before. Raises ApiError 400."""
    called: set[str] = set()
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]", called)
        called.update(call.id for call in message.tool_calls)


def _check_message(message: Message, at: str, called: set[str]) -> None:
    if message.content is None and not (message.role == "assistant" and message.tool_calls):
        raise wrong_type("a string or an array of content parts", None).at(f"{at}.content")
    if message.role != "user" and message.images():
        raise bad_value("Only messages of role 'user' may have images.").at(f"{at}.content")
    if message.role != "assistant":
        for name in ("tool_calls", "reasoning_content", "reasoning"):
            if getattr(message, name):
                raise bad_value("Only messages of role 'assistant' may have it.").at(f"{at}.{name}")
    if message.role == "tool":
        if message.tool_call_id not in called:
            raise bad_value("Expected the 'id' of a call in an earlier message.").at(f"{at}.tool_call_id")
    elif message.tool_call_id is not None:
        raise bad_value("Only messages of role 'tool' may have it.").at(f"{at}.tool_call_id")
    if None not in (message.reasoning, message.reasoning_content) and message.reasoning != message.reasoning_content:
        raise bad_value("It differs from 'reasoning_content'. Send one of them.").at(f"{at}.reasoning")
    ids = [call.id for call in message.tool_calls]
    for place, call_id in enumerate(ids):
        if call_id in called or call_id in ids[:place]:
            raise bad_value("Another call has this id.").at(f"{at}.tool_calls[{place}].id")


def _check_together(request: ChatCompletionRequest, bounds: RequestBounds) -> None:
    check_generation(request, bounds)
    check_messages(request.messages)
    check_images(request.images(), bounds.max_images, "messages")
    check_tools(request.tools, request.tool_choice, request.parallel_tool_calls)
    if request.response_format is not None and request.structured_outputs is not None:
        raise bad_value("It cannot be combined with 'structured_outputs'.").at("response_format")
    if (constraint := request.constraint()) is not None and request.tools:
        raise bad_value("It cannot be combined with 'tools'.").at(constraint.param.split(".")[0])
    if request.max_tokens is not None and request.requested_max_tokens != request.max_tokens:
        raise bad_value("It differs from 'max_completion_tokens'. Send one of them.").at("max_tokens")
    if request.top_logprobs is not None and not request.logprobs:
        raise bad_value("Only allowed when 'logprobs' is true.").at("top_logprobs")
