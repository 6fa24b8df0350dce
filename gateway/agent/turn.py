"""One model turn: a request of its own to the pipeline, whose answer is kept and, in a stream, shown as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from msgspec import structs

from engine.types import Constraint, Delta, Engine, Parsing, Prompt, Sampling
from gateway.errors import ApiError
from gateway.exchange import Exchange
from gateway.guardian.check import Passages
from gateway.http.connection import EXTENSION, ResponseStream
from gateway.observability.tracing.span import Span
from gateway.pipeline import FLAGGED
from gateway.protocol.chat import ChatCompletionRequest
from gateway.protocol.encode import KEEP_ALIVE, Choice, Usage, sse
from gateway.protocol.images import ImageReference, Images
from gateway.protocol.sampling import RequestBounds
from gateway.routes.chat import ChatSurface
from gateway.sinks import Meter, WholeSink


def event(kind: str, step: int | None, **fields: Any) -> bytes:
    """One event of an agent's stream."""
    where = {} if step is None else {"step": step}
    return sse(orjson.dumps({"type": kind, **where, **fields}))


class BudgetSpent(Exception):
    """The tokens that are left do not even hold the prompt of the next turn."""


@dataclass(slots=True)
class TurnRequest:
    """A :class:`gateway.pipeline.Generation`: ``chat``, with ``room`` tokens left for prompt and answer together."""

    chat: ChatCompletionRequest
    room: int

    @property
    def model(self) -> str:
        """See :class:`gateway.pipeline.Generation`."""
        return self.chat.model

    @property
    def stream(self) -> bool:
        """See :class:`gateway.pipeline.Generation`."""
        return self.chat.stream

    @property
    def n(self) -> int:
        """See :class:`gateway.pipeline.Generation`."""
        return 1

    @property
    def requested_max_tokens(self) -> int | None:
        """See :class:`gateway.pipeline.Generation`."""
        return self.chat.requested_max_tokens

    def labels(self) -> Mapping[str, str]:
        """See :class:`gateway.pipeline.Generation`."""
        return self.chat.labels()

    def to_sampling(self, bounds: RequestBounds) -> Sampling:
        """What the chat asks for, within the tokens that are left."""
        sampling = self.chat.to_sampling(bounds)
        return structs.replace(sampling, max_tokens=min(sampling.max_tokens, self.room))

    def constraint(self) -> Constraint | None:
        """See :class:`gateway.pipeline.Generation`."""
        return None

    def parsing(self) -> Parsing | None:
        """See :class:`gateway.pipeline.Generation`."""
        return self.chat.parsing()


class TurnEncoder:
    """Keeps the answer of one turn; in a stream it also shows it, as events. See :class:`Encoder`."""

    keep_alive = KEEP_ALIVE

    def __init__(self, step: int, *, show_reasoning: bool) -> None:
        self._step = step
        self._show_reasoning = show_reasoning
        self._kept = WholeSink(1, Meter(lambda: None))
        self._whole: Choice | None = None
        self._usage: Usage | None = None
        self._text_head = event("agent.message.delta", step, delta="")[: -len(b'"}\n\n') - 1]

    @property
    def answer(self) -> Choice:
        """The whole turn; call when it is over."""
        return self._kept.choices()[0] if self._whole is None else self._whole

    @property
    def used(self) -> Usage:
        """Its tokens; call when it is over."""
        assert self._usage is not None
        return self._usage

    def cached(self, tokens: int) -> None:
        """See :class:`Encoder`."""

    def opening(self, index: int) -> bytes:  # noqa: ARG002 - there is one choice
        """See :class:`Encoder`."""
        return event("agent.step.started", self._step)

    def text(self, text: str) -> bytes:
        """See :class:`Encoder`."""
        self._kept.text(text, 0)
        return self._text_head + orjson.dumps(text) + b"}\n\n"

    def delta(self, delta: Delta) -> bytes:
        """See :class:`Encoder`. Calls are shown when they are whole."""
        self._kept.delta(delta)
        out = b""
        if delta.reasoning and self._show_reasoning:
            out += event("agent.reasoning.delta", self._step, delta=delta.reasoning)
        if delta.text:
            out += event("agent.message.delta", self._step, delta=delta.text)
        return out

    def closing(self, usage: Usage) -> bytes:
        """See :class:`Encoder`: the end of the turn, not of the stream."""
        self._usage = usage
        reason = self.answer.finish_reason
        return event("agent.step.completed", self._step, finish_reason=reason, usage=usage.wire())

    def failed(self, error: ApiError) -> bytes:
        """See :class:`Encoder`."""
        return sse(error.payload())

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """See :class:`Encoder`: kept, and not sent."""
        (self._whole,) = choices
        self._usage = usage
        return b""


