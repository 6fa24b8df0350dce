"""KV caches that leave an engine or come from another: what both must have in common, and vLLM's words for it.

Fence around ``kv_transfer_params`` (vllm/distributed/kv_transfer/, checked against 0.32.0): plain values that a
connector gives with the end of a prefill and takes with the request that goes on from there.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from engine.adapters.shapes import local_directory
from engine.types import EngineUnavailable, TransferFacts

#: What a connector is told of a request that another engine will go on with.
PREFILL_ONLY: Final[Mapping[str, object]] = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
#: vLLM's connector for a machine without GPUs, and ours that takes its place (see engine/kv_files.py).
EXAMPLE: Final = "ExampleConnector"
OURS: Final = "KvFiles"
OUR_MODULE: Final = "engine.kv_files"
#: Of each file of weights so many bytes of its beginning and end are looked at.
_SAMPLED_BYTES: Final = 64 * 1024


def transfer_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """The operator's ``kv_transfer_config`` as vLLM is given it.

    A cache that cannot be fetched is computed again instead of failing its request. ``ExampleConnector`` is run as
    :class:`engine.kv_files.KvFiles`. Raises :class:`EngineUnavailable` if it has no directory of its own.
    """
    config = {"kv_load_failure_policy": "recompute", **given}
    if config.get("kv_connector") != EXAMPLE or config.get("kv_connector_module_path"):
        return config
    _check_directory((config.get("kv_connector_extra_config") or {}).get("shared_storage_path"))
    return config | {"kv_connector": OURS, "kv_connector_module_path": OUR_MODULE}


def _check_directory(path: Any) -> None:
    """Caches are prompts: whoever reads there reads them, whoever writes there writes answers."""
    if not path:
        raise EngineUnavailable(
            "engine.kv_transfer_config: ExampleConnector needs kv_connector_extra_config.shared_storage_path, a "
            "directory that nobody but these servers can read"
        )
    directory = Path(str(path))
    if directory.is_dir() and stat.S_IMODE(directory.stat().st_mode) & stat.S_IRWXO:
        raise EngineUnavailable(f"shared_storage_path: {directory} is open to everybody on this machine: chmod o= it")


def facts_of(vllm_config: Any) -> TransferFacts | None:
    """What another engine must have in common with this one; None if it has no connector. Reads a few files."""
    transfer = vllm_config.kv_transfer_config
    if transfer is None or transfer.kv_connector is None:
        return None
    model, cache = vllm_config.model_config, vllm_config.cache_config
    return TransferFacts(
        connector=str(transfer.kv_connector),
        weights=weights_digest(model.hf_config.to_json_string(), local_directory(model.model, model.revision)),
        dtype=f"{model.dtype}/{cache.cache_dtype}".replace("torch.", ""),
        block_size=int(cache.block_size),
    )


def weights_digest(config: str, directory: Path | None) -> str:
    """Tells models apart: of the configuration, and of names, sizes, beginnings and ends of the files of weights."""
    digest = hashlib.sha256(config.encode())
    for file in sorted(directory.glob("*.safetensors")) if directory is not None else ():
        size = file.stat().st_size
        digest.update(f"\0{file.name}\0{size}\0".encode())
        with file.open("rb") as content:
            digest.update(content.read(_SAMPLED_BYTES))
            content.seek(max(0, size - _SAMPLED_BYTES))
            digest.update(content.read(_SAMPLED_BYTES))
    return digest.hexdigest()
