"""Wire bytes of messages: events from templates made once per block, whole answers in one piece.

Source: Anthropic's OpenAPI document (Message, MessageStreamEvent), which is also the judge (``tests/conformance``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import orjson
from pydantic_core import from_json

from engine.types import PositionLogprobs
from gateway.errors import ApiError
from gateway.protocol.anthropic.errors import error_event
from gateway.protocol.encode import Choice, Usage, new_id
from gateway.protocol.itemised import ItemisedEncoder, Kind

PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'
_STOP: Final = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

Document = dict[str, Any]


class MessagesEncoder(ItemisedEncoder):
    """A ``message`` and its events. ``prompt_tokens``: tokens of the prompt."""

    keep_alive = PING

    def __init__(self, message_id: str, model: str, prompt_tokens: int, request_id: str) -> None:
        super().__init__()
        self._id = message_id
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._request_id = request_id
        self._cached = 0
        self._content: list[Document] = []
        # The open block: what it is, what it says so far, and the event that says more of it.
        self._block: Document = {}
        self._pieces: list[str] = []
        self._head = b""

    def cached(self, tokens: int) -> None:
        """See :class:`~gateway.protocol.encode.Encoder`."""
        self._cached += tokens

    # -- see ItemisedEncoder ------------------------------------------------------------------------------------------

    def _begin(self) -> bytes:
        started = Usage(self._prompt_tokens, 0, self._cached)
        message = self._message(None, None, started)
        return _event(b"message_start", b'"message":' + orjson.dumps(message)) + PING

    def _start(self, kind: Kind, call: str) -> bytes:
        self._pieces = []
        match kind:
            case "text":
                self._block, delta = {"type": "text", "text": "", "citations": None}, b'"text_delta","text":'
            case "reasoning":
                self._block = {"type": "thinking", "thinking": "", "signature": ""}
                delta = b'"thinking_delta","thinking":'
            case "call":
                self._block = _tool_use(new_id("toolu_"), call, {})
                delta = b'"input_json_delta","partial_json":'
        index = self._items - 1
        self._head = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":%b'
            % (
                index,
                delta,
            )
        )
        return _event(b"content_block_start", b'"index":%d,"content_block":%b' % (index, orjson.dumps(self._block)))

    def text(self, text: str) -> bytes:
        """See :class:`~gateway.protocol.encode.Encoder`: the hot path."""
        return (b"" if self._kind == "text" else self._into("text")) + self._say(text)

    def _say(self, text: str) -> bytes:
        self._pieces.append(text)
        return self._head + orjson.dumps(text) + b"}}\n\n"

    def _grow(self, kind: Kind, text: str, logprobs: Sequence[PositionLogprobs]) -> bytes:  # noqa: ARG002 - none here
        return self._say(text)

    def _end(self, kind: Kind, *, cut: bool) -> bytes:  # noqa: ARG002 - only the stop reason tells
        text = "".join(self._pieces)
        match kind:
            case "text":
                self._block["text"] = text
            case "reasoning":
                self._block["thinking"] = text
            case "call":
                self._block["input"] = orjson.Fragment(input_json(text))
        self._content.append(self._block)
        return _event(b"content_block_stop", b'"index":%d' % (self._items - 1))

    def _nothing(self, *, cut: bool) -> bytes:  # noqa: ARG002 - an answer without a word has no blocks
        return b""

    # -- the message --------------------------------------------------------------------------------------------------

    def _message(self, reason: str | None, sequence: str | None, usage: Usage) -> Document:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": list(self._content),
            "stop_reason": reason,
            "stop_sequence": sequence,
            "stop_details": None,
            "container": None,
            "usage": {
                **_counts(usage),
                "cache_creation": None,
                "inference_geo": None,
                "service_tier": "standard",
            },
        }

    def _reason(self) -> tuple[str, str | None]:
        """Why it stopped, and at which of the caller's strings."""
        match self._finish:
            case "length":
                return "max_tokens", None
            case "tool_calls":
                return "tool_use", None
            case "content_filter":
                return "refusal", None
            case _:
                return ("end_turn", None) if self._stop is None else ("stop_sequence", self._stop)

    def closing(self, usage: Usage) -> bytes:
        """See :class:`~gateway.protocol.encode.Encoder`."""
        reason, sequence = self._reason()
        delta = {"stop_reason": reason, "stop_sequence": sequence, "stop_details": None, "container": None}
        members = b'"delta":%b,"usage":%b' % (orjson.dumps(delta), orjson.dumps(_counts(usage)))
        opening = b"" if self._opened else self.opening(0)
        return opening + _event(b"message_delta", members) + _STOP

    def failed(self, error: ApiError) -> bytes:
        """See :class:`~gateway.protocol.encode.Encoder`."""
        return error_event(error, self._request_id)

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """See :class:`~gateway.protocol.encode.Encoder`."""
        for choice in choices:
            self._whole(choice)
        return orjson.dumps(self._message(*self._reason(), usage))


def input_json(text: str) -> str:
    """A call's arguments as the object that they are on this surface, as JSON.

    What was cut short is read as far as it goes, as Anthropic's clients read a stream. What is no object is wrapped, as
    Anthropic documents it for input that is not valid JSON.
    """
    if not text.strip():
        return "{}"
    try:
        if isinstance(from_json(text, allow_inf_nan=False), dict):
            return text
    except ValueError:
        with suppress(ValueError):
            partial = from_json(text, allow_partial=True, allow_inf_nan=False)
            if isinstance(partial, dict):
                return json.dumps(partial, allow_nan=False)
    return json.dumps({"INVALID_JSON": text})


def _tool_use(block_id: str, name: str, arguments: Document) -> Document:
    return {"type": "tool_use", "id": block_id, "name": name, "input": arguments, "caller": {"type": "direct"}}


def _counts(usage: Usage) -> Document:
    """Cached tokens are not among ``input_tokens`` here."""
    details = None if usage.reasoning_tokens is None else {"thinking_tokens": usage.reasoning_tokens}
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": details,
        "server_tool_use": None,
    }


def _event(kind: bytes, members: bytes) -> bytes:
    return b'event: %b\ndata: {"type":"%b",%b}\n\n' % (kind, kind, members)
