"""Wire bytes of answers: chunks from templates made once per request, whole answers in one piece.

Golden files in ``tests/gateway/protocol`` hold the format; OpenAI's own OpenAPI document is its judge
(``tests/conformance``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from engine.types import Delta, FinishReason, PositionLogprobs, TokenLogprob, ToolCallDelta
from gateway.errors import ApiError

DONE: Final = b"data: [DONE]\n\n"
KEEP_ALIVE: Final = b": keep-alive\n\n"


def new_id(prefix: str) -> str:
    """An id that never collides: ``prefix`` and 128 random bits."""
    return prefix + os.urandom(16).hex()


def sse(payload: bytes) -> bytes:
    """One server-sent event."""
    return b"data: " + payload + b"\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a whole request, over all its prompts and choices. ``cached_tokens`` are among ``prompt_tokens``,
    ``reasoning_tokens`` among ``completion_tokens``; None: there was no reasoning.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int | None = None

    def wire(self) -> dict[str, Any]:
        """As OpenAI sends it."""
        reasoning = {"completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens}}
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            **({} if self.reasoning_tokens is None else reasoning),
        }


@dataclass(frozen=True, slots=True)
class MadeCall:
    """A tool call that a choice made. ``arguments`` is the JSON text as the model wrote it."""

    name: str
    arguments: str


@dataclass(slots=True)
class Choice:
    """What one choice became."""

    text: str
    finish_reason: FinishReason
    logprobs: tuple[PositionLogprobs, ...] | None
    reasoning: str = ""
    tool_calls: tuple[MadeCall, ...] = ()
    stop: str | None = None


class Encoder(Protocol):
    """One surface's way to write a generation. Made per request."""

    #: What a silent stream sends, so that proxies and clients see that somebody is there.
    keep_alive: bytes

    def cached(self, tokens: int) -> None:
        """So many tokens of the prompt were cached; told before the first text, if at all."""

    def opening(self, index: int) -> bytes:
        """What precedes the first text of a choice (the role chunk), or nothing."""

    def text(self, text: str) -> bytes:
        """A plain delta of choice 0: the hot path."""

    def delta(self, delta: Delta) -> bytes:
        """Any delta, with finish reason and log-probabilities if it has them."""

    def closing(self, usage: Usage) -> bytes:
        """The end of a stream that completed."""

    def failed(self, error: ApiError) -> bytes:
        """The end of a stream that did not: clients must not take it for a completed one."""

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """The non-streamed answer."""


class ChunkEncoder:
    """What the streams of OpenAI's two completion endpoints have in common."""

    keep_alive = KEEP_ALIVE

    def __init__(self, base: dict[str, Any], *, include_usage: bool) -> None:
        self._base = base
        self._include_usage = include_usage

    def cached(self, tokens: int) -> None:
        """See :class:`Encoder`: only the usage chunk tells."""

    def closing(self, usage: Usage) -> bytes:
        """See :class:`Encoder`: the usage chunk if it is wanted, ``[DONE]``."""
        return (self.usage(usage) if self._include_usage else b"") + DONE

    def usage(self, usage: Usage) -> bytes:
        """The usage chunk."""
        return sse(orjson.dumps({**self._base, "choices": [], "usage": usage.wire()}))

    def failed(self, error: ApiError) -> bytes:
        """See :class:`Encoder`: the error as the last event, and no ``[DONE]``."""
        return sse(error.payload())


