"""What an adapter makes of its base model by PEFT's own definition: the weights added up, run by transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.lora import Array


def scaling(config: Mapping[str, Any], module: str) -> float:
    """PEFT's ``get_pattern_key``: the first pattern counts that ends the module's name."""

    def chosen(patterns: Mapping[str, Any], default: Any) -> Any:
        return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)

    rank = chosen(config.get("rank_pattern") or {}, config["r"])
    alpha = chosen(config.get("alpha_pattern") or {}, config["lora_alpha"])
    return float(alpha / (rank**0.5 if config.get("use_rslora") else rank))


def top_logprobs(base: Path, tensors: Mapping[str, Array], config: Mapping[str, Any], ids: list[int]) -> list[float]:
    """The five largest log-probabilities of the next token, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())  # untied: each has its own adapter
    with torch.no_grad():
        for module, (first, second) in _pairs(tensors).items():
            gained = torch.from_numpy((second.astype(np.float32) @ first.astype(np.float32)) * scaling(config, module))
            layer = model.get_submodule(module)
            layer.weight += gained.T if module.endswith("embed_tokens") else gained
        logits = model(torch.tensor([ids])).logits[0, -1]
        return [float(value) for value in logits.log_softmax(-1).topk(5).values]


def _pairs(tensors: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
    names = [name for name in tensors if re.search(r"lora_(embedding_)?A", name)]
    found = {}
    for name in names:
        module = re.split(r"\.lora_", name.removeprefix("base_model.model."))[0]
        found[module] = (tensors[name], tensors[name.replace("lora_A", "lora_B").replace("bedding_A", "bedding_B")])
    return found
