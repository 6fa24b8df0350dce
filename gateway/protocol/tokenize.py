"""POST /v1/tokenize and /v1/detokenize: from the bytes of a body to a checked request, and what is answered.

The fields are those of vLLM 0.32's ``/tokenize`` and ``/detokenize`` (``entrypoints/serve/tokenize/protocol.py``), as
far as they are honoured; the others are refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from engine.types import ToolUse
from gateway.protocol import refused, strictjson
from gateway.protocol.chat import Message, check_messages, images_of, screen_messages
from gateway.protocol.images import ImageReference, check_images
from gateway.protocol.sampling import ModelName, RequestBounds, nullable_options, without_nulls
from gateway.protocol.tools import MAX_TOOLS, FunctionTool, check_tools, tool_use
from gateway.protocol.validation import array_too_long, bad_value, first_problem, missing

MAX_TOKEN_ID: Final = 2**31 - 1
MAX_TOKENS: Final = 1_000_000

M = TypeVar("M", bound=BaseModel)

_REFUSED: Final[refused.Refusals] = {
    **refused.BODY,
    "add_generation_prompt": refused.Refusal("It is always added, as the model is asked to answer.", (True,)),
    "return_token_strs": refused.Refusal("It belongs to /v1/tokenize.", (False,)),
}


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra=nullable_options)

    model: ModelName = Field(description="A model id as listed by /v1/models.")


class TokenizeRequest(_Request):
    """A text or a conversation to be turned into token ids: exactly what the model would be given."""

    prompt: str | None = Field(None, description="A text, as of /v1/completions.")
    messages: Annotated[list[Message], FailFast(), Field(min_length=1)] = Field(
        default_factory=list,
        description="A conversation instead, as of /v1/chat/completions: rendered by the chat template.",
    )
    tools: Annotated[list[FunctionTool], FailFast(), Field(min_length=1, max_length=MAX_TOOLS)] = Field(
        default_factory=list, description="Functions that the model may call; only with `messages`."
    )
    add_special_tokens: bool = Field(
        True, description="Add the tokens that begin or end every text; only with `prompt`, templates bring their own."
    )
    return_token_strs: bool = Field(False, description="Return each token as the tokeniser spells it, too.")

    def tool_use(self) -> ToolUse | None:
        """The tools as the engine takes them."""
        return None if not self.tools else tool_use(self.tools, None, None)

    def images(self) -> list[ImageReference]:
        """Every image in it, in order."""
        return images_of(self.messages)


class DetokenizeRequest(_Request):
    """Token ids to be turned into text."""

    tokens: Annotated[list[Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]], FailFast()] = Field(
        max_length=MAX_TOKENS, description="Token ids of the model's vocabulary."
    )


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tokens(_Answer):
    """The answer of /v1/tokenize."""

    count: int = Field(ge=0, description="How many tokens there are.")
    max_model_len: int = Field(ge=0, description="The model's context, in tokens.")
    tokens: list[int] = Field(description="Their ids.")
    token_strs: list[str] | None = Field(description="As the tokeniser spells them; null unless asked for.")


class Text(_Answer):
    """The answer of /v1/detokenize."""

    prompt: str = Field(description="The text, special tokens spelled out.")


_TOKENIZE: Final = frozenset(TokenizeRequest.model_fields)
_DETOKENIZE: Final = frozenset(DetokenizeRequest.model_fields)


def parse_tokenize(data: bytes, bounds: RequestBounds) -> TokenizeRequest:
    """The request in ``data``. Pure: may run in a worker thread. Raises :class:`~gateway.errors.ApiError` 400."""
    body = without_nulls(refused.screen(strictjson.loads(data), _TOKENIZE, _REFUSED))
    messages = body.get("messages")
    if isinstance(messages, list):
        body = {**body, "messages": screen_messages(messages, bounds.max_messages)}
    request = _checked(TokenizeRequest, body)
    if not request.messages:
        if request.prompt is None:
            raise missing().at("prompt")
        if request.tools:
            raise bad_value("Only allowed with 'messages'.").at("tools")
        return request
    check_messages(request.messages)
    check_images(request.images(), bounds.max_images, "messages")
    check_tools(request.tools, None, None)
    if request.prompt is not None:
        raise bad_value("Send either 'prompt' or 'messages'.").at("messages")
    if "add_special_tokens" in request.model_fields_set:
        raise bad_value("Only allowed with 'prompt'.").at("add_special_tokens")
    return request


def parse_detokenize(data: bytes, bounds: RequestBounds) -> DetokenizeRequest:  # noqa: ARG001 - one shape for all
    """The request in ``data``. Pure: may run in a worker thread. Raises :class:`~gateway.errors.ApiError` 400."""
    body = without_nulls(refused.screen(strictjson.loads(data), _DETOKENIZE, _REFUSED))
    tokens = body.get("tokens")
    if isinstance(tokens, list) and len(tokens) > MAX_TOKENS:
        raise array_too_long(MAX_TOKENS, len(tokens)).at("tokens")
    return _checked(DetokenizeRequest, body)


def _checked(model: type[M], body: dict[str, Any]) -> M:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise first_problem(error) from None
