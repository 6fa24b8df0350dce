"""Where the engine's deltas go: straight to the connection (streams), or into whole choices.

Called from vLLM's output handler for every running request, so nothing here may block or raise.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.types import Delta, DeltaSink, FinishReason, PositionLogprobs, ToolCallDelta
from gateway.http.connection import ResponseStream
from gateway.protocol.encode import Choice, Encoder, MadeCall, Usage

#: A slow reader's deltas wait here as text and leave as one chunk; beyond this many bytes the reader is cut.
MAX_PENDING_BYTES = 256 * 1024


class Meter:
    """Counts what one request generated, and the ``cached`` tokens of its prompts; ``on_first``: at its first token.

    ``reasoning`` are the tokens among ``tokens`` that the model thought with.
    """

    __slots__ = ("_on_first", "cached", "finish_reasons", "reasoning", "tokens")

    def __init__(self, on_first: Callable[[], None]) -> None:
        self._on_first = on_first
        self.tokens = 0
        self.cached = 0
        self.reasoning = 0
        self.finish_reasons: list[FinishReason] = []

    def count(self, tokens: int) -> None:
        """Add ``tokens``; notes the first."""
        if not self.tokens and tokens:
            self._on_first()
        self.tokens += tokens

    def finished(self, reason: FinishReason) -> None:
        """One choice ended."""
        self.finish_reasons.append(reason)


class StreamSink:
    """Writes chunks to the connection the moment the engine has them.

    The head of the answer is held back until the first bytes: an error before them is a plain HTTP error. While
    the client does not read, text is collected and leaves as one chunk when it reads again.
    """

    __slots__ = (
        "_begin",
        "_encoder",
        "_meter",
        "_opened",
        "_pending",
        "_pending_bytes",
        "_quiet_since",
        "_seen",
        "_stream",
    )

    def __init__(self, stream: ResponseStream, encoder: Encoder, meter: Meter, begin: Callable[[], None]) -> None:
        self._stream = stream
        self._encoder = encoder
        self._meter = meter
        self._begin = begin
        self._opened: set[int] = set()
        self._pending: list[Delta] = []
        self._pending_bytes = 0
        self._seen = 0
        self._quiet_since = time.monotonic()
        stream.on_resume = self._resume

    def text(self, text: str, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        if self._pending or self._stream.paused or 0 not in self._opened:
            self.delta(Delta(0, text, tokens))
            return
        self._meter.tokens += tokens
        if text:
            self._stream.write(self._encoder.text(text))

    def delta(self, delta: Delta) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self._meter.count(delta.tokens)
        self._meter.reasoning += delta.reasoning_tokens
        if delta.finish_reason is not None:
            self._meter.finished(delta.finish_reason)
        if self._pending or self._stream.paused:
            self._hold(delta)
        else:
            self._write(delta)

    def cached(self, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self._meter.cached += tokens
        self._encoder.cached(tokens)

    def tick(self, now: float, interval: float) -> None:
        """Send a sign of life after ``interval`` seconds of silence: proxies and clients see that somebody is there."""
        if self._meter.tokens != self._seen:
            self._seen = self._meter.tokens
            self._quiet_since = now
        elif now - self._quiet_since >= interval and not self._stream.paused:
            self._quiet_since = now
            self._begin()
            self._stream.write(self._encoder.keep_alive)

    def _write(self, delta: Delta) -> None:
        self._begin()
        opening = b""
        if delta.index not in self._opened:
            self._opened.add(delta.index)
            opening = self._encoder.opening(delta.index)
        if data := opening + self._encoder.delta(delta):
            self._stream.write(data)

    def _hold(self, delta: Delta) -> None:
        last = self._pending[-1] if self._pending else None
        self._pending_bytes += _held_bytes(delta)
        if last is not None and _may_merge(last, delta):
            self._pending[-1] = _merged(last, delta)
        else:
            self._pending.append(delta)
        if self._pending_bytes > MAX_PENDING_BYTES:
            self._stream.abort()

    def _resume(self) -> None:
        pending, self._pending = self._pending, []
        self._pending_bytes = 0
        for delta in pending:
            self._write(delta)

    def flush(self) -> None:
        """Send what is held back: the generation is over, and the encoder has now seen all of it."""
        self._begin()
        self._resume()

    def finish(self, usage: Usage) -> None:
        """End a completed stream."""
        self.flush()
        self._stream.finish(self._encoder.closing(usage))


def _held_bytes(delta: Delta) -> int:
    calls = sum(64 + len(call.arguments) for call in delta.tool_calls)
    return len(delta.text) + len(delta.reasoning) + calls + 512 * len(delta.logprobs or ())


def _may_merge(last: Delta, delta: Delta) -> bool:
    """Whether both can leave as one: a delta is written as reasoning, text, calls, and that order must stay."""
    if last.index != delta.index or delta.logprobs is not None or last.finish_reason is not None:
        return False
    if last.tool_calls:
        return not (delta.text or delta.reasoning)
    return not (last.text and delta.reasoning)


def _merged(last: Delta, delta: Delta) -> Delta:
    return Delta(
        last.index,
        last.text + delta.text,
        0,
        delta.finish_reason,
        last.logprobs,
        last.reasoning + delta.reasoning,
        _joined(last.tool_calls, delta.tool_calls),
        stop=delta.stop,
    )


def _joined(calls: tuple[ToolCallDelta, ...], more: tuple[ToolCallDelta, ...]) -> tuple[ToolCallDelta, ...]:
    """``calls`` and ``more``, with pieces of one call's arguments put together."""
    joined = list(calls)
    for call in more:
        if joined and call.name is None and joined[-1].index == call.index:
            last = joined[-1]
            joined[-1] = ToolCallDelta(last.index, last.name, last.arguments + call.arguments)
        else:
            joined.append(call)
    return tuple(joined)


