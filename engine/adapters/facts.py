"""What a started engine can do with adapters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from engine.adapters.fitting import Shapes
from engine.adapters.shapes import base_shapes, local_directory


@dataclass(frozen=True, slots=True)
class Facts:
    """What a started engine says: what it can hold at once and the shapes of its model."""

    resident: int
    max_rank: int
    shapes: Callable[[], Shapes]

    @classmethod
    def of(cls, vllm_config: Any) -> Facts | None:
        """Of an engine with this configuration; None if it takes no adapters."""
        limits = vllm_config.lora_config
        if limits is None:
            return None
        model = vllm_config.model_config

        def shapes() -> Shapes:
            return base_shapes(local_directory(model.model, model.revision), model.hf_config)

        return cls(limits.max_cpu_loras, limits.max_lora_rank, lru_cache(1)(shapes))
