"""What /v1/responses answers, for the OpenAPI document only: answers are encoded from templates, never from these.

They say what OpenAI's document says (Response, ResponseItemList), less what this server never sends. A field without a
default is always there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.protocol.response.options import ResponseTool
from gateway.protocol.responses import TokenLogprob

Status = Literal["in_progress", "completed", "incomplete"]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OutputText(_Answer):
    """What the model said."""

    type: Literal["output_text"] = Field(description="Always `output_text`.")
    text: str = Field(description="The text.")
    annotations: list[dict[str, Any]] = Field(max_length=0, description="Always empty.")
    logprobs: list[TokenLogprob] = Field(description="Empty unless `include` asks for them.")


class OutputMessage(_Answer):
    """A message of the model."""

    type: Literal["message"] = Field(description="Always `message`.")
    id: str = Field(description="Begins with `msg_`.")
    status: Status = Field(description="`incomplete`: the tokens ran out in it.")
    role: Literal["assistant"] = Field(description="Always `assistant`.")
    content: list[OutputText] = Field(description="One part; none while it has just begun.")


class ReasoningText(_Answer):
    """What the model thought."""

    type: Literal["reasoning_text"] = Field(description="Always `reasoning_text`.")
    text: str = Field(description="The thoughts.")


class OutputReasoning(_Answer):
    """Thoughts of the model."""

    type: Literal["reasoning"] = Field(description="Always `reasoning`.")
    id: str = Field(description="Begins with `rs_`.")
    status: Status = Field(description="`incomplete`: the tokens ran out in it.")
    summary: list[dict[str, Any]] = Field(max_length=0, description="Always empty.")
    content: list[ReasoningText] = Field(description="One part; none while it has just begun.")


class OutputCall(_Answer):
    """A function call of the model."""

    type: Literal["function_call"] = Field(description="Always `function_call`.")
    id: str = Field(description="Begins with `fc_`.")
    call_id: str = Field(description="Begins with `call_`; a `function_call_output` answers it by this.")
    name: str = Field(description="One of the request's tools.")
    arguments: str = Field(description="The arguments as JSON text; cut short if `status` is `incomplete`.")
    status: Status = Field(description="`incomplete`: the tokens ran out in it.")


OutputItem = Annotated[OutputMessage | OutputReasoning | OutputCall, Field(discriminator="type")]


class InputTokensDetails(_Answer):
    """Where the input's tokens came from."""

    cached_tokens: int = Field(ge=0, description="Found in the prefix cache.")
    cache_write_tokens: int = Field(ge=0, description="Always 0: what is cached costs nothing more.")


class OutputTokensDetails(_Answer):
    """What the output's tokens were spent on."""

    reasoning_tokens: int = Field(ge=0, description="The model thought with them.")


class ResponseUsage(_Answer):
    """Tokens used."""

    input_tokens: int = Field(ge=0, description="Tokens of everything the model was told.")
    input_tokens_details: InputTokensDetails = Field(description="Of these.")
    output_tokens: int = Field(ge=0, description="Tokens generated.")
    output_tokens_details: OutputTokensDetails = Field(description="Of these.")
    total_tokens: int = Field(ge=0, description="The sum of both.")


class ResponseError(_Answer):
    """Why it failed."""

    code: Literal["server_error"] = Field(description="Always `server_error`.")
    message: str = Field(description="For a person.")


class IncompleteDetails(_Answer):
    """Why it is incomplete."""

    reason: Literal["max_output_tokens", "content_filter"] = Field(
        description="The tokens ran out, or the guard cut it short."
    )


class UsedReasoning(_Answer):
    """How it thought."""

    effort: str | None = Field(description="As asked for.")
    summary: None = Field(description="Always null.")


class Response(_Answer):
    """The answer of /v1/responses."""

    id: str = Field(description="Unique; begins with `resp_`.")
    object: Literal["response"] = Field(description="Always `response`.")
    created_at: int = Field(description="Unix time in seconds.")
    completed_at: int | None = Field(description="Unix time in seconds; null before the end, and where it failed.")
    status: Literal["in_progress", "completed", "incomplete", "failed"] = Field(description="What became of it.")
    background: Literal[False] = Field(description="Always false.")
    error: ResponseError | None = Field(description="Only where it failed, which only streams can say.")
    incomplete_details: IncompleteDetails | None = Field(description="Only where it is incomplete.")
    model: str = Field(description="The model that answered.")
    output: list[OutputItem] = Field(description="What it thought, said and called, in order.")
    store: bool = Field(description="Whether it was kept: false also where keeping it failed.")
    instructions: str | None = Field(description="As asked for.")
    max_output_tokens: int | None = Field(description="As asked for.")
    max_tool_calls: None = Field(description="Always null.")
    metadata: dict[str, str] = Field(description="As sent.")
    parallel_tool_calls: bool = Field(description="As asked for.")
    previous_response_id: str | None = Field(description="As sent.")
    reasoning: UsedReasoning = Field(description="As asked for.")
    service_tier: Literal["default"] = Field(description="Always `default`.")
    temperature: float = Field(description="As asked for, or the default.")
    text: dict[str, Any] = Field(description="As asked for.")
    tool_choice: str | dict[str, Any] = Field(description="As asked for, or the default.")
    tools: list[ResponseTool] = Field(description="As sent.")
    top_logprobs: int = Field(description="As asked for, or 0.")
    top_p: float = Field(description="As asked for, or the default.")
    truncation: Literal["disabled"] = Field(description="Always `disabled`.")
    user: str | None = Field(None, description="As sent.")
    safety_identifier: str | None = Field(None, description="As sent.")
    usage: ResponseUsage | None = Field(None, description="Tokens used; absent before the end.")


class ResponseEvent(_Answer):
    """One event of a streamed response: `response.created`, `response.in_progress`, items and their parts as they grow,
    and at last `response.completed`, `response.incomplete` or `response.failed`. There is no `[DONE]`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = Field(description="What happened, as in `response.output_text.delta`; also the event's name.")
    sequence_number: int = Field(ge=0, description="Counts the events from 0.")
    response: Response | None = Field(None, description="In events about the response as a whole.")
    output_index: int | None = Field(None, description="In events about an item: its place in `output`.")
    item_id: str | None = Field(None, description="In events about a part of an item.")
    delta: str | None = Field(None, description="Text to append.")


class DeletedResponse(_Answer):
    """A response that was forgotten."""

    id: str = Field(description="Its id.")
    object: Literal["response"] = Field(description="Always `response`.")
    deleted: Literal[True] = Field(description="Always true.")


class InputItems(_Answer):
    """A page of what the model was told, items of earlier turns included."""

    object: Literal["list"] = Field(description="Always `list`.")
    data: list[dict[str, Any]] = Field(description="The items.")
    first_id: str | None = Field(description="The id of the first of them.")
    last_id: str | None = Field(description="The id of the last of them: `after` of the next page.")
    has_more: bool = Field(description="Whether there are more behind these.")
