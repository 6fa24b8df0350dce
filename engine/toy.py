"""A model of two random layers with the sample model's tokenizer: an engine so fast that the front end shows."""

from __future__ import annotations

import json
import shutil
from filecmp import cmp
from pathlib import Path

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def make_toy_model(directory: Path, default_model: Path) -> Path:
    """Write a random Llama (3.2 M parameters, bfloat16, always the same) to ``directory``.

    ``default_model`` is the directory of the embedded model, whose tokenizer is copied. Idempotent: a directory that
    has this tokenizer and its ``config.json``, which is written last, is left as it is.
    """
    if (directory / "config.json").is_file() and _same_tokenizer(directory, default_model):
        return directory
    import torch
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    for name in _TOKENIZER_FILES:
        if (default_model / name).is_file():
            shutil.copy2(default_model / name, directory / name)
    config = json.loads((default_model / "config.json").read_text("utf-8")) | _SHAPE
    save_file(_weights(config, torch.Generator().manual_seed(0)), directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    return directory


def _same_tokenizer(one: Path, other: Path) -> bool:
    return cmp(one / "tokenizer.json", other / "tokenizer.json", shallow=False)


_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


def _weights(config: dict[str, int], generator: object) -> dict[str, object]:

    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes = {"model.embed_tokens": (config["vocab_size"], hidden), "model.norm": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "input_layernorm": (hidden,),
            prefix + "post_attention_layernorm": (hidden,),
            prefix + "self_attn.q_proj": (queries, hidden),
            prefix + "self_attn.k_proj": (keys, hidden),
            prefix + "self_attn.v_proj": (keys, hidden),
            prefix + "self_attn.o_proj": (hidden, queries),
            prefix + "mlp.gate_proj": (inner, hidden),
            prefix + "mlp.up_proj": (inner, hidden),
            prefix + "mlp.down_proj": (hidden, inner),
        }
    return {f"{name}.weight": _random(shape, generator) for name, shape in shapes.items()}


def _random(shape: tuple[int, ...], generator: object) -> object:
    import torch

    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.normal(0.0, 0.02, shape, generator=generator).to(torch.bfloat16)
