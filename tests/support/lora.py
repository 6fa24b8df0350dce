"""Adapters for tests: random ones that change what a model says, each in its own way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from engine.adapters.shapes import shapes_of_files

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Array = np.ndarray[Any, np.dtype[Any]]


def tensors_of(
    base: Path, *, seed: int, rank: int = 4, scale: float = 1.0, modules: tuple[str, ...] = ALL
) -> dict[str, Array]:
    """Random A and B for every module of ``base`` of these names."""
    random = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for name, (out, into) in shapes_of_files(base).items():
        if name.rpartition(".")[2] in modules:
            made[f"base_model.model.{name}.lora_A.weight"] = _normal(random, (rank, into), into**-0.5)
            made[f"base_model.model.{name}.lora_B.weight"] = _normal(random, (out, rank), scale * rank**-0.5)
    return made


def embedding_of(base: Path, *, seed: int, rank: int = 4) -> dict[str, Array]:
    """Random parts for the embedding of ``base``, as PEFT names them."""
    random = np.random.default_rng(seed)
    out, into = shapes_of_files(base)["model.embed_tokens"]
    name = "base_model.model.model.embed_tokens.lora_embedding_"
    return {f"{name}A": _normal(random, (rank, out), 0.5), f"{name}B": _normal(random, (into, rank), 0.5)}


def _normal(random: np.random.Generator, shape: tuple[int, int], scale: float) -> Array:
    return (random.standard_normal(shape) * scale).astype(np.float32)


def config_of(rank: int = 4, **changes: Any) -> dict[str, Any]:
    """What PEFT writes beside the weights."""
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": list(ALL),
        "bias": "none",
        "base_model_name_or_path": "anything",
    } | changes


def write(directory: Path, tensors: Mapping[str, Array], config: Mapping[str, Any]) -> Path:
    """An adapter's directory; what was there is replaced file by file."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), directory / WEIGHTS)
    (directory / CONFIG).write_text(json.dumps(config), "utf-8")
    return directory


def make_adapter(directory: Path, base: Path, *, seed: int, rank: int = 4, scale: float = 1.0) -> Path:
    """A random adapter of ``base``: what it makes the model say depends on ``seed``."""
    return write(directory, tensors_of(base, seed=seed, rank=rank, scale=scale), config_of(rank))
