"""What the endpoints answer, for the OpenAPI document only: answers are encoded from templates, never from these.

They say what OpenAI's document says (CreateChatCompletionResponse, CreateChatCompletionStreamResponse,
CreateCompletionResponse, ListModelsResponse, ErrorResponse), less the fields that this server never sends. A field
without a default is always there; where it may be null, null is what is sent when there is nothing to say.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.types import ModelKind


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TopLogprob(_Answer):
    """A token that could have stood at a position."""

    token: str = Field(description="The token as text.")
    logprob: float = Field(description="Its log probability (natural logarithm).")
    bytes: list[int] | None = Field(description="The token's UTF-8 bytes; one character may take several tokens.")


class TokenLogprob(TopLogprob):
    """The token at a position and the likeliest alternatives."""

    top_logprobs: list[TopLogprob] = Field(description="The likeliest tokens here, best first.")


class ChoiceLogprobs(_Answer):
    """Log probabilities of a chat choice."""

    content: list[TokenLogprob] | None = Field(description="One entry per token of the content.")
    refusal: list[TokenLogprob] | None = Field(description="Always null.")


class PromptTokensDetails(_Answer):
    """Where the prompt's tokens came from."""

    cached_tokens: int = Field(ge=0, description="Found in the prefix cache.")


class CompletionTokensDetails(_Answer):
    """What the generated tokens were spent on."""

    reasoning_tokens: int = Field(ge=0, description="The model thought with them.")


class Usage(_Answer):
    """Tokens used, over all choices."""

    prompt_tokens: int = Field(ge=0, description="Tokens of the prompt or prompts.")
    completion_tokens: int = Field(ge=0, description="Tokens generated, over all choices.")
    total_tokens: int = Field(ge=0, description="The sum of both.")
    prompt_tokens_details: PromptTokensDetails = Field(description="Of the prompt's tokens.")
    completion_tokens_details: CompletionTokensDetails | None = Field(
        None, description="Of the generated tokens; only where the model reasoned."
    )


class CalledFunction(_Answer):
    """A function that the model calls."""

    name: str = Field(description="One of the request's tools.")
    arguments: str = Field(description="The arguments as JSON text; incomplete if `finish_reason` is `length`.")


class ToolCall(_Answer):
    """A call that the model makes."""

    id: str = Field(description="Unique; the `tool_call_id` of the message that answers it.")
    type: Literal["function"] = Field(description="Always `function`.")
    function: CalledFunction = Field(description="What it calls.")


class AssistantMessage(_Answer):
    """What the model said."""

    role: Literal["assistant"] = Field(description="Always `assistant`.")
    content: str | None = Field(description="The text; null where there are only calls.")
    refusal: str | None = Field(description="Always null.")
    tool_calls: list[ToolCall] | None = Field(None, description="The calls; absent where there are none.")
    reasoning_content: str | None = Field(None, description="What the model thought, if it reasons.")
    reasoning: str | None = Field(None, description="The same as `reasoning_content`.")


class ChatChoice(_Answer):
    """One of the `n` answers."""

    index: int = Field(ge=0, description="Its place among the choices.")
    message: AssistantMessage = Field(description="What the model said.")
    logprobs: ChoiceLogprobs | None = Field(description="Null unless asked for.")
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] = Field(
        description="`stop`: the model or a stop string ended it; `length`: max_tokens or the context did; "
        "`tool_calls`: it ended with calls."
    )


class ChatCompletion(_Answer):
    """The answer of /v1/chat/completions."""

    id: str = Field(description="Unique; begins with `chatcmpl-`.")
    object: Literal["chat.completion"] = Field(description="Always `chat.completion`.")
    created: int = Field(description="Unix time in seconds.")
    model: str = Field(description="The model that answered.")
    choices: list[ChatChoice] = Field(description="The answers, `n` of them.")
    usage: Usage = Field(description="Tokens used.")


class CalledFunctionDelta(_Answer):
    """What a call's function gained."""

    name: str | None = Field(None, description="Only in the call's first chunk, and whole.")
    arguments: str = Field(description="Text to append to the arguments.")


