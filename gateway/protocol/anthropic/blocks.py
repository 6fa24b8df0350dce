"""Messages and their content blocks.

Source: Anthropic's OpenAPI document (InputMessage, RequestTextBlock, RequestToolUseBlock, RequestToolResultBlock,
RequestThinkingBlock).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator

from engine.types import Image, ToolCall
from gateway.guardian.check import Passage, Source
from gateway.protocol import refused
from gateway.protocol.images import ImageReference, Images
from gateway.protocol.nested import kind_of, read_as, read_fields
from gateway.protocol.sampling import nullable_options
from gateway.protocol.tools import MAX_CALL_ID, FunctionName, read_finite, written
from gateway.protocol.transcript import Said, Transcript
from gateway.protocol.validation import Problem, array_too_long, bad_value, empty_array, wrong_type

MAX_BLOCKS: Final = 1024
#: What a tool's failure is told to the model as: chat templates have no other word for it.
ERROR_MARK: Final = "Error: "

_MEDIA: Final = frozenset({"document", "container_upload"})
_HOSTED: Final = "Only tools of the caller's own are supported."
_HOSTED_BLOCKS: Final = (
    "server_tool_use web_search_tool_result web_fetch_tool_result code_execution_tool_result "
    "bash_code_execution_tool_result text_editor_code_execution_tool_result tool_search_tool_result tool_reference"
)
_REFUSED_BLOCKS: Final[refused.Refusals] = {
    **{kind: refused.Refusal(_HOSTED) for kind in _HOSTED_BLOCKS.split()},
    "search_result": refused.Refusal("Send it as text."),
    "redacted_thinking": refused.Refusal("Thoughts are sent in the open; send blocks of type 'thinking'."),
    "mid_conv_system": refused.Refusal("Send a message of role 'system'."),
}
#: Every prefix is cached as it is, which is what an ephemeral breakpoint asks for.
CACHE_CONTROL: Final = refused.Refusal(
    "Prefix caching is automatic; only {'type': 'ephemeral'} is supported.", ({"type": "ephemeral"},)
)
_REFUSED_FIELDS: Final[refused.Refusals] = {
    "cache_control": CACHE_CONTROL,
    "citations": refused.Refusal("Citations are not supported.", ([],)),
    "caller": refused.Refusal(_HOSTED, ({"type": "direct"},)),
}


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra=nullable_options)


class TextBlock(_Fields):
    """A piece of text."""

    type: Literal["text"] = Field(description="The kind of the block.")
    text: str = Field(description="The text itself.")


class Base64Source(_Fields):
    """The image itself."""

    type: Literal["base64"] = Field(description="The kind of the source.")
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"] = Field(description="What it is.")
    data: str = Field(description="Its bytes in base64.")

    @cached_property
    def url(self) -> str:
        """The image as a `data:` URL."""
        return f"data:{self.media_type};base64,{self.data}"


class UrlSource(_Fields):
    """Where the image is."""

    type: Literal["url"] = Field(description="The kind of the source.")
    url: str = Field(description="An http(s) URL that the server may fetch.")


ImageSource = Base64Source | UrlSource
_SOURCES: Final[dict[str, type[ImageSource]]] = {"base64": Base64Source, "url": UrlSource}
_FILES: Final[refused.Refusals] = {"file": refused.Refusal("Files are not kept; send 'base64' or 'url'.")}


def _image_source(value: object) -> ImageSource:
    fields = read_fields(value, "")
    return read_as(_SOURCES[kind_of(fields, _SOURCES, _FILES, "")], fields, {}, "")


class ImageBlock(_Fields):
    """Of a user: an image, for models that see."""

    type: Literal["image"] = Field(description="The kind of the block.")
    source: Annotated[ImageSource, PlainValidator(_image_source, json_schema_input_type=ImageSource)] = Field(
        description="The image."
    )

    def reference(self, at: str) -> ImageReference:
        """What is fetched; ``at`` is where the block stands."""
        return ImageReference(self.source.url, "auto", f"{at}.source")


class ThinkingBlock(_Fields):
    """Of an assistant: what it thought."""

    type: Literal["thinking"] = Field(description="The kind of the block.")
    thinking: str = Field(description="The thoughts.")
    signature: str = Field("", description="As it came; not looked at.")


class ToolUseBlock(_Fields):
    """Of an assistant: a call that it made."""

    type: Literal["tool_use"] = Field(description="The kind of the block.")
    id: Annotated[str, Field(min_length=1, max_length=MAX_CALL_ID)] = Field(
        description="What a `tool_result` answers it by."
    )
    name: FunctionName = Field(description="The tool's name.")
    input: Annotated[dict[str, Any], AfterValidator(read_finite)] = Field(description="The arguments.")


def _result_content(value: object) -> str:
    return read_text(value, "a string or an array of content blocks")


class ToolResultBlock(_Fields):
    """Of a user: what came of a call."""

    type: Literal["tool_result"] = Field(description="The kind of the block.")
    tool_use_id: Annotated[str, Field(min_length=1, max_length=MAX_CALL_ID)] = Field(
        description="The call that it answers."
    )
    content: Annotated[
        str,
        PlainValidator(
            _result_content, json_schema_input_type=str | Annotated[list[TextBlock], Field(max_length=MAX_BLOCKS)]
        ),
    ] = Field("", description="The result: a text, or text blocks, which are joined by newlines.")
    is_error: bool = Field(False, description=f"The call failed: the model is told `{ERROR_MARK}` and the content.")


Block = TextBlock | ImageBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock
_KINDS: Final[dict[str, type[Block]]] = {
    "text": TextBlock,
    "image": ImageBlock,
    "thinking": ThinkingBlock,
    "tool_use": ToolUseBlock,
    "tool_result": ToolResultBlock,
}
_TEXT: Final = {"text": TextBlock}


def _fields_of(value: object, at: str) -> refused.Fields:
    fields = read_fields(value, at)
    if fields.get("type") in _MEDIA:
        raise Problem("unsupported_modality", "Invalid '{path}': only text and images are taken.").within(at)
    return fields


def _array(value: object, expected: str) -> list[object]:
    if not isinstance(value, list):
        raise wrong_type(expected, value).within()
    if len(value) > MAX_BLOCKS:
        raise array_too_long(MAX_BLOCKS, len(value)).within()
    return value


def read_text(value: object, expected: str) -> str:
    """A text, or text blocks joined by newlines. ``expected`` for an error, with its article."""
    if isinstance(value, str):
        return value
    return "\n".join([_text(each, f"[{index}]") for index, each in enumerate(_array(value, expected))])


def _text(value: object, at: str) -> str:
    fields = _fields_of(value, at)
    kind_of(fields, _TEXT, {**_REFUSED_BLOCKS, **_NOT_HERE}, at)
    return read_as(TextBlock, fields, _REFUSED_FIELDS, at).text


_NOT_HERE: Final[refused.Refusals] = {
    kind: refused.Refusal("Only text can stand here.") for kind in ("image", "thinking", "tool_use", "tool_result")
}


def read_blocks(value: object) -> str | tuple[Block, ...]:
    """A message's checked content."""
    if isinstance(value, str):
        return value
    blocks = _array(value, "a string or an array of content blocks")
    if not blocks:
        raise empty_array().within()
    return tuple(_block(each, f"[{index}]") for index, each in enumerate(blocks))


