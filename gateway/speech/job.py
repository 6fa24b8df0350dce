"""A transcription as the pipeline runs it: a job whose output is text like any other's, so the guard sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.types import (
    Constraint,
    Delta,
    DeltaSink,
    Engine,
    Parsing,
    Sampling,
    Segment,
    TranscriptionCost,
    TranscriptionRequest,
)
from gateway.protocol.sampling import RequestBounds
from gateway.protocol.transcription import ResponseFormat
from gateway.speech.formats import MEDIA_TYPES, Transcript
from gateway.work import Job


@dataclass(frozen=True, slots=True)
class Call:
    """See :class:`gateway.pipeline.Generation`: one choice, without anything that only generated text has."""

    model: str
    stream: bool
    n: int = 1
    requested_max_tokens: int | None = None

    def labels(self) -> Mapping[str, str]:
        """See :class:`gateway.pipeline.Generation`."""
        return {}

    def to_sampling(self, bounds: RequestBounds) -> Sampling:
        """See :class:`gateway.pipeline.Generation`."""
        return Sampling(max_tokens=bounds.max_tokens)

    def constraint(self) -> Constraint | None:
        """See :class:`gateway.pipeline.Generation`."""
        return None

    def parsing(self) -> Parsing | None:
        """See :class:`gateway.pipeline.Generation`."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundJob(Job[Call]):
    """See :class:`gateway.pipeline.Job`."""

    sound: TranscriptionRequest
    cost: TranscriptionCost
    transcript: Transcript
    format: ResponseFormat

    @property
    def prompt_tokens(self) -> int:
        """See :class:`gateway.pipeline.Job`."""
        return self.cost.prompt_tokens

    @property
    def max_tokens(self) -> int:
        """See :class:`gateway.pipeline.Job`."""
        return self.cost.max_tokens

    @property
    def choices(self) -> int:
        """See :class:`gateway.pipeline.Job`."""
        return 1

    @property
    def sequences(self) -> int:
        """See :class:`gateway.pipeline.Job`."""
        return self.cost.sequences

    @property
    def media_type(self) -> bytes:
        """See :class:`gateway.pipeline.Job`."""
        return MEDIA_TYPES[self.format]

    async def run(self, engine: Engine, sink: DeltaSink, priority: int, *, stream: bool) -> None:  # noqa: ARG002
        """See :class:`gateway.pipeline.Job`."""
        await engine.transcribe(replace(self.sound, priority=priority), _Listener(self.transcript, sink))
        sink.delta(Delta(0, "", 0, "stop"))


class _Listener:
    """See :class:`engine.types.TranscriptSink`."""

    def __init__(self, transcript: Transcript, sink: DeltaSink) -> None:
        self._transcript = transcript
        self._sink = sink

    def spent(self, tokens: int) -> None:
        """See :class:`engine.types.TranscriptSink`."""
        self._sink.delta(Delta(0, "", tokens))

    def heard(self, language: str) -> None:
        """See :class:`engine.types.TranscriptSink`."""
        self._transcript.language = language

    def segment(self, segment: Segment) -> None:
        """See :class:`engine.types.TranscriptSink`."""
        self._transcript.segments.append(segment)
        self._sink.delta(Delta(0, segment.text, 0))
