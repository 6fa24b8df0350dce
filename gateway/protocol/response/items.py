"""The items of a response's input: what was said, called and answered.

Source: OpenAI's OpenAPI document (InputItem, Item, EasyInputMessage, InputMessage, OutputMessage, FunctionToolCall,
FunctionCallOutputItemParam, ReasoningItem). Items of earlier answers are taken back as they were sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from engine.types import ToolCall
from gateway.guardian.check import Passage, Source
from gateway.protocol import refused
from gateway.protocol.encode import new_id
from gateway.protocol.images import Detail, ImageReference, Images
from gateway.protocol.nested import kind_of, read_as, read_fields
from gateway.protocol.sampling import nullable_options
from gateway.protocol.tools import MAX_CALL_ID, FunctionName
from gateway.protocol.transcript import Said, Transcript
from gateway.protocol.validation import Problem, array_too_long, bad_value, empty_array, wrong_type

MAX_PARTS: Final = 1024
MAX_ITEM_ID: Final = 256

_HOSTED: Final = "Only functions of the caller's own are supported as tools."
_COMPACTION: Final = "Compaction is not supported; send the items themselves."
_HOSTED_ITEMS: Final = (
    "file_search_call computer_call computer_call_output web_search_call tool_search_call tool_search_output "
    "image_generation_call code_interpreter_call local_shell_call local_shell_call_output shell_call "
    "shell_call_output apply_patch_call apply_patch_call_output mcp_list_tools mcp_approval_request "
    "mcp_approval_response mcp_call custom_tool_call custom_tool_call_output"
)
_REFUSED_ITEMS: Final[refused.Refusals] = {
    **{kind: refused.Refusal(_HOSTED) for kind in _HOSTED_ITEMS.split()},
    "item_reference": refused.Refusal("Send the item itself, or name its response in 'previous_response_id'."),
    "compaction": refused.Refusal(_COMPACTION),
    "compaction_trigger": refused.Refusal(_COMPACTION),
}
_REFUSED_PARTS: Final[refused.Refusals] = {"refusal": refused.Refusal("Send it as text.")}
_REFUSED_FIELDS: Final[refused.Refusals] = {
    "phase": refused.Refusal("Messages have no phases."),
    "namespace": refused.Refusal(_HOSTED),
    "caller": refused.Refusal(_HOSTED),
    "created_by": refused.Refusal("Leave it out."),
    "encrypted_content": refused.Refusal("Reasoning is sent in the open; send 'content'."),
    "file_id": refused.Refusal("Files are not kept; send 'image_url'."),
    "annotations": refused.Refusal("Annotations are not supported.", ([],)),
    "prompt_cache_breakpoint": refused.Refusal("Prefix caching is automatic and cannot be steered."),
}
_MODALITIES: Final = frozenset({"input_file", "input_audio", "image_url", "file"})

P = TypeVar("P", bound=BaseModel)
Status = Literal["in_progress", "completed", "incomplete"]


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra=nullable_options)


class TextPart(_Fields):
    """A piece of text."""

    type: Literal["input_text", "output_text"] = Field(description="The kind of the part.")
    text: str = Field(description="The text itself.")
    logprobs: list[dict[str, Any]] | None = Field(None, description="Of an earlier answer; the model is not told.")


class ImageItemPart(_Fields):
    """An image; only in messages of users, and for models that see."""

    type: Literal["input_image"] = Field(description="The kind of the part.")
    image_url: str = Field(
        description="A `data:` URL with a base64 PNG, JPEG, WebP or GIF, or an http(s) URL that the server may fetch."
    )
    detail: Detail = Field("auto", description="`low`: seen at most 512 pixels wide and high.")

    def reference(self, at: str) -> ImageReference:
        """What is fetched; ``at`` is where the part stands."""
        return ImageReference(self.image_url, self.detail, f"{at}.image_url")


class ReasoningPart(_Fields):
    """A piece of what the model thought."""

    type: Literal["reasoning_text", "summary_text"] = Field(description="The kind of the part.")
    text: str = Field(description="The text itself.")


def _parts_of(known: Mapping[str, type[P]]) -> Callable[[object], tuple[P, ...]]:

    def read(value: object) -> tuple[P, ...]:
        if not isinstance(value, list):
            raise wrong_type("an array of content parts", value).within()
        if len(value) > MAX_PARTS:
            raise array_too_long(MAX_PARTS, len(value)).within()
        return tuple(part(each, f"[{index}]") for index, each in enumerate(value))

    def part(value: object, at: str) -> P:
        fields = read_fields(value, at)
        if fields.get("type") in _MODALITIES:
            raise Problem("unsupported_modality", "Invalid '{path}': only text and images are taken.").within(at)
        return read_as(known[kind_of(fields, known, _REFUSED_PARTS, at)], fields, _REFUSED_FIELDS, at)

    return read


Part = TextPart | ImageItemPart
_TEXTS: Final[dict[str, type[TextPart]]] = {"input_text": TextPart, "output_text": TextPart}
_PARTS: Final[dict[str, type[Part]]] = {**_TEXTS, "input_image": ImageItemPart}
_reasoning_parts: Final = _parts_of({"reasoning_text": ReasoningPart, "summary_text": ReasoningPart})


def _or_text(read: Callable[[object], tuple[P, ...]]) -> Callable[[object], str | tuple[P, ...]]:
    def either(value: object) -> str | tuple[P, ...]:
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise wrong_type("a string or an array of content parts", value).within()
        return read(value)

    return either


Content = Annotated[
    str | tuple[Part, ...],
    PlainValidator(
        _or_text(_parts_of(_PARTS)), json_schema_input_type=str | Annotated[list[Part], Field(max_length=MAX_PARTS)]
    ),
]
Output = Annotated[
    str | tuple[TextPart, ...],
    PlainValidator(
        _or_text(_parts_of(_TEXTS)), json_schema_input_type=str | Annotated[list[TextPart], Field(max_length=MAX_PARTS)]
    ),
]
ReasoningContent = Annotated[
    tuple[ReasoningPart, ...], PlainValidator(_reasoning_parts, json_schema_input_type=list[ReasoningPart])
]
ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ITEM_ID)]
CallId = Annotated[str, Field(min_length=1, max_length=MAX_CALL_ID)]


def _shown(content: str | Sequence[Part], images: Images) -> Said:
    """Texts and pictures in order; texts alone as one."""
    if isinstance(content, str):
        return content
    pieces = [part.text if isinstance(part, TextPart) else images[part.reference("").key] for part in content]
    texts = [piece for piece in pieces if isinstance(piece, str)]
    return "\n".join(texts) if len(texts) == len(pieces) else tuple(pieces)


def _joined(content: str | Sequence[TextPart] | Sequence[ReasoningPart]) -> str:
    """Parts are joined by a newline, as those of chat messages are."""
    return content if isinstance(content, str) else "\n".join([part.text for part in content])


def _passages(content: str | Sequence[Part] | Sequence[ReasoningPart], source: Source) -> list[Passage]:
    """Piece by piece, so that a guard can take a piece out."""
    parts = () if isinstance(content, str) else content
    texts = [content] if isinstance(content, str) else [p.text for p in parts if not isinstance(p, ImageItemPart)]
    return [Passage(text, source) for text in texts if text]


class MessageItem(_Fields):
    """Something that somebody said."""

    type: Literal["message"] = Field("message", description="The kind of the item; may be left out.")
    id: ItemId | None = Field(None, description="The item's own id.")
    role: Literal["user", "assistant", "system", "developer"] = Field(description="Who speaks.")
    content: Content = Field(
        description="The text, or parts: texts, which are joined by newlines, and images, which only users send."
    )
    status: Status | None = Field(None, description="Of an earlier answer's item; the model is not told.")

    def tell(self, transcript: Transcript, at: str, images: Images) -> None:  # noqa: ARG002 - the items' common form
        """Add it to the conversation."""
        if self.role == "assistant":
            transcript.answer(_shown(self.content, images))
        else:
            transcript.say(self.role, _shown(self.content, images))

    def images(self, at: str) -> list[ImageReference]:
        """The images in it; ``at`` is where it stands. Raises :class:`~gateway.errors.ApiError` 400."""
        parts = () if isinstance(self.content, str) else self.content
        found = [
            part.reference(f"{at}.content[{place}]")
            for place, part in enumerate(parts)
            if isinstance(part, ImageItemPart)
        ]
        if found and self.role != "user":
            raise bad_value("Only messages of role 'user' may have images.").at(f"{at}.content")
        return found

    def passages(self) -> list[Passage]:
        """Every text in it that the model would read."""
        return _passages(self.content, "system" if self.role == "developer" else self.role)

    def wire(self) -> dict[str, Any]:
        """As it is listed and kept."""
        of_model = self.role == "assistant"
        part = {"type": "output_text", "annotations": [], "logprobs": []} if of_model else {"type": "input_text"}
        pieces = [self.content] if isinstance(self.content, str) else self.content
        return {
            "type": "message",
            "id": self.id or new_id("msg_"),
            "role": self.role,
            "status": self.status or "completed",
            "content": [
                piece.model_dump()
                if isinstance(piece, ImageItemPart)
                else {**part, "text": piece if isinstance(piece, str) else piece.text}
                for piece in pieces
            ],
        }


class FunctionCallItem(_Fields):
    """A call that the model made earlier."""

    type: Literal["function_call"] = Field(description="The kind of the item.")
    id: ItemId | None = Field(None, description="The item's own id.")
    call_id: CallId = Field(description="What a `function_call_output` answers it by.")
    name: FunctionName = Field(description="The function's name.")
    arguments: str = Field(description="The arguments, as the JSON text that the model wrote.")
    status: Status | None = Field(None, description="Of an earlier answer's item; the model is not told.")

    def tell(self, transcript: Transcript, at: str, images: Images) -> None:  # noqa: ARG002 - the items' common form
        """Add it to the conversation."""
        transcript.call(ToolCall(self.call_id, self.name, self.arguments), f"{at}.call_id")

    def passages(self) -> list[Passage]:
        """Every text in it that the model would read."""
        told = [Passage(text, "assistant") for text in (self.name, self.arguments) if text]
        return [*told, Passage(self.call_id, "assistant", label=True)]

    def wire(self) -> dict[str, Any]:
        """As it is listed and kept."""
        named = {"call_id": self.call_id, "name": self.name, "arguments": self.arguments}
        return {"type": self.type, "id": self.id or new_id("fc_"), **named, "status": self.status or "completed"}


class FunctionCallOutputItem(_Fields):
    """What came of a call."""

    type: Literal["function_call_output"] = Field(description="The kind of the item.")
    id: ItemId | None = Field(None, description="The item's own id.")
    call_id: CallId = Field(description="The call that it answers.")
    output: Output = Field(description="The result: a text, or text parts, which are joined by newlines.")
    status: Status | None = Field(None, description="The model is not told.")

    def tell(self, transcript: Transcript, at: str, images: Images) -> None:  # noqa: ARG002 - the items' common form
        """Add it to the conversation."""
        transcript.result(self.call_id, _joined(self.output), f"{at}.call_id")

    def passages(self) -> list[Passage]:
        """Every text in it that the model would read."""
        return [*_passages(self.output, "tool"), Passage(self.call_id, "tool", label=True)]

    def wire(self) -> dict[str, Any]:
        """As it is listed and kept."""
        named = {"call_id": self.call_id, "output": _joined(self.output)}
        return {"type": self.type, "id": self.id or new_id("fco_"), **named, "status": self.status or "completed"}


class ReasoningItem(_Fields):
    """What the model thought earlier."""

    type: Literal["reasoning"] = Field(description="The kind of the item.")
    id: ItemId | None = Field(None, description="The item's own id.")
    summary: ReasoningContent = Field((), description="Told to the model where there is no `content`.")
    content: ReasoningContent = Field((), description="The thoughts.")
    status: Status | None = Field(None, description="Of an earlier answer's item; the model is not told.")

    def tell(self, transcript: Transcript, at: str, images: Images) -> None:  # noqa: ARG002 - the items' common form
        """Add it to the conversation."""
        text = _joined(self.content or self.summary)
        if text:
            transcript.think(text)

    def passages(self) -> list[Passage]:
        """Every text in it that the model would read."""
        return _passages(self.content or self.summary, "assistant")

    def wire(self) -> dict[str, Any]:
        """As it is listed and kept."""
        parts = {name: [part.model_dump() for part in getattr(self, name)] for name in ("summary", "content")}
        return {"type": self.type, "id": self.id or new_id("rs_"), **parts, "status": self.status or "completed"}


Item = MessageItem | FunctionCallItem | FunctionCallOutputItem | ReasoningItem
_KINDS: Final[dict[str, type[Item]]] = {
    "message": MessageItem,
    "function_call": FunctionCallItem,
    "function_call_output": FunctionCallOutputItem,
    "reasoning": ReasoningItem,
}


def read_item(value: object, at: str) -> Item:
    """One checked item. Raises the problem at its place below the field."""
    fields = read_fields(value, at)
    if "type" not in fields:
        # OpenAI takes messages and references without a type.
        fields = {"type": "item_reference" if fields.keys() == {"id"} else "message", **fields}
    model = _KINDS[kind_of(fields, _KINDS, _REFUSED_ITEMS, at)]
    return read_as(model, fields, _REFUSED_FIELDS, at)


def read_input(value: object) -> tuple[Item, ...]:
    """A checked ``input``: a text is a user's message."""
    if isinstance(value, str):
        return (MessageItem(role="user", content=value),)
    if not isinstance(value, list):
        raise wrong_type("a string or an array of items", value).within()
    if not value:
        raise empty_array().within()
    return tuple(read_item(each, f"[{index}]") for index, each in enumerate(value))


def check_ids(items: Sequence[Item]) -> None:
    """No two items may have one id. Raises :class:`~gateway.errors.ApiError` 400."""
    seen: set[str] = set()
    for index, item in enumerate(items):
        if item.id is not None and item.id in seen:
            raise bad_value("Another item has this id.").at(f"input[{index}].id")
        seen.add(item.id or "")


InputField = Annotated[
    tuple[Item, ...],
    PlainValidator(read_input, json_schema_input_type=str | Annotated[list[Item], Field(min_length=1)]),
]
