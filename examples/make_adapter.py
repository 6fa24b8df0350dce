"""Trains a small LoRA adapter for a model: `python examples/make_adapter.py DIRECTORY [--model DIR]`.

Without `--model` it is for the embedded sample model. Twenty questions and answers in the voice of a pirate are
learned by heart, one step each; the result is in PEFT's format, as any adapter is. It needs
nothing but what Sluice installs (torch, transformers, safetensors).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

RANK, ALPHA, STEPS, RATE = 8, 16, 20, 2e-3
MODULES = ("q_proj", "v_proj")
TOPICS = [
    "France", "rivers", "the moon", "bread", "cats", "music", "winter", "bridges", "gold", "books",
    "ships", "rain", "clocks", "stars", "horses", "apples", "cities", "stones", "wind", "sleep",
]  # fmt: skip


class Lora(torch.nn.Module):
    """A linear layer and what is added to it."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base = base
        self.a = torch.nn.Parameter(torch.randn(RANK, base.in_features) * base.in_features**-0.5)
        self.b = torch.nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x: Any) -> Any:
        return self.base(x) + (x @ self.a.T @ self.b.T) * (ALPHA / RANK)


def wrapped(model: Any) -> dict[str, Lora]:
    """Puts :class:`Lora` around every module of these names."""
    found = {}
    for name, module in list(model.named_modules()):
        parent, _, leaf = name.rpartition(".")
        if leaf in MODULES:
            found[name] = Lora(module)
            setattr(model.get_submodule(parent), leaf, found[name])
    return found


def lesson(tokenizer: Any, topic: str) -> tuple[Any, int]:
    """The tokens of one exchange, and how many of them are the question."""
    said = [{"role": "user", "content": f"Tell me about {topic}."}]
    question = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    answer = f"Arr, matey! Ye ask about {topic}? By me wooden leg, {topic} be a treasure of the seven seas!<|im_end|>"
    return torch.tensor([tokenizer.encode(question + answer)]), len(tokenizer.encode(question))


def train(model: Any, tokenizer: Any, layers: dict[str, Lora]) -> None:
    """Learn the lessons by heart, one a step."""
    parameters = [each for layer in layers.values() for each in (layer.a, layer.b)]
    optimizer = torch.optim.AdamW(parameters, lr=RATE)
    for step in range(STEPS):
        ids, asked = lesson(tokenizer, TOPICS[step % len(TOPICS)])
        labels = ids.clone()
        labels[:, :asked] = -100
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 9:
            print(f"step {step + 1}: loss {loss.item():.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    base = options.model
    if base is None:
        from engine.samples import default_cache_root, ensure_default_model

        base = ensure_default_model(default_cache_root(), None)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).requires_grad_(False)
    layers = wrapped(model)
    train(model, tokenizer, layers)
    tensors = {}
    for name, layer in layers.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = layer.a.detach().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = layer.b.detach().contiguous()
    options.directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, options.directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    config |= {"target_modules": list(MODULES), "base_model_name_or_path": Path(base).name}
    (options.directory / "adapter_config.json").write_text(json.dumps(config, indent=2))
    print(f"written: {options.directory}")


if __name__ == "__main__":
    main()
