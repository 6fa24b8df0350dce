"""What memory and cores this process may really use: the container's bound where there is one, else the machine's."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

_BOUNDS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_IN_USE = (Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"))

_CPUINFO = Path("/proc/cpuinfo")
#: As Linux names them on x86 and on ARM (arch/x86/include/asm/cpufeatures.h, arch/arm64/kernel/cpuinfo.c).
_BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16", "bf16", "svebf16"})


def available_memory() -> int:
    """Bytes that can be had now without swapping or meeting the container's bound."""
    free = int(psutil.virtual_memory().available)
    for bound, in_use in zip(_BOUNDS, _IN_USE, strict=True):
        limit, used = _number(bound), _number(in_use)
        if limit is not None and used is not None:
            free = min(free, max(0, limit - used))
    return free


def allowed_cores() -> list[int]:
    """The cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def multiplies_bfloat16(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether the processor has instructions for products of bfloat16; True where it does not say what it has.

    Without them oneDNN takes the long way round: a prefill takes about four times as long as in float32.
    """
    try:
        said = [line.partition(":") for line in cpuinfo.read_text("utf-8").splitlines()]
    except OSError:
        return True
    features = {
        feature for name, _, value in said if name.strip() in ("flags", "Features") for feature in value.split()
    }
    return not features or not features.isdisjoint(_BFLOAT16)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None  # no cgroup of this version, or no bound ("max")
