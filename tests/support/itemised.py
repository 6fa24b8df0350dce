"""Streams of itemised surfaces: read back event by event, as their clients do; and deltas to make them of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from engine.types import Delta, FinishReason, ToolCallDelta
from gateway.protocol.encode import Encoder, Usage
from gateway.sinks import Meter, StreamSink, WholeSink

Event = dict[str, Any]


def events_of(sent: bytes | str) -> list[Event]:
    """The events of a whole stream; every one has its type for a name."""
    text = sent.decode() if isinstance(sent, bytes) else sent
    assert text.endswith("\n\n")
    found = []
    for block in text[:-2].split("\n\n"):
        if block.startswith(":"):
            continue
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model did: thoughts, a text, calls, and why it ended."""

    reasoning: str
    text: str
    calls: tuple[tuple[str, str], ...]
    reason: FinishReason
    stop: str | None

    def deltas(self, cuts: Sequence[int]) -> list[Delta]:
        """The answer in pieces: ``cuts`` are the sizes of the first ones."""
        sizes = iter(cuts)
        out = [Delta(0, "", 1, reasoning=piece) for piece in _pieces(self.reasoning, sizes)]
        out += [Delta(0, piece, 1) for piece in _pieces(self.text, sizes)]
        for index, (name, arguments) in enumerate(self.calls):
            out.append(Delta(0, "", 1, tool_calls=(ToolCallDelta(index, name, ""),)))
            for piece in _pieces(arguments, sizes):
                out.append(Delta(0, "", 1, tool_calls=(ToolCallDelta(index, None, piece),)))
        return [*out, Delta(0, "", 1, self.reason, stop=self.stop)]


def _pieces(text: str, sizes: Any) -> list[str]:
    out = []
    while text:
        size = next(sizes, len(text))
        out.append(text[:size])
        text = text[size:]
    return out


arguments = st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=6), max_size=3).map(json.dumps)
answers = st.builds(
    Answer,
    reasoning=st.text(max_size=12),
    text=st.text(max_size=12),
    calls=st.lists(st.tuples(st.sampled_from(["f", "g"]), arguments), max_size=3).map(tuple),
    reason=st.sampled_from(["stop", "length", "tool_calls"]),
    stop=st.none(),
)
cuts = st.lists(st.integers(1, 5), max_size=20)


class Wire:
    """A connection that a test pauses and resumes."""

    def __init__(self) -> None:
        self.paused = False
        self.on_resume: Any = None
        self.sent = b""

    def write(self, data: bytes) -> None:
        self.sent += data

    def finish(self, data: bytes = b"") -> None:
        self.sent += data

    def abort(self) -> None:
        raise AssertionError("cut")


def streamed(encoder: Encoder, deltas: Sequence[Delta], usage: Usage, pauses: frozenset[int] = frozenset()) -> bytes:
    """The stream of ``deltas``; during those numbered in ``pauses`` the client does not read."""
    wire = Wire()
    sink = StreamSink(wire, encoder, Meter(lambda: None), lambda: None)  # type: ignore[arg-type]
    for number, delta in enumerate(deltas):
        resumes = wire.paused and number not in pauses
        wire.paused = number in pauses
        if resumes:
            wire.on_resume()
        plain = replace(delta, tokens=0) == Delta(0, delta.text, 0)
        if plain:
            sink.text(delta.text, 1)
        else:
            sink.delta(replace(delta))
    wire.paused = False
    sink.finish(usage)
    return wire.sent


def whole(encoder: Encoder, answer: Answer, usage: Usage) -> Any:
    """The answer that is not streamed."""
    sink = WholeSink(1, Meter(lambda: None))
    calls = tuple(ToolCallDelta(index, name, text) for index, (name, text) in enumerate(answer.calls))
    sink.delta(Delta(0, answer.text, 1, answer.reason, None, answer.reasoning, calls, stop=answer.stop))
    return json.loads(encoder.whole(sink.choices(), usage))
