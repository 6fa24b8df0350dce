"""The shapes of the base model's modules, as its own files or its own code say."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from engine.adapters.tensors import MAX_HEADER_BYTES

log = logging.getLogger("sluice.adapters")


def local_directory(model: str, revision: str | None) -> Path | None:
    """Where the files of a local model, or of one from the hub that was fetched, are."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError):
        return None


def base_shapes(directory: Path | None, hf_config: Any) -> dict[str, tuple[int, int]]:
    """Of every module with a matrix its (out, in); empty if neither way tells. Blocks for a second or so.

    The headers of the weights are exact and know every module by its published name; weights that are quantised, or
    not safetensors, are not their modules' shapes: then the model is built without memory ("meta") and asked.
    """
    quantised = getattr(hf_config, "quantization_config", None) is not None
    shapes = {} if directory is None or quantised else shapes_of_files(directory)
    return shapes or _of_code(hf_config)


def shapes_of_files(directory: Path) -> dict[str, tuple[int, int]]:
    """The same, as the headers of safetensors files say."""
    shapes: dict[str, tuple[int, int]] = {}
    for file in sorted(directory.glob("*.safetensors")):
        for name, value in _header(file).items():
            shape = value.get("shape", ())
            if name.endswith(".weight") and len(shape) == 2:
                shapes[name.removesuffix(".weight")] = (shape[0], shape[1])
    if shapes and "lm_head" not in shapes and "model.embed_tokens" in shapes:
        shapes["lm_head"] = shapes["model.embed_tokens"]  # tied
    return shapes


def _header(path: Path) -> dict[str, Any]:
    """The operator's own files: no need to be as wary as of adapters."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(min(length, 8 * MAX_HEADER_BYTES)))
    header.pop("__metadata__", None)
    return header


def _of_code(hf_config: Any) -> dict[str, tuple[int, int]]:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(hf_config)
    except Exception:
        log.exception("the shapes of the base model are not known: adapters cannot be checked")
        return {}
    return {
        name: (module.weight.shape[0], module.weight.shape[1])
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding)
    }
