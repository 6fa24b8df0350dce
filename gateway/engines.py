"""Builds the real engine from settings: the one place where the gateway names it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config import EngineConfig, prepare_environment
from gateway.settings import Settings

if TYPE_CHECKING:
    from engine.runtime import VllmEngine


def build_engine(settings: Settings, model: str, name: str) -> VllmEngine:
    """An engine for ``model``, not started. Slow the first time: it imports vLLM."""
    prepare_environment(os.environ, model_is_local=Path(model).is_dir())
    # Only now: libraries below vLLM read their environment when they are imported.
    from engine.runtime import VllmEngine

    return VllmEngine(
        EngineConfig(
            model=model,
            served_name=name,
            arguments=settings.engine,
            hang_timeout=settings.hang_timeout,
            kill_timeout=settings.engine_kill_timeout,
            tool_parser=settings.tool_parser,
            schema_seconds=settings.schema_seconds,
            max_images=settings.media.max_images,
        )
    )
