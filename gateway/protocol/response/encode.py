"""Wire bytes of responses: events from templates made once per item, whole answers in one piece.

Source: OpenAI's OpenAPI document (Response, ResponseStreamEvent), which is also the judge (``tests/conformance``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson

from engine.types import PositionLogprobs, TokenLogprob
from gateway.errors import ApiError
from gateway.protocol.encode import KEEP_ALIVE, Choice, Usage, new_call_id, new_id
from gateway.protocol.itemised import ItemisedEncoder, Kind
from gateway.protocol.tools import written

Document = dict[str, Any]
_TEXT_DELTA: Final = b"response.output_text.delta"


class ResponseEncoder(ItemisedEncoder):
    """A ``response`` and its events. ``echo`` is what it repeats of the request.

    ``stored`` says whether it was kept; it is settled before the last bytes.
    """

    keep_alive = KEEP_ALIVE

    def __init__(
        self,
        response_id: str,
        model: str,
        echo: Document,
        *,
        store: bool,
        wall: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._wall = wall
        self._id = response_id
        self._created = int(wall())
        self._model = model
        # Schemas are the caller's: their integers may have more digits than the encoder takes.
        self._echo = {name: orjson.Fragment(written(value)) for name, value in echo.items()}
        self.stored = store
        self._sequence = 0
        self._output: list[Document] = []
        self._final: Document | None = None
        # The open item: its id, what it says so far, and the event that says more of it.
        self._item_id = ""
        self._called: Document = {}
        self._pieces: list[str] = []
        self._logprobs: list[PositionLogprobs] = []
        self._head = b""
        self._tail = b""

    @property
    def output(self) -> Sequence[Document]:
        """The items that are complete."""
        return self._output

    def cached(self, tokens: int) -> None:
        """See :class:`~gateway.protocol.encode.Encoder`: only the usage at the end tells."""

    # -- events -----------------------------------------------------------------------------------------------------

    def _event(self, kind: bytes, members: bytes) -> bytes:
        number = self._sequence
        self._sequence += 1
        return b'event: %b\ndata: {"type":"%b","sequence_number":%d,%b}\n\n' % (kind, kind, number, members)

    def _place(self) -> bytes:
        return b'"item_id":"%b","output_index":%d,' % (self._item_id.encode(), self._items - 1)

    def _on_item(self, kind: bytes, item: Document) -> bytes:
        return self._event(kind, b'"output_index":%d,"item":%b' % (self._items - 1, orjson.dumps(item)))

    def _on_response(self, status: str, document: Document) -> bytes:
        return self._event(b"response." + status.encode(), b'"response":' + orjson.dumps(document))

    def _on_part(self, kind: bytes, part: Document) -> bytes:
        return self._event(kind, self._place() + b'"content_index":0,"part":' + orjson.dumps(part))

    # -- see ItemisedEncoder ------------------------------------------------------------------------------------------

    def _begin(self) -> bytes:
        document = self.document("in_progress")
        return self._on_response("created", document) + self._on_response("in_progress", document)

    def _start(self, kind: Kind, call: str) -> bytes:
        self._pieces, self._logprobs = [], []
        match kind:
            case "text":
                return self._start_message()
            case "reasoning":
                return self._start_reasoning()
            case "call":
                return self._start_call(call)

    def _nothing(self, *, cut: bool) -> bytes:
        return self._into("text") + self._close(cut=cut)

    def _start_message(self) -> bytes:
        self._item_id = new_id("msg_")
        item = {"type": "message", "id": self._item_id, "status": "in_progress", "role": "assistant", "content": []}
        out = self._on_item(b"response.output_item.added", item)
        self._delta_event(_TEXT_DELTA, b'"content_index":0,"logprobs":[],')
        return out + self._on_part(b"response.content_part.added", _text_part("", ()))

    def _start_reasoning(self) -> bytes:
        self._item_id = new_id("rs_")
        item = {"type": "reasoning", "id": self._item_id, "status": "in_progress", "summary": [], "content": []}
        out = self._on_item(b"response.output_item.added", item)
        self._delta_event(b"response.reasoning_text.delta", b'"content_index":0,')
        return out + self._on_part(b"response.content_part.added", {"type": "reasoning_text", "text": ""})

    def _start_call(self, name: str) -> bytes:
        self._item_id = new_id("fc_")
        self._called = {"type": "function_call", "id": self._item_id, "call_id": new_call_id(), "name": name}
        self._delta_event(b"response.function_call_arguments.delta", b"")
        item = {**self._called, "arguments": "", "status": "in_progress"}
        return self._on_item(b"response.output_item.added", item)

    def _delta_event(self, kind: bytes, members: bytes) -> None:
        """The template of the open item's deltas, around text and sequence number."""
        self._head = b'event: %b\ndata: {"type":"%b",%b%b"delta":' % (kind, kind, self._place(), members)
        self._tail = b',"sequence_number":%d}\n\n'

    def text(self, text: str) -> bytes:
        """See :class:`~gateway.protocol.encode.Encoder`: the hot path."""
        if self._kind != "text":
            return self._into("text") + self._say(text)
        return self._say(text)

    def _say(self, text: str) -> bytes:
        self._pieces.append(text)
        number = self._sequence
        self._sequence = number + 1
        return self._head + orjson.dumps(text) + self._tail % number

    def _grow(self, kind: Kind, text: str, logprobs: Sequence[PositionLogprobs]) -> bytes:
        if kind != "text" or not logprobs:
            return self._say(text)
        self._pieces.append(text)
        self._logprobs += logprobs
        members = b'"content_index":0,"delta":%b,"logprobs":%b' % (
            orjson.dumps(text),
            orjson.dumps([_short_logprob(position) for position in logprobs]),
        )
        return self._event(_TEXT_DELTA, self._place() + members)

    def _end(self, kind: Kind, *, cut: bool) -> bytes:
        text = "".join(self._pieces)
        status = "incomplete" if cut else "completed"
        match kind:
            case "text":
                return self._end_message(text, status)
            case "reasoning":
                return self._end_reasoning(text, status)
            case "call":
                return self._end_call(text, cut=cut)

    def _end_message(self, text: str, status: str) -> bytes:
        part = _text_part(text, self._logprobs)
        item = {"type": "message", "id": self._item_id, "status": status, "role": "assistant", "content": [part]}
        self._output.append(item)
        logprobs = orjson.dumps([_short_logprob(position) for position in self._logprobs])
        members = b'"content_index":0,"text":%b,"logprobs":%b' % (orjson.dumps(text), logprobs)
        return (
            self._event(b"response.output_text.done", self._place() + members)
            + self._on_part(b"response.content_part.done", part)
            + self._on_item(b"response.output_item.done", item)
        )

    def _end_reasoning(self, text: str, status: str) -> bytes:
        part = {"type": "reasoning_text", "text": text}
        item = {"type": "reasoning", "id": self._item_id, "status": status, "summary": [], "content": [part]}
        self._output.append(item)
        members = self._place() + b'"content_index":0,"text":' + orjson.dumps(text)
        return (
            self._event(b"response.reasoning_text.done", members)
            + self._on_part(b"response.content_part.done", part)
            + self._on_item(b"response.output_item.done", item)
        )

    def _end_call(self, arguments: str, *, cut: bool) -> bytes:
        # A call that was whole before the tokens ran out is a whole call.
        whole = not cut or _is_json(arguments)
        item = {**self._called, "arguments": arguments, "status": "completed" if whole else "incomplete"}
        self._output.append(item)
        members = b'"name":%b,"arguments":%b' % (orjson.dumps(self._called["name"]), orjson.dumps(arguments))
        return self._event(b"response.function_call_arguments.done", self._place() + members) + self._on_item(
            b"response.output_item.done", item
        )

    # -- the response -------------------------------------------------------------------------------------------------

    def document(self, status: str, usage: Usage | None = None, error: ApiError | None = None) -> Document:
        """The response as it stands."""
        ended = status in ("completed", "incomplete")
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": int(self._wall()) if ended else None,
            "status": status,
            "background": False,
            "error": None if error is None else {"code": "server_error", "message": error.body.message},
            "incomplete_details": {"reason": self._why_incomplete()} if status == "incomplete" else None,
            "model": self._model,
            "output": list(self._output),
            "store": self.stored,
            **self._echo,
            **({} if usage is None else {"usage": usage_wire(usage)}),
        }

    def conclude(self, choices: Sequence[Choice], usage: Usage) -> Document:
        """The final response. ``choices``: what came of it, where it was not streamed through this encoder."""
        if self._final is None:
            for choice in choices:
                self._whole(choice)
            cut = self._finish in ("length", "content_filter")
            self._final = self.document("incomplete" if cut else "completed", usage)
        self._final["store"] = self.stored
        return self._final

    def _why_incomplete(self) -> str:
        return "content_filter" if self._finish == "content_filter" else "max_output_tokens"

    def closing(self, usage: Usage) -> bytes:
        """See :class:`~gateway.protocol.encode.Encoder`."""
        out = b"" if self._opened else self.opening(0)
        document = self.conclude((), usage)
        return out + self._on_response(document["status"], document)

    def failed(self, error: ApiError) -> bytes:
        """See :class:`~gateway.protocol.encode.Encoder`."""
        out = b"" if self._opened else self.opening(0)
        self.stored = False
        return out + self._on_response("failed", self.document("failed", error=error))

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """See :class:`~gateway.protocol.encode.Encoder`."""
        return orjson.dumps(self.conclude(choices, usage))


def usage_wire(usage: Usage) -> Document:
    """As OpenAI sends it with responses."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _text_part(text: str, logprobs: Sequence[PositionLogprobs]) -> Document:
    return {
        "type": "output_text",
        "text": text,
        "annotations": [],
        "logprobs": [
            {**_token(position.chosen), "top_logprobs": [_token(each) for each in position.top]}
            for position in logprobs
        ],
    }


def _token(token: TokenLogprob) -> Document:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.bytes)}


def _short_logprob(position: PositionLogprobs) -> Document:
    """As events have it: without bytes."""
    top = [{"token": each.token, "logprob": each.logprob} for each in position.top]
    return {"token": position.chosen.token, "logprob": position.chosen.logprob, "top_logprobs": top}


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True
