"""A transcription's way: the form as it comes, the sound decoded, then the pipeline's stages as for any request."""

from __future__ import annotations

import mmap
from typing import Final

from engine.types import Engine, EngineError, ModelInfo, ModelKind, Sound, TranscriptionRequest
from gateway.access.principal import Principal
from gateway.errors import from_engine, invalid, not_configured
from gateway.exchange import Exchange
from gateway.pipeline import Pipeline
from gateway.protocol.multipart import OVERHEAD_BYTES, FormReader, boundary_of
from gateway.protocol.transcription import FILE, Form, Task, parse_form
from gateway.protocol.validation import missing
from gateway.speech.decode import Decoding
from gateway.speech.formats import Transcript, TranscriptEncoder
from gateway.speech.job import Call, SoundJob
from gateway.speech.spool import Spool, SpoolBudget

ID_PREFIX: Final = "transcr-"
KINDS: Final = frozenset[ModelKind]({"transcribe"})


class Transcriptions:
    """Serves both routes. ``max_file_bytes`` bounds one upload."""

    def __init__(
        self, pipeline: Pipeline, engine: Engine, decoding: Decoding, budget: SpoolBudget, max_file_bytes: int
    ) -> None:
        self._pipeline = pipeline
        self._engine = engine
        self._decoding = decoding
        self._budget = budget
        self._max_file_bytes = max_file_bytes

    async def serve(self, exchange: Exchange, task: Task) -> None:
        """One transcription, from its headers to the settled account. Raises :class:`ApiError`."""
        principal, deadline = self._pipeline.begin(exchange, ID_PREFIX)
        await self._require_transcriber(exchange, principal)
        with Spool(self._budget, "upload") as upload:
            form = await self._read(exchange, upload, task)
            exchange.streaming = form.streams
            model = self._pipeline.resolve(exchange, form.model, principal, KINDS)
            async with self._pipeline.until(deadline, exchange):
                with exchange.span.child("decode sound"):
                    sound = await self._decoding.decode(upload)
                with sound as decoded:
                    upload.close()
                    async with self._pipeline.holding(model, exchange.span) as held:
                        await self._run(exchange, principal, form, held, task, _mapped(decoded), deadline)

    async def _require_transcriber(self, exchange: Exchange, principal: Principal) -> None:
        if not any(model.kind in KINDS for model in self._pipeline.visible(principal)):
            async for _ in exchange.body(self._max_file_bytes + OVERHEAD_BYTES):
                pass  # who is still sending would not see the answer
            raise not_configured(KINDS)

    async def _read(self, exchange: Exchange, upload: Spool, task: Task) -> Form:
        boundary = boundary_of(exchange.header(b"content-type") or b"")
        reader = FormReader(boundary, FILE, upload, self._max_file_bytes)
        async for piece in exchange.body(self._max_file_bytes + OVERHEAD_BYTES):
            reader.write(piece)
        received = reader.close()
        form = parse_form(received.fields, task)
        if received.file_bytes is None:
            raise missing().at(FILE)
        if not received.file_bytes:
            raise invalid("The file is empty.", code="invalid_audio", param=FILE)
        return form

    async def _run(
        self,
        exchange: Exchange,
        principal: Principal,
        form: Form,
        model: ModelInfo,
        task: Task,
        sound: Sound,
        deadline: float,
    ) -> None:
        assert exchange.life is not None
        request = TranscriptionRequest(
            request_id=exchange.life.request_id,
            model=model.id,
            sound=sound,
            task=task,
            language=form.spoken,
            prompt=form.prompt,
            temperature=form.temperature,
        )
        try:
            cost = await self._engine.transcription_cost(request)
        except EngineError as error:
            raise from_engine(error, prompt_param=FILE) from error
        transcript = Transcript(task, sound.seconds)
        job = SoundJob(
            request=Call(model.id, form.streams),
            model=model,
            response_id=request.request_id,
            prompts=(),
            samplings=(),
            encoder=TranscriptEncoder(form.response_format, transcript),
            prompt_param=FILE,
            cache_salt=None,
            sound=request,
            cost=cost,
            transcript=transcript,
            format=form.response_format,
        )
        watch = self._pipeline.watch(exchange, principal, model, "prompt")
        await self._pipeline.serve(
            exchange, principal, job, watch, lambda: [form.prompt] if form.prompt else [], deadline
        )


def _mapped(decoded: Spool) -> Sound:
    """The decoded samples without a copy of them: they stay until nobody looks at them any more."""
    memory = mmap.mmap(decoded.fd, 0, prot=mmap.PROT_READ)
    return Sound(memoryview(memory).cast("h"))
