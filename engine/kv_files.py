"""KV caches handed on through files in a directory that two engines share: for machines without GPUs, and for tests.

A vLLM connector (checked against 0.32.0), made of vLLM's ``ExampleConnector``. That one keeps every prompt it sees and
finds it again by its token ids alone: whatever the tenant (it knows no cache salt), whatever the adapter, and as soon
as its first layer is written. Here a cache has a name that cannot be guessed, is written for requests that ask for it,
is read by the one request that was told the name, and is gone then.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata
from vllm.distributed.kv_transfer.kv_connector.v1.example_connector import ExampleConnector

log = logging.getLogger("sluice.kv")

#: Seconds after which a cache that nobody fetched is removed.
KEPT_SECONDS: Final = 600.0
_NAME: Final = re.compile(r"[0-9a-f]{32}")
_HANDLE: Final = "sluice_cache"


@dataclass(frozen=True, slots=True)
class Moved:
    """The cache ``name`` of a prompt; it lies in ``blocks``, from its token ``start`` to ``end``, whole blocks."""

    name: str
    blocks: tuple[int, ...]
    start: int
    end: int


@dataclass
class Moves(KVConnectorMetadata):
    """What one step of the engine writes and reads."""

    stores: list[Moved] = field(default_factory=list)
    loads: list[Moved] = field(default_factory=list)


@dataclass(slots=True)
class _Growing:
    """A prompt that is computed in pieces, and will be written with the last of them."""

    name: str
    length: int
    blocks: list[int]


class KvFiles(ExampleConnector):
    """See the module. The scheduler's half and the worker's half are two objects of this class, as vLLM wants it."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        if vllm_config.parallel_config.world_size > 1 or vllm_config.model_config.use_mla:
            raise ValueError("ExampleConnector moves the cache of one worker without latent attention only")
        self._directory = Path(self._storage_path)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._growing: dict[str, _Growing] = {}
        self._written: dict[str, str] = {}
        self._loading: dict[str, tuple[str, int, int]] = {}
        self._failed: set[int] = set()
        self._swept = 0.0

    # -- the scheduler's half -------------------------------------------------------------------------------------

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        """Tokens that can be read, beyond those that this engine has itself."""
        name = _handle(request.kv_transfer_params)
        if name is None or not (self._directory / name).is_dir():
            return 0, False
        return max(0, self._whole(len(request.prompt_token_ids or ())) - num_computed_tokens), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:  # noqa: ARG002
        """There is room for what is to be read."""
        name = _handle(request.kv_transfer_params)
        if name is not None and num_external_tokens > 0:
            end = self._whole(len(request.prompt_token_ids or ()))
            self._loading[request.request_id] = (name, end - num_external_tokens, end)

    def build_connector_meta(self, scheduler_output: Any) -> Moves:
        """What the step of ``scheduler_output`` writes and reads."""
        moves = Moves()
        scheduled = scheduler_output.num_scheduled_tokens
        for new in scheduler_output.scheduled_new_reqs:
            blocks = list(new.block_ids[0])
            if (load := self._loading.pop(new.req_id, None)) is not None:
                name, start, end = load
                moves.loads.append(Moved(name, tuple(blocks), start, end))
            elif _is_to_be_kept(new.sampling_params):
                self._growing[new.req_id] = _Growing(uuid.uuid4().hex, len(new.prompt_token_ids or ()), blocks)
                self._grown(moves, new.req_id, new.num_computed_tokens + scheduled[new.req_id])
        cached = scheduler_output.scheduled_cached_reqs
        for index, req_id in enumerate(cached.req_ids):
            blocks = list((cached.new_block_ids[index] or ((),))[0])
            resumed = req_id in cached.resumed_req_ids
            if resumed and (load := self._loading.pop(req_id, None)) is not None:
                name, start, end = load
                moves.loads.append(Moved(name, tuple(blocks), start, end))
            if (growing := self._growing.get(req_id)) is not None:
                growing.blocks = blocks if resumed else growing.blocks + blocks
                self._grown(moves, req_id, cached.num_computed_tokens[index] + scheduled[req_id])
        self._loading.clear()
        return moves

    def _grown(self, moves: Moves, req_id: str, computed: int) -> None:
        growing = self._growing[req_id]
        if computed < growing.length:
            return
        del self._growing[req_id]
        if whole := self._whole(growing.length):
            moves.stores.append(Moved(growing.name, tuple(growing.blocks), 0, whole))
            self._written[req_id] = growing.name

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:  # noqa: ARG002
        """The name of what was written goes out with the end of its request."""
        self._growing.pop(request.request_id, None)
        name = self._written.pop(request.request_id, None)
        if name is None:
            return False, None
        return False, {"do_remote_prefill": True, "do_remote_decode": False, _HANDLE: name}

    def _whole(self, length: int) -> int:
        """Tokens of a prompt that are moved: whole blocks, and at least one token is left to compute."""
        return max(0, length - 1) // int(self._block_size) * int(self._block_size)

    # -- the worker's half ----------------------------------------------------------------------------------------

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:  # noqa: ARG002 - vLLM's signature
        """Read what this step needs; what cannot be read is computed instead."""
        for moved in self._moves().loads:
            folder = self._directory / moved.name
            try:
                for name, layer in forward_context.no_compile_layers.items():
                    if (cache := getattr(layer, "kv_cache", None)) is not None:
                        stored = safetensors.torch.load_file(folder / f"{name}.safetensors")["kv_cache"]
                        blocks, offsets = self._places(moved)
                        cache[blocks, :, offsets] = stored[moved.start : moved.end]
            except (OSError, KeyError, RuntimeError, IndexError, safetensors.SafetensorError) as error:
                log.warning("a KV cache cannot be read and is computed here: %s", error)
                self._failed.update(moved.blocks[moved.start // self._block_size : moved.end // self._block_size])
            shutil.rmtree(folder, ignore_errors=True)

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Write one layer of what this step completes. A failure costs the reader time, never its answer."""
        for moved in self._moves().stores:
            blocks, offsets = self._places(moved)
            folder = self._directory / moved.name
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
                cache = kv_layer[blocks, :, offsets].detach().cpu().contiguous()
                safetensors.torch.save_file({"kv_cache": cache}, folder / f"{layer_name}.safetensors")
            except (OSError, safetensors.SafetensorError) as error:
                log.warning("a KV cache cannot be written: %s", error)
                shutil.rmtree(folder, ignore_errors=True)

    def wait_for_save(self) -> None:
        """Everything is written by now; time to remove what nobody came for."""
        if self._moves().stores and time.monotonic() - self._swept > KEPT_SECONDS / 10:
            self._swept = time.monotonic()
            sweep(self._directory, time.time() - KEPT_SECONDS)

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks that could not be read in this step."""
        failed, self._failed = self._failed, set()
        return failed

    def _moves(self) -> Moves:
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, Moves)
        return metadata

    def _places(self, moved: Moved) -> tuple[torch.Tensor, torch.Tensor]:
        """Block and offset of each token that is moved."""
        tokens = torch.arange(moved.start, moved.end)
        return torch.tensor(moved.blocks)[tokens // self._block_size], tokens % self._block_size


def sweep(directory: Path, before: float) -> None:
    """Remove the caches that were written ``before`` (Unix seconds)."""
    for folder in directory.iterdir():
        if _NAME.fullmatch(folder.name) and folder.stat().st_mtime < before:
            shutil.rmtree(folder, ignore_errors=True)


def _handle(params: Any) -> str | None:
    name = (params or {}).get(_HANDLE)
    return name if isinstance(name, str) and _NAME.fullmatch(name) else None


def _is_to_be_kept(sampling: Any) -> bool:
    extra = getattr(sampling, "extra_args", None) or {}
    return bool((extra.get("kv_transfer_params") or {}).get("do_remote_decode"))
