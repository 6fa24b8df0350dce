"""The model of the comparison: two random layers, so small that the front end is the bottleneck."""

from __future__ import annotations

from pathlib import Path

from loadtest.systems import ROOT


def toy_model() -> Path:
    """A 2-layer random Llama of 2.4 M parameters with SmolLM2's tokenizer; made once, kept under ``.cache/``."""
    from engine.samples import make_toy_model

    directory = ROOT / ".cache" / "bench" / "toy"
    if not (directory / "config.json").exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        make_toy_model(directory)
    return directory
