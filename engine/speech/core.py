"""A started engine that hears: vLLM's Whisper (vllm/model_executor/models/whisper.py, checked against 0.32.0)."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from vllm import SamplingParams
from vllm.outputs import RequestOutput
from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind

from engine.core import EngineCore
from engine.output import as_engine_error
from engine.speech.heard import LOOP_TIMES, LOOP_TOKENS, compression, segments_of, without_loop
from engine.speech.join import joined
from engine.speech.vocabulary import Vocabulary
from engine.speech.windows import Window, is_silent, windows_of
from engine.types import (
    SOUND_RATE,
    EngineError,
    EngineUnavailable,
    Segment,
    TranscriptionCost,
    TranscriptionRequest,
    TranscriptSink,
)

#: Windows of one sound that run at once.
AT_ONCE: Final = 4
#: Positions that the encoder makes of a second of sound.
_POSITIONS: Final = 50
#: Tokens that the model may write of one window: more are not said in 30 s.
_MOST: Final = 224
#: Whisper's own rule of when nobody spoke.
_NO_SPEECH: Final = 0.6
_UNSURE: Final = -1.0
_FORBID: Final = -100.0
#: How many of the likeliest tokens are looked through for the one that says that nobody speaks.
_LIKELIEST: Final = 20


@dataclass(slots=True)
class _Task:
    """A request on its way. ``samples`` are 16-bit."""

    request: TranscriptionRequest
    sink: TranscriptSink
    samples: Any
    before: Sequence[int]
    windows: Sequence[Window]
    language: str = ""
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    def piece(self, window: Window) -> Any:
        """The window's samples as the model wants them."""
        begin, end = int(window.start * SOUND_RATE), int(window.end * SOUND_RATE)
        return self.samples[begin:end]