class ToolCallDelta(_Answer):
    """What a call gained."""

    index: int = Field(ge=0, description="Its place among the choice's calls.")
    id: str | None = Field(None, description="Only in the call's first chunk.")
    type: Literal["function"] | None = Field(None, description="Only in the call's first chunk.")
    function: CalledFunctionDelta = Field(description="What its function gained.")


class ChatDelta(_Answer):
    """What a choice gained. The first delta has the role, the last one is empty."""

    role: Literal["assistant"] | None = Field(None, description="Only in a choice's first chunk.")
    content: str | None = Field(None, description="Text to append.")
    refusal: str | None = Field(None, description="Always null where present.")
    tool_calls: list[ToolCallDelta] | None = Field(None, description="What the choice's calls gained.")
    reasoning_content: str | None = Field(None, description="Reasoning to append.")
    reasoning: str | None = Field(None, description="The same as `reasoning_content`.")


class ChatChunkChoice(_Answer):
    """One choice's part of a chunk."""

    index: int = Field(ge=0, description="Its place among the choices.")
    delta: ChatDelta = Field(description="What it gained.")
    logprobs: ChoiceLogprobs | None = Field(None, description="Null unless asked for.")
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] | None = Field(
        description="Set in the choice's last chunk."
    )


class ChatCompletionChunk(_Answer):
    """One event of a streamed chat completion. The stream ends with `data: [DONE]` or with one error event."""

    id: str = Field(description="The same in every chunk.")
    object: Literal["chat.completion.chunk"] = Field(description="Always `chat.completion.chunk`.")
    created: int = Field(description="Unix time in seconds, the same in every chunk.")
    model: str = Field(description="The model that answers.")
    choices: list[ChatChunkChoice] = Field(description="Empty in the usage chunk.")
    usage: Usage | None = Field(
        None, description="With `stream_options.include_usage`: null in every chunk but the last before [DONE]."
    )


class CompletionLogprobs(_Answer):
    """Log probabilities of a text choice: four lists with one entry per token."""

    tokens: list[str] = Field(description="The tokens as text.")
    token_logprobs: list[float] = Field(description="Their log probabilities (natural logarithm).")
    top_logprobs: list[dict[str, float]] = Field(description="The likeliest tokens at each position.")
    text_offset: list[int] = Field(description="Where each token begins in the text, in characters.")


class CompletionChoice(_Answer):
    """One of the `n` texts per prompt, or its part of a stream event."""

    index: int = Field(ge=0, description="Prompt by prompt: the choices of the first prompt come first.")
    text: str = Field(description="The text, or the text to append.")
    logprobs: CompletionLogprobs | None = Field(description="Null unless asked for.")
    finish_reason: Literal["stop", "length", "content_filter"] | None = Field(
        description="`stop` or `length`; null in stream events before a choice's last."
    )


class Completion(_Answer):
    """The answer of /v1/completions, and one event of its stream."""

    id: str = Field(description="Unique; begins with `cmpl-`.")
    object: Literal["text_completion"] = Field(description="Always `text_completion`.")
    created: int = Field(description="Unix time in seconds.")
    model: str = Field(description="The model that answered.")
    choices: list[CompletionChoice] = Field(description="The texts; empty in a stream's usage event.")
    usage: Usage | None = Field(
        None, description="Tokens used; in a stream only with `stream_options.include_usage`, in its last event."
    )


class TranscriptSegment(_Answer):
    """A piece of a transcript."""

    id: int = Field(ge=0, description="Its place.")
    seek: int = Field(description="Where the piece of sound that it was heard in begins, in hundredths of a second.")
    start: float = Field(description="Seconds.")
    end: float = Field(description="Seconds.")
    text: str = Field(description="What was said.")
    tokens: list[int] = Field(description="The model's tokens for it.")
    temperature: float = Field(description="The request's.")
    avg_logprob: float = Field(description="Mean log probability of the tokens of that piece of sound.")
    compression_ratio: float = Field(description="Large where the text repeats itself.")
    no_speech_prob: float = Field(description="How likely nobody spoke there.")