class ChatEncoder(ChunkEncoder):
    """``chat.completion`` and its chunks. ``show_reasoning`` False leaves reasoning out of the answer.

    Reasoning goes out as ``reasoning_content`` and, with the same text, as ``reasoning``: clients look for one or the
    other, and vLLM has sent both names.
    """

    def __init__(
        self, request_id: str, created: int, model: str, *, include_usage: bool, show_reasoning: bool = True
    ) -> None:
        base = {"id": request_id, "object": "chat.completion.chunk", "created": created, "model": model}
        super().__init__(base, include_usage=include_usage)
        head = orjson.dumps(self._base)[:-1]
        tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._head = b"data: " + head + b',"choices":[{"index":'
        self._text_head = self._head + b'0,"delta":{"content":'
        self._text_tail = b'},"logprobs":null,"finish_reason":null}]' + tail
        self._tail = tail
        self._show_reasoning = show_reasoning

    def opening(self, index: int) -> bytes:
        """See :class:`Encoder`."""
        role = b',"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}]'
        return self._head + b"%d" % index + role + self._tail

    def text(self, text: str) -> bytes:
        """See :class:`Encoder`."""
        return self._text_head + orjson.dumps(text) + self._text_tail

    def delta(self, delta: Delta) -> bytes:
        """See :class:`Encoder`. Reasoning, text, calls: a chunk each, and one for the finish reason."""
        out = b""
        if delta.reasoning and self._show_reasoning:
            text = orjson.dumps(delta.reasoning)
            out += self._gain(delta.index, b'{"reasoning_content":' + text + b',"reasoning":' + text + b"}")
        if delta.text or delta.logprobs:
            logprobs = orjson.dumps(chat_logprobs(delta.logprobs))
            content = b',"delta":{"content":' + orjson.dumps(delta.text) + b'},"logprobs":' + logprobs
            out += self._head + b"%d" % delta.index + content + b',"finish_reason":null}]' + self._tail
        for call in delta.tool_calls:
            out += self._gain(delta.index, b'{"tool_calls":[' + orjson.dumps(_call_delta(call)) + b"]}")
        if delta.finish_reason is not None:
            finish = b',"delta":{},"logprobs":null,"finish_reason":"' + delta.finish_reason.encode() + b'"}]'
            out += self._head + b"%d" % delta.index + finish + self._tail
        return out

    def _gain(self, index: int, delta: bytes) -> bytes:
        rest = b',"logprobs":null,"finish_reason":null}]'
        return self._head + b"%d" % index + b',"delta":' + delta + rest + self._tail

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """See :class:`Encoder`."""
        return orjson.dumps(
            {
                **self._base,
                "object": "chat.completion",
                "choices": [
                    {
                        "index": index,
                        "message": self._message(choice),
                        "logprobs": chat_logprobs(choice.logprobs),
                        "finish_reason": choice.finish_reason,
                    }
                    for index, choice in enumerate(choices)
                ],
                "usage": usage.wire(),
            }
        )

    def _message(self, choice: Choice) -> dict[str, Any]:
        # Only calls: no content at all, which is not the same as an empty one.
        content = None if choice.tool_calls and not choice.text else choice.text
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if choice.reasoning and self._show_reasoning:
            message |= {"reasoning_content": choice.reasoning, "reasoning": choice.reasoning}
        if choice.tool_calls:
            message["tool_calls"] = [
                {"id": new_call_id(), "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in choice.tool_calls
            ]
        return message


def new_call_id() -> str:
    """The id of a tool call."""
    return new_id("call_")


def _call_delta(call: ToolCallDelta) -> dict[str, Any]:
    """A call's name comes once and whole, and with it its id and kind; the rest are pieces of arguments."""
    if call.name is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": new_call_id(), "type": "function", "function": function}


class CompletionEncoder(ChunkEncoder):
    """``text_completion``, streamed and whole. ``echo[i]`` is the prompt text that choice i begins with."""

    def __init__(
        self, request_id: str, created: int, model: str, *, include_usage: bool, echo: Sequence[str] | None = None
    ) -> None:
        base = {"id": request_id, "object": "text_completion", "created": created, "model": model}
        super().__init__(base, include_usage=include_usage)
        tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._head = b"data: " + orjson.dumps(self._base)[:-1] + b',"choices":[{"index":'
        self._text_head = self._head + b'0,"text":'
        self._text_tail = b',"logprobs":null,"finish_reason":null}]' + tail
        self._tail = tail
        self._echo = echo
        self._offsets: dict[int, int] = {}

    def opening(self, index: int) -> bytes:
        """See :class:`Encoder`: the echoed prompt."""
        if self._echo is None:
            return b""
        return self._chunk(index, self._echo[index], None, None)

    def text(self, text: str) -> bytes:
        """See :class:`Encoder`."""
        return self._text_head + orjson.dumps(text) + self._text_tail

    def delta(self, delta: Delta) -> bytes:
        """See :class:`Encoder`."""
        logprobs = None
        if delta.logprobs is not None:
            offset = self._offsets.get(delta.index, 0)
            logprobs = completion_logprobs(delta.logprobs, offset)
            self._offsets[delta.index] = offset + sum(len(position.chosen.token) for position in delta.logprobs)
        return self._chunk(delta.index, delta.text, logprobs, delta.finish_reason)

    def _chunk(self, index: int, text: str, logprobs: dict[str, Any] | None, reason: str | None) -> bytes:
        rest = b',"logprobs":' + orjson.dumps(logprobs) + b',"finish_reason":' + orjson.dumps(reason) + b"}]"
        return self._head + b"%d" % index + b',"text":' + orjson.dumps(text) + rest + self._tail

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """See :class:`Encoder`."""
        return orjson.dumps(
            {
                **self._base,
                "choices": [
                    {
                        "index": index,
                        "text": (self._echo[index] if self._echo else "") + choice.text,
                        "logprobs": None if choice.logprobs is None else completion_logprobs(choice.logprobs, 0),
                        "finish_reason": choice.finish_reason,
                    }
                    for index, choice in enumerate(choices)
                ],
                "usage": usage.wire(),
            }
        )


def chat_logprobs(positions: Sequence[PositionLogprobs] | None) -> dict[str, Any] | None:
    """The ``logprobs`` object of a chat choice."""
    if positions is None:
        return None
    return {
        "content": [
            {**_chat_token(position.chosen), "top_logprobs": [_chat_token(token) for token in position.top]}
            for position in positions
        ],
        "refusal": None,
    }


def _chat_token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.bytes)}


def completion_logprobs(positions: Sequence[PositionLogprobs], offset: int) -> dict[str, Any]:
    """The legacy ``logprobs`` object; ``offset`` is the character at which the first token begins."""
    offsets = []
    for position in positions:
        offsets.append(offset)
        offset += len(position.chosen.token)
    return {
        "text_offset": offsets,
        "token_logprobs": [position.chosen.logprob for position in positions],
        "tokens": [position.chosen.token for position in positions],
        "top_logprobs": [
            # The chosen token is always listed, as OpenAI documents it.
            {token.token: token.logprob for token in (*position.top, position.chosen)}
            for position in positions
        ],
    }
