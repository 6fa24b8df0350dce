"""The stub's ear: it counts seconds instead of hearing words. Never proof that anything is understood."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

from engine.types import (
    RequestRejected,
    Segment,
    TranscriptionCost,
    TranscriptionRequest,
    TranscriptSink,
)

SEGMENT_SECONDS = 2.0
TOKENS = 3


@dataclass(slots=True)
class StubSpeech:
    """Says ``second N.`` for every two seconds of sound. ``delay``: seconds that a segment takes."""

    delay: float = 0.0
    running: int = 0
    asked: list[TranscriptionRequest] = field(default_factory=list)

    def cost(self, request: TranscriptionRequest) -> TranscriptionCost:
        if request.language not in (None, "en", "de"):
            raise RequestRejected("Invalid 'language': this model knows de, en.", param="language")
        segments = math.ceil(request.sound.seconds / SEGMENT_SECONDS)
        return TranscriptionCost(math.ceil(request.sound.seconds * 50) + 4, segments * TOKENS, 1)

    async def transcribe(self, request: TranscriptionRequest, sink: TranscriptSink) -> None:
        self.asked.append(request)
        self.running += 1
        try:
            sink.heard(request.language or "en")
            at = 0.0
            while at < request.sound.seconds:
                await asyncio.sleep(self.delay)
                end = min(request.sound.seconds, at + SEGMENT_SECONDS)
                sink.spent(TOKENS)
                text = f" Second {int(at)}."
                sink.segment(Segment(at, end, text, (1, 2), request.temperature, -0.25, 0.75, 0.01, 0))
                at += SEGMENT_SECONDS
        finally:
            self.running -= 1
