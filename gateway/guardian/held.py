"""What one choice has said and not yet been allowed to send."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from engine.types import Delta, PositionLogprobs, ToolCallDelta
from gateway.guardian.policy import LONGEST_SENTENCE, StreamPolicy
from gateway.guardian.verdicts import Span

#: A text of a choice that its reader sees by itself: content, reasoning, one call, tokens of log-probabilities.
Channel = tuple[str, int]

TEXT: Final[Channel] = ("text", 0)
REASONING: Final[Channel] = ("reasoning", 0)
CHOSEN: Final[Channel] = ("logprobs", 0)
ALTERNATIVES: Final[Channel] = ("logprobs", 1)
REDACTED: Final = "[REDACTED]"
#: Between what nobody reads as one text: more than what can stand inside of a word.
APART: Final = "\n" * 6

_SENTENCE_END: Final = re.compile(r"[.!?\u3002\uff01\uff1f\n]")


@dataclass(frozen=True, slots=True)
class Look:
    """What is to be judged: ``text`` begins at character ``start`` of ``channel`` and ends where its output does."""

    channel: Channel
    text: str
    start: int

    @property
    def end(self) -> int:
        """The character behind it."""
        return self.start + len(self.text)


class _Text:
    """One channel: its last characters, and how far it has passed. Positions count from the channel's begin."""

    __slots__ = ("_kept_from", "_tail", "passed", "spans")

    def __init__(self) -> None:
        self._tail = ""
        self._kept_from = 0
        self.passed = 0
        self.spans: tuple[Span, ...] = ()

    @property
    def end(self) -> int:
        return self._kept_from + len(self._tail)

    @property
    def fresh(self) -> int:
        """Characters that nobody has looked at."""
        return self.end - self.passed

    def append(self, text: str) -> int:
        self._tail += text
        return self.end

    def since(self, position: int) -> tuple[int, str]:
        start = max(position, self._kept_from)
        return start, self._tail[start - self._kept_from :]

    def forget(self, before: int) -> None:
        if before > self._kept_from:
            self._tail = self._tail[before - self._kept_from :]
            self._kept_from = before


@dataclass(slots=True)
class _Held:
    delta: Delta
    ends: Mapping[Channel, int]


class HeldChoice:
    """Takes a choice's deltas, says what to look at, and gives back what may be sent."""

    def __init__(self, index: int, policy: StreamPolicy) -> None:
        self.index = index
        self.tokens = 0
        self.finished = False
        self.cut = False
        self._policy = policy
        self._texts: dict[Channel, _Text] = {}
        self._held: deque[_Held] = deque()
        self._fresh_tokens = 0

    @property
    def over(self) -> bool:
        """Whether nothing more will be sent of it."""
        return self.cut or (self.finished and not self._held)

    def take(self, delta: Delta) -> None:
        """Keep what the choice gained."""
        self.tokens += delta.tokens
        self._fresh_tokens += delta.tokens
        if self.cut:
            return
        ends = {channel: self._text(channel).append(text) for channel, text in _said(delta) if text}
        self.finished = self.finished or delta.finish_reason is not None
        self._held.append(_Held(replace(delta, tokens=0, reasoning_tokens=0), ends))

    @property
    def due(self) -> bool:
        """Whether it is time to look."""
        if self.cut or not self._held:
            return False
        if self.finished:
            return True
        fresh = max((text.fresh for text in self._texts.values()), default=0)
        if not fresh:
            return False
        if self._policy.unit == "tokens":
            return self._fresh_tokens >= self._policy.step
        if self._policy.unit == "sentences":
            return fresh >= LONGEST_SENTENCE or self._sentences() >= self._policy.step
        return fresh >= self._policy.step

    def _sentences(self) -> int:
        return max(len(_SENTENCE_END.findall(text.since(text.passed)[1])) for text in self._texts.values())

    def looks(self) -> list[Look]:
        """Everything fresh, each with what stands before it."""
        self._fresh_tokens = 0
        found = []
        for channel, text in self._texts.items():
            if text.fresh:
                start, passage = text.since(min(text.passed - self._policy.hold_back, text.end - self._policy.window))
                found.append(Look(channel, passage, start))
        return found

    def passed(self, looks: Sequence[Look], spans: Mapping[Channel, tuple[Span, ...]]) -> None:
        """``looks`` are safe, but for ``spans`` (positions in the channel), which are taken out of what is sent."""
        for look in looks:
            text = self._texts[look.channel]
            text.passed = look.end
            earlier = tuple(span for span in text.spans if span[0] < look.start)
            text.spans = (*earlier, *spans.get(look.channel, ()))
            text.forget(look.end - self._policy.window - self._policy.hold_back)

    def sendable(self) -> Iterator[Delta]:
        """Take out what may be sent now, in order."""
        done = self.finished and not any(text.fresh for text in self._texts.values())
        limits = {channel: self._limit(text, done=done) for channel, text in self._texts.items()}
        while self._held and all(end <= limits[channel] for channel, end in self._held[0].ends.items()):
            if self._held[0].delta.finish_reason is not None and not done:
                return
            held = self._held.popleft()
            yield self._cleaned(held)

    def close(self) -> Delta:
        """Drop what is held; the delta that ends the choice."""
        self.cut = True
        self._held.clear()
        return Delta(self.index, "", 0, "content_filter")

    def _text(self, channel: Channel) -> _Text:
        text = self._texts.get(channel)
        if text is None:
            text = self._texts[channel] = _Text()
        return text

    def _limit(self, text: _Text, *, done: bool) -> int:
        """Up to which character it may be sent: never into something that may go on behind what was seen."""
        if done:
            return text.end
        limit = text.passed - self._policy.hold_back
        for start, end in text.spans:
            if start < limit < end:
                limit = start
        return limit

    def _cleaned(self, held: _Held) -> Delta:
        if not any(text.spans for text in self._texts.values()):
            return held.delta
        delta = held.delta
        begins = {channel: held.ends[channel] - len(text) for channel, text in _said(delta) if text}
        spans = {channel: self._texts[channel].spans for channel in begins}
        calls = tuple(_clean_call(call, begins, spans) for call in delta.tool_calls)
        return replace(
            delta,
            text=without(delta.text, begins.get(TEXT, 0), spans.get(TEXT, ())),
            reasoning=without(delta.reasoning, begins.get(REASONING, 0), spans.get(REASONING, ())),
            tool_calls=calls,
            logprobs=None if _touched(held.ends, begins, spans) else delta.logprobs,
        )


