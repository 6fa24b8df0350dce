"""Builds the real engines from settings: the one place where the gateway names them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.adapters.manager import AdapterOptions
from engine.config import (
    EngineConfig,
    check_environment,
    check_versions,
    keep_groups_local,
    keep_sockets_private,
    kind_of,
    prepare_environment,
    require_files,
)
from engine.layout import on_several_machines
from engine.types import ModelKind
from gateway.settings import ModelSettings, Settings

if TYPE_CHECKING:
    from engine.adapters.residency import LoraObserver
    from engine.attachment import Attachments
    from engine.pool import ModelPool
    from engine.runtime import VllmEngine
    from engine.shared import SharedEngines


@dataclass(frozen=True, slots=True)
class Served:
    """One model to serve: where it is, its id on the wire, and how it is run. See the settings of these names."""

    path: str
    name: str
    kind: ModelKind = "generate"
    arguments: dict[str, Any] = field(default_factory=dict)
    tool_parser: str = "auto"
    pin: bool = False
    preload: bool = False
    memory: int | None = None


def build_engine(settings: Settings, model: str, name: str) -> ModelPool:
    """A pool of the one model that ``engine`` and ``tool_parser`` describe, not started."""
    return build_pool(settings, [first_served(settings, model, name)])


def first_served(settings: Settings, model: str, name: str) -> Served:
    """The model that the top of the settings describes: always in memory."""
    return Served(model, name, kind_of(model), settings.engine, settings.tool_parser, pin=True, preload=True)


def more_served(model: ModelSettings, path: str) -> Served:
    """One of ``models``, which is in ``path``."""
    kind = model.kind or kind_of(path)
    return Served(path, model.name, kind, model.engine, model.tool_parser, model.pin, model.preload, model.memory)


def engine_config(settings: Settings, model: Served) -> EngineConfig:
    """How ``model`` is run."""
    return EngineConfig(
        model=model.path,
        served_name=model.name,
        arguments=model.arguments,
        hang_timeout=settings.hang_timeout,
        kill_timeout=settings.engine_kill_timeout,
        tool_parser=model.tool_parser,
        schema_seconds=settings.schema_seconds,
        max_images=settings.media.max_images,
        kind=model.kind,
        adapters=_adapters(settings) if model.kind == "generate" else None,
    )


def shared_engines(settings: Settings, model: Served) -> SharedEngines:
    """Where engines for several workers come from. Slow the first time: it imports vLLM.

    Raises :class:`engine.types.EngineUnavailable`.
    """
    _prepare(settings, [model])
    check_versions()
    check_environment(os.environ)
    from engine.shared import SharedEngines

    return SharedEngines(engine_config(settings, model), settings.workers)


def _prepare(settings: Settings, models: Sequence[Served]) -> None:
    local = all(Path(model.path).is_absolute() or Path(model.path).is_dir() for model in models)
    prepare_environment(os.environ, model_is_local=local and not settings.adapters.from_hub)
    keep_sockets_private(os.environ)
    if not any(on_several_machines(model.arguments) for model in models):
        keep_groups_local(os.environ)


def build_pool(
    settings: Settings,
    models: Sequence[Served],
    observer: LoraObserver | None = None,
    attachments: Attachments | None = None,
) -> ModelPool:
    """A pool of ``models``, not started. Slow the first time: it imports vLLM. ``observer`` is told of adapters.

    ``attachments``: the engine is held by another process.
    """
    _prepare(settings, models)
    # Only now: libraries below vLLM read their environment when they are imported.
    from engine.memory import default_budget, expected_bytes
    from engine.metrics import VllmMetrics
    from engine.pool import ModelPool, PoolPolicy
    from engine.resident import ModelSpec
    from engine.runtime import VllmEngine

    starts, metrics = asyncio.Lock(), VllmMetrics()

    def make(config: EngineConfig) -> VllmEngine:
        return VllmEngine(config, starts=starts, metrics=metrics, observer=observer, attachments=attachments)

    specs = [
        ModelSpec(engine_config(settings, model), model.pin, model.preload or not index, model.memory)
        for index, model in enumerate(models)
    ]
    chosen = settings.pool
    policy = PoolPolicy(
        # Without a word on memory the first model is tried whatever it is thought to need.
        budget=chosen.memory or max(default_budget(), expected_bytes(specs[0].config)),
        cold=chosen.cold,
        cold_wait=chosen.cold_wait,
        failed_pause=chosen.failed_pause,
        unload_timeout=chosen.unload_timeout,
    )
    return ModelPool(specs, policy, make, metrics, require_files)


def _adapters(settings: Settings) -> AdapterOptions | None:
    own = settings.adapters
    if not own.active:
        return None
    return AdapterOptions(
        directory=(settings.state_dir / "adapters").resolve(),
        batch=own.batch,
        resident=own.resident,
        max_rank=own.max_rank,
        max_bytes=own.max_bytes,
        resident_bytes=own.resident_bytes,
        max_registered=own.max_registered,
        wait=own.wait,
    )
