"""Inside an engine's core: how much memory its devices have free, to know what sleep gave back.

Fence around vLLM's ``EngineCore`` and ``Worker`` (vllm/v1/engine/core.py, vllm/v1/worker/gpu_worker.py, checked against
0.32.0): clients call the core's methods by name, and vLLM's own sleep tells nobody what it freed.
"""

from __future__ import annotations

import sys
from typing import Any, Final

#: What clients call it.
FREE_MEMORY: Final = "sluice_free_memory"


def free_memory(core: Any) -> int:
    """Bytes that are free on that device of the engine which has the least; 0 without devices."""
    return min(map(int, core.model_executor.collective_rpc(_free_of_device)))


def _free_of_device(_worker: Any) -> int:
    import torch

    return int(torch.accelerator.get_memory_info()[0]) if torch.accelerator.is_available() else 0


def install() -> None:
    """Let clients call :func:`free_memory`, if this process has an engine core."""
    module = sys.modules.get("vllm.v1.engine.core")
    if module is not None:
        setattr(module.EngineCore, FREE_MEMORY, free_memory)
