"""The systems under comparison and how each is started: same model, engine arguments and environment for all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from loadtest.processes import Launch, free_port

ROOT: Final = Path(__file__).resolve().parent.parent
PEERS: Final = ROOT / ".cache" / "peers"
API_KEY: Final = "sk-bench-0123456789abcdef0123456789abcdef"

#: vLLM's own names; every system gets exactly these.
ENGINE_ARGUMENTS: Final[Mapping[str, Any]] = {
    "dtype": "bfloat16",
    "max_model_len": 1024,
    "max_num_seqs": 128,
    "gpu_memory_utilization": 0.15,
    "enforce_eager": True,
}

#: Set for every system. VLLM_ENABLE_V1_MULTIPROCESSING=0 puts vLLM's worker into the engine core's process, as Sluice
#: does on a CPU. One OpenMP thread is enough for the toy; more of them spin on the cores that the front ends need, and
#: then the figures tell how the kernel scheduled the spinning.
ENVIRONMENT: Final[Mapping[str, str]] = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where one start of a system lives: the model it serves, its port, and a directory of its own."""

    model: Path
    port: int
    directory: Path


@dataclass(frozen=True, slots=True)
class System:
    """One system: ``launch`` says how to start it, ``prepare`` installs what it needs once, if anything; ``api_key``
    is asked for after ``launch``.

    ``has_model`` is False where there is no model behind the front end: its figures are not compared with others'.
    """

    name: str
    title: str
    launch: Callable[[Place], Launch]
    prepare: Callable[[], None] = lambda: None
    has_model: bool = True
    api_key: Callable[[Place], str] = lambda _place: API_KEY


def environment(**more: str) -> dict[str, str]:
    """The caller's environment without settings of Sluice or vLLM, then what every system gets, then ``more``."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLUICE_", "VLLM_"))}
    return {**inherited, **ENVIRONMENT, **more}


def _sluice(place: Place) -> Launch:
    settings = place.directory / "sluice.yaml"
    settings.write_text(
        yaml.safe_dump({"state_dir": str(place.directory), "engine": dict(ENGINE_ARGUMENTS)}), encoding="utf-8"
    )
    env = environment(
        SLUICE_HOST="127.0.0.1",
        SLUICE_PORT=str(place.port),
        SLUICE_MODEL=str(place.model),
        SLUICE_API_KEY=API_KEY,
    )
    command = [str(Path(sys.executable).with_name("sluice")), "serve", "--config", str(settings)]
    return Launch(command, env, place.directory / "sluice.log")


#: High enough to refuse nobody: every request is reserved and settled all the same.
LIMITS: Final[Mapping[str, int]] = {
    "requests_per_minute": 10_000_000,
    "tokens_per_minute": 10_000_000_000,
    "tokens_per_day": 1_000_000_000_000,
    "concurrent": 100_000,
}


def _tenants(place: Place) -> Launch:
    settings = place.directory / "sluice.yaml"
    tree = {
        "state_dir": str(place.directory),
        "engine": dict(ENGINE_ARGUMENTS),
        "limits": {"key": dict(LIMITS), "address": {"burst": 10_000_000, "per_second": 1_000_000}},
    }
    settings.write_text(yaml.safe_dump(tree), encoding="utf-8")
    redis = free_port()
    env = environment(
        SLUICE_HOST="127.0.0.1",
        SLUICE_PORT=str(place.port),
        SLUICE_MODEL=str(place.model),
        SLUICE_REDIS_URL=f"redis://127.0.0.1:{redis}",
    )
    sluice = str(Path(sys.executable).with_name("sluice"))
    create = [sluice, "keys", "create", "--config", str(settings), "--name", "bench", "--json"]
    made = subprocess.run(create, env=env, check=True, capture_output=True, text=True)
    (place.directory / "key").write_text(json.loads(made.stdout)["key"], "utf-8")
    beside = [sys.executable, str(ROOT / "loadtest" / "with_redis.py"), str(redis), str(place.directory)]
    return Launch([*beside, sluice, "serve", "--config", str(settings)], env, place.directory / "tenants.log")


def _stub(place: Place) -> Launch:
    command = [sys.executable, str(ROOT / "loadtest" / "stub_server.py")]
    command += ["--port", str(place.port), "--state-dir", str(place.directory)]
    return Launch(command, environment(SLUICE_API_KEY=API_KEY), place.directory / "stub.log")


def vllm_command(place: Place) -> list[str]:
    """``vllm serve`` as its users run it, with a key: its defaults, access log included."""
    command = [str(PEERS / "vllm" / "bin" / "vllm"), "serve", str(place.model)]
    command += ["--host", "127.0.0.1", "--port", str(place.port), "--api-key", API_KEY]
    for name, value in ENGINE_ARGUMENTS.items():
        flag = "--" + name.replace("_", "-")
        command += [flag] if value is True else [flag, str(value)]
    return command


def _vllm(place: Place) -> Launch:
    return Launch(vllm_command(place), environment(), place.directory / "vllm.log")


def _rust(place: Place) -> Launch:
    env = environment(VLLM_USE_RUST_FRONTEND="1", VLLM_RUST_FRONTEND_PATH=str(PEERS / "vllm-rs"))
    return Launch(vllm_command(place), env, place.directory / "rust.log")


def _install(*arguments: str, unless: Path) -> None:
    if not unless.exists():
        subprocess.run([str(ROOT / "scripts" / "peers.sh"), *arguments], check=True)


SYSTEMS: Final[Mapping[str, System]] = {
    system.name: system
    for system in (
        System("sluice", "sluice serve: key, ledger, JSON access log to a file, metrics", _sluice),
        System(
            "vllm",
            "vllm serve, Python front end: --api-key, its default logs to a file, metrics",
            _vllm,
            prepare=lambda: _install(unless=PEERS / "vllm" / "bin" / "vllm"),
        ),
        System(
            "rust",
            "vllm serve, Rust front end (process vllm-rs only): the same flags",
            _rust,
            prepare=lambda: _install("rust", unless=PEERS / "vllm-rs"),
        ),
        System(
            "tenants",
            "sluice serve: as sluice, with a key of the store, four limits of it on Redis and one of its address",
            _tenants,
            api_key=lambda place: (place.directory / "key").read_text("utf-8"),
        ),
        System("stub", "Sluice's gateway over the stub engine: no model behind it", _stub, has_model=False),
    )
}