def _block(value: object, at: str) -> Block:
    fields = _fields_of(value, at)
    return read_as(_KINDS[kind_of(fields, _KINDS, _REFUSED_BLOCKS, at)], fields, _REFUSED_FIELDS, at)


class InputMessage(_Fields):
    """One message of the conversation."""

    role: Literal["user", "assistant", "system"] = Field(description="Who speaks.")
    content: Annotated[
        str | tuple[Block, ...],
        PlainValidator(
            read_blocks,
            json_schema_input_type=str | Annotated[list[Block], Field(min_length=1, max_length=MAX_BLOCKS)],
        ),
    ] = Field(description="The text, or blocks. Neighbouring text blocks are joined by newlines.")

    def images(self, at: str) -> list[ImageReference]:
        """The images in it; ``at`` is where it stands."""
        blocks = () if isinstance(self.content, str) else self.content
        return [
            block.reference(f"{at}.content[{place}]")
            for place, block in enumerate(blocks)
            if isinstance(block, ImageBlock)
        ]

    def tell(self, transcript: Transcript, at: str, images: Images) -> None:
        """Add it to the conversation. Raises :class:`~gateway.errors.ApiError` 400."""
        if isinstance(self.content, str):
            self._say(transcript, self.content)
            return
        for index, piece in _joined(self.content, images):
            if isinstance(piece, str | tuple):
                self._say(transcript, piece)
            else:
                self._tell_block(transcript, piece, f"{at}.content[{index}]")

    def passages(self) -> list[Passage]:
        """Every text in it that the model would read, piece by piece, so that a guard can take a piece out."""
        if isinstance(self.content, str):
            return [Passage(self.content, self.role)] if self.content else []
        return [passage for block in self.content for passage in _passages(block, self.role)]

    def _say(self, transcript: Transcript, said: Said) -> None:
        if self.role == "assistant":
            transcript.answer(said)
        else:
            transcript.say(self.role, said)

    def _tell_block(
        self, transcript: Transcript, block: ThinkingBlock | ToolUseBlock | ToolResultBlock, at: str
    ) -> None:
        speaker = "user" if isinstance(block, ToolResultBlock) else "assistant"
        if self.role != speaker:
            raise bad_value(f"Only messages of role '{speaker}' may have it.").at(at)
        match block:
            case ThinkingBlock():
                transcript.think(block.thinking)
            case ToolUseBlock():
                transcript.call(ToolCall(block.id, block.name, written(block.input)), f"{at}.id")
            case ToolResultBlock():
                text = f"{ERROR_MARK}{block.content}" if block.is_error else block.content
                transcript.result(block.tool_use_id, text, f"{at}.tool_use_id")


def _passages(block: Block, role: Source) -> list[Passage]:
    call: str | None = None
    match block:
        case TextBlock():
            texts, source = [block.text], role
        case ImageBlock():
            texts, source = [], role
        case ThinkingBlock():
            texts, source = [block.thinking], "assistant"
        case ToolUseBlock():
            texts, source, call = [block.name, written(block.input)], "assistant", block.id
        case ToolResultBlock():
            texts, source, call = [block.content], "tool", block.tool_use_id
    told = [Passage(text, source) for text in texts if text]
    return told if call is None else [*told, Passage(call, source, label=True)]


Other = ThinkingBlock | ToolUseBlock | ToolResultBlock


def _joined(blocks: Sequence[Block], images: Images) -> Iterator[tuple[int, Said | Other]]:
    """The blocks with their places; neighbouring texts and images as one."""
    pieces: list[str | Image] = []
    for index, block in enumerate(blocks):
        match block:
            case TextBlock():
                pieces.append(block.text)
            case ImageBlock():
                pieces.append(images[block.reference("").key])
            case _:
                if pieces:
                    yield index - 1, _said(pieces)
                    pieces = []
                yield index, block
    if pieces:
        yield len(blocks) - 1, _said(pieces)


def _said(pieces: Sequence[str | Image]) -> Said:
    texts = [piece for piece in pieces if isinstance(piece, str)]
    return "\n".join(texts) if len(texts) == len(pieces) else tuple(pieces)