def _clean_call(
    call: ToolCallDelta, begins: Mapping[Channel, int], spans: Mapping[Channel, tuple[Span, ...]]
) -> ToolCallDelta:
    channel = _call_channel(call.index)
    begin = begins.get(channel, 0) + len(_name(call))
    return ToolCallDelta(call.index, call.name, without(call.arguments, begin, spans.get(channel, ())))


def _touched(
    ends: Mapping[Channel, int], begins: Mapping[Channel, int], spans: Mapping[Channel, tuple[Span, ...]]
) -> bool:
    """Whether anything was taken out where this delta stands: its tokens would spell it."""
    return any(
        start < ends[channel] and end > begin for channel, begin in begins.items() for start, end in spans[channel]
    )


def without(text: str, begin: int, spans: Sequence[Span]) -> str:
    """``text``, which stands at ``begin``, without ``spans``; a mark stands where each began."""
    out = []
    position = begin
    for start, end in _merged(spans):
        if end <= begin or start >= begin + len(text):
            continue
        out.append(text[max(0, position - begin) : max(0, start - begin)])
        if start >= begin:
            out.append(REDACTED)
        position = max(position, end)
    out.append(text[max(0, position - begin) :])
    return "".join(out)


def _merged(spans: Sequence[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _call_channel(index: int) -> Channel:
    return ("call", index)


def _name(call: ToolCallDelta) -> str:
    return "" if call.name is None else call.name + "\n"


def _said(delta: Delta) -> Iterator[tuple[Channel, str]]:
    """Every text that a reader of ``delta`` sees."""
    yield REASONING, delta.reasoning
    yield TEXT, delta.text
    calls: dict[int, str] = {}
    for call in delta.tool_calls:
        calls[call.index] = calls.get(call.index, "") + _name(call) + call.arguments
    for index, text in calls.items():
        yield _call_channel(index), text
    if delta.logprobs:
        yield CHOSEN, _tokens(delta.logprobs)
        yield ALTERNATIVES, "".join(f"{token.token}{APART}" for position in delta.logprobs for token in position.top)


def _tokens(positions: Sequence[PositionLogprobs]) -> str:
    return b"".join(position.chosen.bytes for position in positions).decode("utf-8", "replace")
