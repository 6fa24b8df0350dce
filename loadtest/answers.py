"""Reads recorded answers: what arrived when, and whether it is what was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from loadtest.client import Recording


class InvalidRunError(Exception):
    """A server did not deliver what was asked; its figures would mean nothing."""


class _Delta(msgspec.Struct):
    role: str | None = None
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Answer(msgspec.Struct):
    """A chat completion or one chunk of it; an error leaves ``choices`` empty and ``usage`` None."""

    choices: list[_Choice] = []
    usage: _Usage | None = None


class _Named(msgspec.Struct):
    id: str


class _List(msgspec.Struct):
    data: list[_Named]


_decode = msgspec.json.Decoder(_Answer).decode
_decode_list = msgspec.json.Decoder(_List).decode


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """A stream as its client saw it: seconds to the first token event, and between token events after it."""

    ttft: float
    gaps: list[float]
    events: int


def read_stream(recording: Recording, *, tokens: int) -> StreamTimes:
    """The times of a streamed chat completion of exactly ``tokens`` tokens.

    A token event is one whose delta has content and no role: servers open a stream with a role event before
    there is a token. Raises :class:`InvalidRunError` for any other answer.
    """
    arrivals: list[float] = []
    completion_tokens, finish_reason, ended = None, None, False
    for arrival, payload in _events(recording):
        if payload == b"[DONE]":
            ended = True
            continue
        chunk = _decode(payload)
        if chunk.usage is not None:
            completion_tokens = chunk.usage.completion_tokens
        for choice in chunk.choices:
            finish_reason = choice.finish_reason or finish_reason
            if choice.delta.content is not None and choice.delta.role is None:
                arrivals.append(arrival)
    if (completion_tokens, finish_reason, ended) != (tokens, "length", True):
        raise InvalidRunError(
            f"a stream of {tokens} tokens was asked for; usage says {completion_tokens}, "
            f"finish_reason {finish_reason}, [DONE] {'seen' if ended else 'missing'}"
        )
    if not arrivals:
        raise InvalidRunError("a stream without a token event")
    gaps = [after - before for before, after in pairwise(arrivals)]
    return StreamTimes(arrivals[0] - recording.sent, gaps, len(arrivals))


def read_completion(recording: Recording, *, tokens: int) -> None:
    """Check that a non-streamed chat completion has exactly ``tokens`` tokens, or raise :class:`InvalidRunError`."""
    usage = _decode(_body(recording)).usage
    if usage is None or usage.completion_tokens != tokens:
        raise InvalidRunError(f"a completion of {tokens} tokens was asked for; usage says {usage}")


def read_model_id(recording: Recording) -> str:
    """The id of the first model in an answer of ``GET /v1/models``."""
    return _decode_list(_body(recording)).data[0].id


def status(recording: Recording) -> int:
    """The HTTP status of an answer."""
    return int(recording.raw[9:12])


def _events(recording: Recording) -> Iterator[tuple[float, bytes]]:
    """Arrival and data of every server-sent event; comments are left out."""
    pending = b""
    for arrival, piece in _pieces(recording):
        pending += piece
        *complete, pending = pending.split(b"\n\n")
        for event in complete:
            if event.startswith(b"data: "):
                yield arrival, event[6:]


def _body(recording: Recording) -> bytes:
    return b"".join(piece for _, piece in _pieces(recording))


def _pieces(recording: Recording) -> Iterator[tuple[float, bytes]]:
    """Arrival (of its last byte) and payload of every chunk of the body; one piece if it is not chunked."""
    raw, marks = bytes(recording.raw), iter(recording.marks)
    start = raw.index(b"\r\n\r\n") + 4
    if status(recording) != 200:
        raise InvalidRunError(f"answered {raw[:500]!r}")
    if b"transfer-encoding: chunked" not in raw[:start].lower():
        yield recording.finished, raw[start:]
        return
    arrival, received = next(marks)
    while size := int(raw[start : (data := raw.index(b"\r\n", start) + 2) - 2], 16):
        end = data + size
        while received < end:
            arrival, received = next(marks)
        yield arrival, raw[data:end]
        start = end + 2
