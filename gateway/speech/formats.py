"""Transcripts as OpenAI sends them: json, text, verbose_json, SubRip and WebVTT, and the events of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from engine.types import Delta, Segment
from gateway.errors import ApiError, content_policy_violation
from gateway.protocol.encode import DONE, KEEP_ALIVE, Choice, Usage, sse
from gateway.protocol.transcription import ResponseFormat, Task
from gateway.speech.languages import name_of

PLAIN: Final = b"text/plain; charset=utf-8"
MEDIA_TYPES: Final[dict[ResponseFormat, bytes]] = {
    "json": b"application/json",
    "verbose_json": b"application/json",
    "text": PLAIN,
    "srt": PLAIN,
    "vtt": PLAIN,
}


class Transcript:
    """What was heard so far. ``seconds`` is the whole sound's length."""

    def __init__(self, task: Task, seconds: float) -> None:
        self.task = task
        self.seconds = seconds
        self.language = ""
        self.segments: list[Segment] = []

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(segment.text for segment in self.segments)

    def reworded(self, text: str) -> Sequence[Segment]:
        """The segments, if they say ``text``; else one that does: nobody knows any more what was said when."""
        if text == self.text or not self.segments:
            return self.segments
        first, last = self.segments[0], self.segments[-1]
        return [
            Segment(
                first.start,
                last.end,
                text,
                (),
                first.temperature,
                first.logprob,
                first.compression,
                first.no_speech,
                first.seek,
            )
        ]


class TranscriptEncoder:
    """See :class:`gateway.protocol.encode.Encoder`."""

    keep_alive = KEEP_ALIVE

    def __init__(self, form: ResponseFormat, transcript: Transcript) -> None:
        self._form = form
        self._transcript = transcript
        self._streamed: list[str] = []
        self._cut = False

    # -- streams ------------------------------------------------------------------------------------------------

    def cached(self, tokens: int) -> None:
        """See :class:`Encoder`: sounds are not cached."""

    def opening(self, index: int) -> bytes:  # noqa: ARG002 - the interface
        """See :class:`Encoder`."""
        return b""

    def text(self, text: str) -> bytes:
        """See :class:`Encoder`."""
        if not text:
            return b""
        text = text if self._streamed else text.lstrip()
        self._streamed.append(text)
        return sse(orjson.dumps({"type": "transcript.text.delta", "delta": text}))

    def delta(self, delta: Delta) -> bytes:
        """See :class:`Encoder`."""
        self._cut = self._cut or delta.finish_reason == "content_filter"
        return self.text(delta.text)

    def closing(self, usage: Usage) -> bytes:
        """See :class:`Encoder`. A transcript has no word for having been cut, so that is an error."""
        if self._cut:
            return self.failed(_cut())
        done = {"type": "transcript.text.done", "text": "".join(self._streamed), "usage": self._tokens(usage)}
        return sse(orjson.dumps(done)) + DONE

    def failed(self, error: ApiError) -> bytes:
        """See :class:`Encoder`."""
        return sse(error.payload())

    # -- whole answers ------------------------------------------------------------------------------------------

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """See :class:`Encoder`. Raises :class:`ApiError` for a transcript that the guard has cut."""
        if choices[0].finish_reason == "content_filter":
            raise _cut()
        segments = self._transcript.reworded(choices[0].text)
        text = choices[0].text.strip()
        match self._form:
            case "json":
                return orjson.dumps({"text": text, "usage": self._tokens(usage)})
            case "verbose_json":
                return orjson.dumps(self._verbose(text, segments))
            case "text":
                return text.encode() + b"\n"
            case "srt":
                return srt(segments).encode()
        return vtt(segments).encode()

    def _verbose(self, text: str, segments: Sequence[Segment]) -> dict[str, Any]:
        transcript = self._transcript
        return {
            "task": transcript.task,
            "language": name_of(transcript.language),
            "duration": round(transcript.seconds, 3),
            "text": text,
            "segments": [_segment(number, segment) for number, segment in enumerate(segments)],
            "usage": {"type": "duration", "seconds": round(transcript.seconds)},
        }

    def _tokens(self, usage: Usage) -> dict[str, Any]:
        return {
            "type": "tokens",
            "input_tokens": usage.prompt_tokens,
            "output_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }


def _cut() -> ApiError:
    return content_policy_violation((), param=None)


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    return {
        "id": number,
        "seek": segment.seek,
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": segment.logprob,
        "compression_ratio": segment.compression,
        "no_speech_prob": segment.no_speech,
    }


def srt(segments: Sequence[Segment]) -> str:
    """SubRip: numbered, with a comma before the milliseconds."""
    return "".join(
        f"{number}\n{_clock(each.start, ',')} --> {_clock(each.end, ',')}\n{_cue(each.text)}\n\n"
        for number, each in enumerate(segments, 1)
    )


def vtt(segments: Sequence[Segment]) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1/)."""
    cues = (f"{_clock(each.start, '.')} --> {_clock(each.end, '.')}\n{_cue(each.text)}\n\n" for each in segments)
    return "WEBVTT\n\n" + "".join(cues)


def _cue(text: str) -> str:
    """Text of a cue: on one line, and without the arrow that would begin another."""
    return " ".join(text.split()).replace("-->", "->")


def _clock(seconds: float, mark: str) -> str:
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{mark}{rest % 1000:03d}"
