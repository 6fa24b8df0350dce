"""POST /v1/audio/transcriptions and /v1/audio/translations."""

from __future__ import annotations

from typing import Any

from gateway.access.principal import Scope
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy
from gateway.limits.reserve import LimitClass
from gateway.protocol.responses import Transcription, TranscriptionEvent
from gateway.protocol.transcription import TranscriptionForm, TranslationForm
from gateway.routing import Route
from gateway.speech.way import Transcriptions


def routes(transcriptions: Transcriptions) -> list[Route]:
    """The routes of this resource."""

    async def transcribe(exchange: Exchange) -> None:
        await transcriptions.serve(exchange, "transcribe")

    async def translate(exchange: Exchange) -> None:
        await transcriptions.serve(exchange, "translate")

    declared: dict[str, Any] = {
        "scope": Scope.INFERENCE,
        "limit_class": LimitClass.GENERATION,
        "guard": GuardPolicy.GENERATION,
        "runs_model": True,
        "response": Transcription,
        "form": True,
    }
    return [
        Route(
            "POST",
            "/v1/audio/transcriptions",
            transcribe,
            "Write down what is said",
            request=TranscriptionForm,
            stream=TranscriptionEvent,
            **declared,
        ),
        Route(
            "POST",
            "/v1/audio/translations",
            translate,
            "Write down in English what is said",
            request=TranslationForm,
            **declared,
        ),
    ]
