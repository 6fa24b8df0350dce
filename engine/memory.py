"""The memory that models share: the machine's on a CPU, the device's where there is one."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from typing import Final

from engine.config import EngineConfig, needed_bytes, on_cpu
from engine.machine import allowed_cores, available_memory

#: Of what is free at start; the rest is for the gateway and for whatever else runs here.
_SHARE: Final = 0.9
#: vLLM's own default for ``gpu_memory_utilization``.
_DEVICE_SHARE: Final = 0.92


def default_budget() -> int:
    """Bytes that the models may take together if nobody said anything."""
    return int(available_memory() * _SHARE) if on_cpu() else _device_memory()


def expected_bytes(config: EngineConfig) -> int:
    """What ``config`` will take, before it was ever loaded: a share of the device is taken whole."""
    if on_cpu():
        return needed_bytes(config)
    return int(_device_memory() * float(config.arguments.get("gpu_memory_utilization", _DEVICE_SHARE)))


def taken_bytes(expected: int, resident: int) -> int:
    """What a loaded model counts as. ``resident``: memory of its processes, which says nothing of a device's."""
    return max(expected, resident) if on_cpu() else expected


def _device_memory() -> int:
    from vllm.platforms import current_platform

    return int(current_platform.get_device_total_memory())


def devices() -> int:
    """What an engine's processes can be spread over: the cores of a CPU, else the GPUs of this machine."""
    if on_cpu():
        return len(allowed_cores())
    from vllm.platforms import current_platform

    return int(current_platform.device_count())


def trim() -> None:
    """Give freed memory of this process back to the system: malloc_trim(3), where the C library has it."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
