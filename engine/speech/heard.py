"""What one window's tokens say: segments between timestamps."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

#: Seconds from one timestamp token to the next.
TIMESTAMP: Final = 0.02
#: A pattern of up to so many tokens that is written so often in a row is a loop, not speech.
LOOP_TOKENS: Final = 24
LOOP_TIMES: Final = 4
_MIN_RUN: Final = 8


@dataclass(frozen=True, slots=True)
class Heard:
    """Text between two timestamps, in seconds from the window's beginning."""

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]


def segments_of(
    tokens: Sequence[int], first_timestamp: int, length: float, decode: Callable[[Sequence[int]], str]
) -> list[Heard]:
    """Segments of a window of ``length`` seconds whose prompt ended with the timestamp 0.

    Times never fall and stay within the window, whatever the model wrote; text without an end lasts to the window's.
    """
    found: list[Heard] = []
    start, text = 0.0, list[int]()

    def close(end: float) -> None:
        if (spoken := decode(text)).strip():
            found.append(Heard(start, end, spoken, tuple(text)))
        text.clear()

    for token in tokens:
        if token < first_timestamp:
            text.append(token)
            continue
        now = min(length, max(start, (token - first_timestamp) * TIMESTAMP))
        close(now)
        start = now
    close(length)
    return found


def without_loop(tokens: Sequence[int]) -> list[int]:
    """``tokens`` with the loop at their end, if there is one, gone round once."""
    kept = list(tokens)
    for size in range(1, min(LOOP_TOKENS, len(kept) // 2) + 1):
        pattern, times = kept[-size:], 1
        while kept[-size * (times + 1) : -size * times] == pattern:
            times += 1
        if times >= LOOP_TIMES and size * times >= _MIN_RUN:
            return kept[: len(kept) - size * (times - 1)]
    return kept


def compression(text: str) -> float:
    """Bytes of ``text`` over bytes of it compressed, as Whisper measures repetition; 0 for nothing."""
    data = text.strip().encode("utf-8")
    return len(data) / len(zlib.compress(data)) if data else 0.0