class TurnSurface:
    """See :class:`gateway.pipeline.Surface`. The request is checked already, so nothing is parsed."""

    id_prefix = "agentstep-"
    prompt_param = "messages"
    limit_param = "max_tokens"

    def __init__(self, request: TurnRequest, encoder: TurnEncoder) -> None:
        self._request = request
        self._encoder = encoder
        self._chat = ChatSurface()

    def parse(self, body: bytes, bounds: RequestBounds) -> TurnRequest:  # noqa: ARG002
        """See :class:`gateway.pipeline.Surface`."""
        return self._request

    def texts(self, request: TurnRequest) -> Passages:
        """As of any chat: results of tools are messages like others, and seen by the guard."""
        return self._chat.texts(request.chat)

    def images(self, request: TurnRequest) -> Sequence[ImageReference]:
        """As of any chat."""
        return self._chat.images(request.chat)

    async def prompts(self, request: TurnRequest, model: str, engine: Engine, images: Images) -> Sequence[Prompt]:
        """As of any chat. Raises :class:`BudgetSpent`."""
        prompts = await self._chat.prompts(request.chat, model, engine, images)
        request.room -= sum(len(prompt.token_ids) for prompt in prompts)
        if request.room < 1:
            raise BudgetSpent
        return prompts

    def encoder(self, request: TurnRequest, response_id: str, prompts: Sequence[Prompt]) -> TurnEncoder:  # noqa: ARG002
        """See :class:`gateway.pipeline.Surface`."""
        return self._encoder


class _TurnStream:
    """The caller's response, of which a turn is a part: it can be written to and dropped, not ended."""

    def __init__(self, stream: ResponseStream) -> None:
        self._stream = stream
        self.body_limit = 0
        self.close_after = False
        self.on_disconnect: Callable[[], None] | None = None

    @property
    def on_resume(self) -> Callable[[], None] | None:
        return self._stream.on_resume

    @on_resume.setter
    def on_resume(self, callback: Callable[[], None] | None) -> None:
        self._stream.on_resume = callback

    @property
    def request_id(self) -> str:
        return self._stream.request_id

    @property
    def paused(self) -> bool:
        return self._stream.paused

    @property
    def disconnected(self) -> bool:
        return self._stream.disconnected

    @property
    def rejection(self) -> ApiError | None:
        return self._stream.rejection

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None: ...

    def flush(self) -> None:
        self._stream.flush()

    def write(self, data: bytes) -> None:
        self._stream.write(data)

    def finish(self, data: bytes = b"") -> None:
        if data:
            self._stream.write(data)

    def abort(self) -> None:
        self._stream.abort()


class TurnExchange(Exchange):
    """What the pipeline holds of one turn of ``parent``, which must be over at ``ends_at`` (``time.monotonic``)
    and shows up within ``span``.
    """

    def __init__(self, parent: Exchange, ends_at: float, span: Span) -> None:
        scope = {**parent.scope, "extensions": {EXTENSION: _TurnStream(parent.stream)}}
        super().__init__(scope, _no_body)
        self.route = parent.route
        self.principal = parent.principal
        self.address = parent.address
        self.span = span
        self._parent = parent
        self._ends_at = ends_at

    def deadline(self, default: float) -> float:
        """Seconds that are left of the step."""
        return min(default, max(0.0, self._ends_at - time.monotonic()))

    def begin_stream(self) -> None:
        """The caller's stream begins with its first turn."""
        if not self._parent.started:
            self._parent.rate_headers = self.rate_headers
        self._parent.begin_stream()
        self.started = True

    def respond(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:  # noqa: ARG002
        """Nothing is sent: the turn's answer is part of a larger one, which says it if any of its turns was flagged."""
        flagged = [
            header for header in self._parent.rate_headers if header == FLAGGED and FLAGGED not in self.rate_headers
        ]
        self._parent.rate_headers = [*self.rate_headers, *flagged]
        self.started = True
        self.status = status


async def _no_body() -> MutableMapping[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}
