"""What /v1/messages answers, for the OpenAPI document only: answers are encoded from templates, never from these.

They say what Anthropic's document says (Message, MessageStreamEvent), less what this server never sends. A field
without a default is always there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextAnswer(_Answer):
    """What the model said."""

    type: Literal["text"] = Field(description="Always `text`.")
    text: str = Field(description="The text.")
    citations: None = Field(description="Always null.")


class ThinkingAnswer(_Answer):
    """What the model thought."""

    type: Literal["thinking"] = Field(description="Always `thinking`.")
    thinking: str = Field(description="The thoughts.")
    signature: str = Field(max_length=0, description="Always empty: thoughts are sent in the open.")


class ToolUseAnswer(_Answer):
    """A call that the model makes."""

    type: Literal["tool_use"] = Field(description="Always `tool_use`.")
    id: str = Field(description="Begins with `toolu_`; a `tool_result` answers it by this.")
    name: str = Field(description="One of the request's tools.")
    input: dict[str, Any] = Field(description="The arguments; as far as they go where the tokens ran out.")
    caller: dict[str, str] = Field(description="Always the model itself.")


AnswerBlock = Annotated[TextAnswer | ThinkingAnswer | ToolUseAnswer, Field(discriminator="type")]


class ThinkingTokens(_Answer):
    """What the output's tokens were spent on."""

    thinking_tokens: int = Field(ge=0, description="The model thought with them.")


class MessageUsage(_Answer):
    """Tokens used."""

    input_tokens: int = Field(ge=0, description="Tokens of the prompt that were not cached.")
    cache_read_input_tokens: int = Field(ge=0, description="Tokens of the prompt found in the prefix cache.")
    cache_creation_input_tokens: int = Field(ge=0, description="Always 0: what is cached costs nothing more.")
    output_tokens: int = Field(ge=0, description="Tokens generated.")
    output_tokens_details: ThinkingTokens | None = Field(description="Only where the model reasoned.")
    server_tool_use: None = Field(description="Always null.")
    cache_creation: None = Field(description="Always null.")
    inference_geo: None = Field(description="Always null.")
    service_tier: Literal["standard"] = Field(description="Always `standard`.")


class AnsweredMessage(_Answer):
    """The answer of /v1/messages."""

    id: str = Field(description="Unique; begins with `msg_`.")
    type: Literal["message"] = Field(description="Always `message`.")
    role: Literal["assistant"] = Field(description="Always `assistant`.")
    model: str = Field(description="The model that answered.")
    content: list[AnswerBlock] = Field(description="What it thought, said and called, in order.")
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"] | None = Field(
        description="Why it ended; `refusal`: the guard cut it short. Null in a stream's first event."
    )
    stop_sequence: str | None = Field(description="The one of `stop_sequences` that ended it.")
    stop_details: None = Field(description="Always null.")
    container: None = Field(description="Always null.")
    usage: MessageUsage = Field(description="Tokens used.")


class MessageEvent(_Answer):
    """One event of a streamed message: `message_start`, blocks as they grow (`content_block_start`, `_delta`, `_stop`),
    `ping`, and at last `message_delta` and `message_stop`, or `error`. There is no `[DONE]`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = Field(description="What happened, as in `content_block_delta`; also the event's name.")
    message: AnsweredMessage | None = Field(None, description="In `message_start`.")
    index: int | None = Field(None, description="In events about a block: its place in `content`.")
    delta: dict[str, Any] | None = Field(None, description="What a block, or the message, gained.")


class TokenCount(_Answer):
    """The answer of /v1/messages/count_tokens."""

    input_tokens: int = Field(ge=0, description="Tokens of the prompt.")