class SpeechCore(EngineCore):
    """See :class:`EngineCore`; instead of generating from a prompt it transcribes."""

    def __init__(self, llm: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(llm, *args, **kwargs)
        config = llm.model_config.hf_config
        if config.model_type != "whisper":
            raise EngineUnavailable(f"a {config.model_type} model does not transcribe; Whisper does")
        generation = llm.model_config.try_get_generation_config()
        self.vocabulary_of_speech = Vocabulary(llm.get_tokenizer(), generation, config.max_target_positions)
        self._waiting_for: set[asyncio.Task[Any]] = set()

    async def attach(self) -> None:
        """Bind to the running event loop and prove with a second of silence that the engine answers."""
        words = self.vocabulary_of_speech
        silence = np.zeros(SOUND_RATE, dtype=np.float32)
        params = SamplingParams(max_tokens=1, temperature=0.0, output_kind=RequestOutputKind.FINAL_ONLY)
        await self._ask_model("sluice-warm-up", silence, words.question(), params, priority=0)

    def transcription_cost(self, request: TranscriptionRequest) -> TranscriptionCost:
        """See :meth:`engine.types.Engine.transcription_cost`."""
        words = self.vocabulary_of_speech
        words.check(request.language, request.task)
        windows = windows_of(_samples(request), SOUND_RATE)
        spoken = request.language or next(iter(words.languages), "en")
        opening = len(words.opening(words.before(request.prompt), spoken, request.task))
        asks = request.language is None and words.only_language is None
        heard = sum(math.ceil((window.end - window.start) * _POSITIONS) + opening for window in windows)
        return TranscriptionCost(
            prompt_tokens=heard,
            max_tokens=self._room(opening) * len(windows) + asks,
            sequences=min(AT_ONCE, len(windows)),
        )

    def _room(self, opening: int) -> int:
        return max(1, min(_MOST, self.context_length - opening))

    async def transcribe(self, request: TranscriptionRequest, sink: TranscriptSink) -> None:
        """See :meth:`engine.types.Engine.transcribe`."""
        task = asyncio.ensure_future(self._transcribe(request, sink))
        self._waiting_for.add(task)
        try:
            await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                raise
            raise EngineUnavailable("the engine is not available") from None
        finally:
            self._waiting_for.discard(task)

    def fail_all(self, reason: str, *, only_waiting: bool = False) -> None:
        """See :meth:`EngineCore.fail_all`; a transcription has no first token that would make it keep waiting."""
        super().fail_all(reason, only_waiting=only_waiting)
        for task in list(self._waiting_for):
            task.cancel()

    async def _transcribe(self, request: TranscriptionRequest, sink: TranscriptSink) -> None:
        words = self.vocabulary_of_speech
        samples = _samples(request)
        loop = asyncio.get_running_loop()
        windows = await loop.run_in_executor(None, windows_of, samples, SOUND_RATE)
        task = _Task(request, sink, samples, words.before(request.prompt), windows)
        task.language = request.language or words.only_language or await self._find_language(task)
        sink.heard(task.language)
        runs = [asyncio.ensure_future(self._window(task, number)) for number in range(len(windows))]
        try:
            held: list[Segment] = []
            for number, run in enumerate(runs):
                held = self._emit(task, number, held, await run)
        finally:
            for run in runs:
                run.cancel()
            await asyncio.gather(*runs, return_exceptions=True)

    def _emit(self, task: _Task, number: int, held: list[Segment], found: list[Segment]) -> list[Segment]:
        """Push what is certain; what the next window may hear again is held back."""
        windows = task.windows
        if windows[number].overlap:
            held, found = joined(held, found, windows[number - 1].end)
        ready = held + found
        again = number + 1 < len(windows) and windows[number + 1].overlap
        from_here = windows[number + 1].start if again else math.inf
        keep = [segment for segment in ready if segment.end > from_here]
        for segment in ready[: len(ready) - len(keep)]:
            task.sink.segment(segment)
        return keep

    async def _find_language(self, task: _Task) -> str:
        """What is spoken in the first window in which there is a sound; English where there is none."""
        words = self.vocabulary_of_speech
        pieces = (task.piece(window) for window in task.windows)
        piece = next((piece for piece in pieces if not is_silent(piece)), None)
        if piece is None:
            return "en"
        ids = sorted(words.languages.values())
        params = SamplingParams(
            max_tokens=1, temperature=0.0, allowed_token_ids=ids, output_kind=RequestOutputKind.FINAL_ONLY
        )
        output = await self._ask_model(
            f"{task.request.request_id}-language", _floats(piece), words.question(), params, task.request.priority
        )
        task.sink.spent(1)
        spoken = output.outputs[0].token_ids[0]
        return next(name for name, number in words.languages.items() if number == spoken)

    async def _window(self, task: _Task, number: int) -> list[Segment]:
        async with task.turns:
            window = task.windows[number]
            piece = task.piece(window)
            if is_silent(piece):
                return []
            words = self.vocabulary_of_speech
            opening = words.opening(task.before, task.language, task.request.task)
            output = await self._ask_model(
                f"{task.request.request_id}-{number}",
                _floats(piece),
                opening,
                self._sampling(task.request, len(opening)),
                task.request.priority,
            )
            task.sink.spent(len(output.outputs[0].token_ids))
            return self._segments(task, window, output, no_speech(output, len(task.before), words.no_speech))

    def _sampling(self, request: TranscriptionRequest, opening: int) -> SamplingParams:
        return SamplingParams(
            max_tokens=self._room(opening),
            temperature=request.temperature,
            logprobs=0,
            prompt_logprobs=_LIKELIEST,
            logit_bias=dict.fromkeys(self.vocabulary_of_speech.suppressed, _FORBID),
            repetition_detection=RepetitionDetectionParams(
                max_pattern_size=LOOP_TOKENS, min_pattern_size=1, min_count=2 * LOOP_TIMES
            ),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _segments(self, task: _Task, window: Window, output: RequestOutput, no_speech: float) -> list[Segment]:
        words = self.vocabulary_of_speech
        written = output.outputs[0]
        tokens = [token for token in written.token_ids if token != words.end]
        logprob = (written.cumulative_logprob or 0.0) / max(1, len(written.token_ids))
        if no_speech > _NO_SPEECH and logprob < _UNSURE:
            return []
        heard = segments_of(without_loop(tokens), words.first_timestamp, window.end - window.start, words.decode)
        return [
            Segment(
                start=window.start + each.start,
                end=window.start + each.end,
                text=each.text,
                tokens=each.tokens,
                temperature=task.request.temperature,
                logprob=logprob,
                compression=compression(each.text),
                no_speech=no_speech,
                seek=round(window.start * 100),
            )
            for each in heard
        ]

    async def _ask_model(
        self, request_id: str, sound: Any, opening: list[int], params: SamplingParams, priority: int
    ) -> RequestOutput:
        """Run one window. vLLM computes its spectrogram on a thread of its own."""
        prompt = {
            # The name keeps vLLM from hashing the sound, and equal sounds of two requests apart.
            "encoder_prompt": {
                "prompt": "",
                "multi_modal_data": {"audio": (sound, SOUND_RATE)},
                "multi_modal_uuids": {"audio": request_id},
            },
            "decoder_prompt": {"prompt_token_ids": opening},
        }
        final = None
        try:
            async with aclosing(self._llm.generate(prompt, params, request_id, priority=priority)) as outputs:
                async for output in outputs:
                    self.watchdog.sign_of_life()
                    final = output
        except EngineError:
            raise
        except Exception as error:
            raise as_engine_error(error) from error
        assert final is not None
        self._finishes.append(time.monotonic())
        return final


def no_speech(output: RequestOutput, before: int, token: int) -> float:
    """How likely the model thought it, where the language stands, that nobody speaks (Whisper's own measure).

    ``before``: tokens ahead of the one that begins the transcript. 0 if it was not among the likeliest.
    """
    places = output.prompt_logprobs or []
    likeliest = places[before + 1] if before + 1 < len(places) else None
    found = likeliest.get(token) if likeliest else None
    return math.exp(found.logprob) if found is not None else 0.0


def _samples(request: TranscriptionRequest) -> Any:
    return np.frombuffer(request.sound.samples, dtype=np.int16)


def _floats(piece: Any) -> Any:
    return piece.astype(np.float32) / 32768.0
