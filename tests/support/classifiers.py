"""Small classifiers for tests: a head with known weights on the embedded all-MiniLM-L6-v2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def make_classifier(directory: Path, minilm: Path, labels: Sequence[str]) -> Path:
    """Write a BERT classifier of ``labels`` to ``directory``, always the same. With one label it scores pairs."""
    import torch
    from safetensors.torch import load_file, save_file

    directory.mkdir(parents=True, exist_ok=True)
    for name in _TOKENIZER:
        shutil.copyfile(minilm / name, directory / name)
    config = json.loads((minilm / "config.json").read_text("utf-8"))
    config |= {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    if len(labels) > 1:
        config["problem_type"] = "single_label_classification"
    (directory / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    weights = {f"bert.{name}": weight for name, weight in load_file(minilm / "model.safetensors").items()}
    generator = torch.Generator().manual_seed(0)
    # Large enough that texts really differ, small enough that no probability is 1.
    weights["classifier.weight"] = torch.normal(0.0, 0.3, (len(labels), config["hidden_size"]), generator=generator)
    weights["classifier.bias"] = torch.zeros(len(labels))
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    return directory
