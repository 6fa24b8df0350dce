"""What an uploaded sound may be."""

from __future__ import annotations

from pydantic import Field

from gateway.settings.section import Section


class SpeechSettings(Section):
    """Bounds of transcriptions."""

    max_file_bytes: int = Field(25 * 1024 * 1024, ge=1024, description="Largest uploaded sound.")
    max_seconds: float = Field(1800.0, gt=0, le=36_000, description="Longest sound.")
    max_spool_bytes: int = Field(
        512 * 1024 * 1024,
        ge=1024 * 1024,
        description="Memory for uploaded and decoded sounds, over all requests; beyond it they get 503.",
    )
    decoders: int = Field(2, ge=1, le=64, description="Sounds that are decoded at once, each in a process of its own.")
    decode_timeout: float = Field(60.0, gt=0, description="Seconds that decoding one sound may take.")
