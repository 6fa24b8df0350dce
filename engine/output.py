"""vLLM's outputs -> our deltas (vllm/outputs.py, vllm/logprobs.py, 0.32)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vllm.outputs import CompletionOutput, RequestOutput
from vllm.v1.engine.exceptions import EngineDeadError

from engine.parsing.reasoning import ThoughtCounter
from engine.types import (
    Delta,
    DeltaSink,
    EngineError,
    EngineTimes,
    EngineUnavailable,
    FinishReason,
    GenerationFailed,
    PositionLogprobs,
    TokenLogprob,
)

_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "repetition": "stop"}
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


class Generation:
    """One running request: receives what vLLM's output processor emits and pushes it to the sink.

    ``put`` replaces ``RequestOutputCollector.put``, so no task wakes between vLLM's output handler and the sink.
    ``done`` resolves when the last choice finished, or carries the error. ``transfer``: what a connector said then.
    """

    __slots__ = ("_alternatives", "_counter", "_first_choice", "_sink", "_tokenizer", "done", "started", "transfer")

    def __init__(
        self,
        sink: DeltaSink,
        tokenizer: Any,
        alternatives: int | None,
        loop: asyncio.AbstractEventLoop,
        counter: ThoughtCounter | None = None,
    ) -> None:
        self._sink = sink
        self._counter = counter
        self._tokenizer = tokenizer
        self._alternatives = alternatives or 0
        self._first_choice: Any = None
        self.done: asyncio.Future[None] = loop.create_future()
        self.started = False
        self.transfer: Mapping[str, object] | None = None

    @property
    def counts(self) -> bool:
        """Whether it needs to see every token's id."""
        return self._counter is not None

    def count_cached_of(self, first_choice: Any) -> None:
        """Believe ``first_choice`` (a vLLM ``RequestState`` or None) how much of the prompt was cached.

        Choices of one prompt are requests of their own to vLLM: the later ones find what the first has just computed.
        Given together at the end they carry the count of whichever ended last.
        """
        self._first_choice = first_choice

    def put(self, output: RequestOutput | Exception) -> None:
        """Take one output or error from vLLM. Never raises: the caller serves every other request too."""
        if self.done.done():
            return
        try:
            self._take(output)
        except Exception as error:  # noqa: BLE001 - becomes this request's own failure
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End with an error; later outputs are ignored."""
        if not self.done.done():
            self.done.set_exception(as_engine_error(error))

    def _take(self, output: RequestOutput | Exception) -> None:
        if isinstance(output, Exception):
            # vLLM pushes errors to all requests at once, when its output handler ends (``propagate_error``).
            self.fail(EngineUnavailable("the engine died"))
            return
        if not self.started:
            self.started = True
            if cached := (self._first_choice or output).num_cached_tokens:
                self._sink.cached(cached)
        for choice in output.outputs:
            self._sink.delta(self._delta(choice))
        if output.finished:
            self.transfer = output.kv_transfer_params
            self.done.set_result(None)

    def _delta(self, choice: CompletionOutput) -> Delta:
        reason = None
        if choice.finish_reason is not None:
            reason = _FINISH.get(choice.finish_reason)
            if reason is None:
                raise _ended_badly(choice.finish_reason)
        logprobs = None
        if choice.logprobs is not None:
            logprobs = tuple(
                _position(token_id, position, self._alternatives, self._tokenizer)
                for token_id, position in zip(choice.token_ids, choice.logprobs, strict=False)
            )
        delta = Delta(choice.index, choice.text, len(choice.token_ids), reason, logprobs)
        if reason is not None and isinstance(choice.stop_reason, str):
            delta.stop = choice.stop_reason
        if self._counter is not None:
            delta.reasoning_tokens = self._counter.count(choice.index, choice.token_ids)
        return delta


def note_times(times: EngineTimes, clocks: Sequence[Any]) -> None:
    """Note in ``times`` what vLLM's ``clocks`` (``RequestStateStats``) say; 0 is a phase that was not reached.

    They are ``time.monotonic`` of the engine's process, which one machine's processes share.
    """
    for clock in clocks:
        times.ran(
            clock.queued_ts or None,
            clock.scheduled_ts or None,
            clock.first_token_ts or None,
            clock.last_token_ts or None,
        )


def _ended_badly(reason: str) -> EngineError:
    if reason == "abort":
        return EngineUnavailable("the engine aborted the request")
    return GenerationFailed(f"the engine ended the request with finish reason {reason}")


def as_engine_error(error: BaseException) -> EngineError:
    """Any exception out of vLLM as one of the facade's own."""
    if isinstance(error, EngineError):
        return error
    if isinstance(error, EngineDeadError):
        return EngineUnavailable("the engine died")
    failed = GenerationFailed(f"{type(error).__name__} in the engine")
    failed.__cause__ = error
    return failed


def _position(token_id: int, position: dict[int, Any], alternatives: int, tokenizer: Any) -> PositionLogprobs:
    # vLLM returns the chosen token beside the top ones, whether it is one of them or not.
    ranked = sorted(position.items(), key=lambda item: item[1].rank or 0)[:alternatives]
    return PositionLogprobs(
        chosen=_logprob(token_id, position[token_id], tokenizer),
        top=tuple(_logprob(tid, entry, tokenizer) for tid, entry in ranked),
    )


def _logprob(token_id: int, entry: Any, tokenizer: Any) -> TokenLogprob:
    raw = _token_bytes(token_id, entry.decoded_token, tokenizer)
    return TokenLogprob(token=raw.decode("utf-8", "replace"), logprob=max(entry.logprob, -9999.0), bytes=raw)


def _token_bytes(token_id: int, decoded: str | None, tokenizer: Any) -> bytes:
    """The token's own bytes, also where they are a fragment of a character (byte-level and byte-fallback BPE)."""
    if decoded is not None and "\ufffd" not in decoded:
        return decoded.encode()
    piece = tokenizer.convert_ids_to_tokens(token_id) or ""
    if match := _BYTE_TOKEN.match(piece):
        return bytes([int(match[1], 16)])
    try:
        return bytes(_GPT2_BYTES[character] for character in piece)
    except KeyError:
        return (decoded or "").encode()


def _gpt2_byte_alphabet() -> dict[str, int]:
    # The printable stand-ins of byte-level BPE: Radford et al. 2019, encoder.py `bytes_to_unicode`.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    missing = [byte for byte in range(256) if byte not in printable]
    table.update({chr(256 + offset): byte for offset, byte in enumerate(missing)})
    return table


_GPT2_BYTES = _gpt2_byte_alphabet()