class TokenUsage(_Answer):
    """Tokens that a transcript took."""

    type: Literal["tokens"] = Field(description="Always `tokens`.")
    input_tokens: int = Field(ge=0, description="Of the sound (50 a second) and of what tells the model what to do.")
    output_tokens: int = Field(ge=0, description="Written by the model.")
    total_tokens: int = Field(ge=0, description="The sum of both.")


class DurationUsage(_Answer):
    """How long the sound was."""

    type: Literal["duration"] = Field(description="Always `duration`.")
    seconds: float = Field(ge=0, description="Rounded.")


class Transcription(_Answer):
    """What was said. With `json` only text and usage; with `verbose_json` everything."""

    text: str = Field(description="All of it.")
    usage: TokenUsage | DurationUsage = Field(description="What it took: tokens, or with `verbose_json` the duration.")
    task: Literal["transcribe", "translate"] | None = Field(None, description="What was asked for.")
    language: str | None = Field(None, description="The English name of the language.")
    duration: float | None = Field(None, description="Seconds.")
    segments: list[TranscriptSegment] | None = Field(None, description="The text with times.")


class TranscriptionEvent(_Answer):
    """An event of a streamed transcription."""

    type: Literal["transcript.text.delta", "transcript.text.done"] = Field(description="More text, or all of it.")
    delta: str | None = Field(None, description="Text to append.")
    text: str | None = Field(None, description="In the last event: the whole text.")
    usage: TokenUsage | None = Field(None, description="In the last event.")


class Model(_Answer):
    """A model that can be named in a request."""

    id: str = Field(description="The name to send as `model`.")
    object: Literal["model"] = Field(description="Always `model`.")
    created: int = Field(description="Unix time in seconds.")
    owned_by: str = Field(description="Who owns the model.")
    max_model_len: int = Field(ge=0, description="Its context, in tokens; 0 before it is loaded.")
    kind: ModelKind = Field(description="What it is for: generate, embed, classify, score or transcribe.")
    state: Literal["cold", "loading", "ready", "sleeping", "unloading", "unloaded", "failed"] = Field(
        description="Where it is: a cold one is loaded by the first request that names it."
    )
    pinned: bool = Field(description="Whether it is never evicted to make room for another.")
    memory_bytes: int = Field(ge=0, description="Resident memory of its processes; 0 if it is not in memory.")
    load_seconds: float | None = Field(description="How long its last load took; null before the first.")
    labels: list[str] | None = Field(None, description="Of a classifier that was loaded once: what it may say.")
    dimensions: int | None = Field(None, description="Of an embedding model that was loaded once: numbers per vector.")
    detail: str | None = Field(None, description="Why it failed; for administrators only.")
    parent: str | None = Field(None, description="Of an adapter: the model it belongs to.")
    adapter: str | None = Field(None, description="Of an adapter: its plain name, which `model` may be as well.")


class DeletedModel(_Answer):
    """A model that was taken out of memory."""

    id: str = Field(description="Its name.")
    object: Literal["model"] = Field(description="Always `model`.")
    deleted: bool = Field(description="Always true: it is out of memory until it is loaded again.")


class ModelList(_Answer):
    """Every model the caller may use."""

    object: Literal["list"] = Field(description="Always `list`.")
    data: list[Model] = Field(description="The models.")


class ErrorVerdict(_Answer):
    """What the guard thinks of one risk."""

    risk: str = Field(description="The risk's name.")
    unsafe: bool = Field(description="Whether it was flagged.")
    confidence: float = Field(ge=0, le=1, description="How sure the guard is.")


class ErrorDetail(_Answer):
    """What went wrong."""

    message: str = Field(max_length=1024, description="For a person; at most 1 KiB.")
    type: str = Field(description="The class of the error, such as `invalid_request_error`.")
    param: str | None = Field(description="The field at fault, as in `messages[2].content`.")
    code: str | None = Field(description="For a program, such as `context_length_exceeded`.")
    verdicts: list[ErrorVerdict] | None = Field(
        None, description="With `content_policy_violation`: what the guard flagged."
    )


class ErrorEnvelope(_Answer):
    """The body of every error; in a stream, the data of its last event."""

    error: ErrorDetail = Field(description="What went wrong.")