class WholeSink:
    """Collects whole choices for a non-streamed answer."""

    __slots__ = ("_calls", "_logprobs", "_meter", "_reasoning", "_reasons", "_stops", "_texts")

    def __init__(self, choices: int, meter: Meter) -> None:
        self._meter = meter
        self._texts = [""] * choices
        self._reasoning = [""] * choices
        self._calls: list[tuple[ToolCallDelta, ...]] = [()] * choices
        self._reasons: list[FinishReason] = ["stop"] * choices
        self._stops: list[str | None] = [None] * choices
        self._logprobs: list[tuple[PositionLogprobs, ...] | None] = [None] * choices

    def text(self, text: str, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self.delta(Delta(0, text, tokens))

    def delta(self, delta: Delta) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self._meter.count(delta.tokens)
        self._meter.reasoning += delta.reasoning_tokens
        self._texts[delta.index] += delta.text
        if delta.reasoning:
            self._reasoning[delta.index] += delta.reasoning
        if delta.tool_calls:
            self._calls[delta.index] = _joined(self._calls[delta.index], delta.tool_calls)
        if delta.logprobs is not None:
            self._logprobs[delta.index] = (self._logprobs[delta.index] or ()) + delta.logprobs
        if delta.finish_reason is not None:
            self._reasons[delta.index] = delta.finish_reason
            self._stops[delta.index] = delta.stop
            self._meter.finished(delta.finish_reason)

    def cached(self, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self._meter.cached += tokens

    def choices(self) -> list[Choice]:
        """All choices; call when the generation is over."""
        return [
            Choice(
                self._texts[index],
                self._reasons[index],
                self._logprobs[index],
                self._reasoning[index],
                tuple(MadeCall(call.name or "", call.arguments) for call in self._calls[index]),
                self._stops[index],
            )
            for index in range(len(self._texts))
        ]


class OffsetSink:
    """Maps the choices of one prompt of a batch to their place in the whole answer."""

    __slots__ = ("_offset", "_sink")

    def __init__(self, sink: DeltaSink, offset: int) -> None:
        self._sink = sink
        self._offset = offset

    def text(self, text: str, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self._sink.delta(Delta(self._offset, text, tokens))

    def delta(self, delta: Delta) -> None:
        """See :class:`engine.types.DeltaSink`."""
        delta.index += self._offset
        self._sink.delta(delta)

    def cached(self, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self._sink.cached(tokens)
