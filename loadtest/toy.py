"""The model of the comparison: two random layers, so small that the front end is the bottleneck."""

from __future__ import annotations

from pathlib import Path

from engine.samples import default_cache_root, ensure_default_model
from engine.toy import make_toy_model
from loadtest.systems import ROOT


def toy_model() -> Path:
    """A 2-layer random Llama with SmolLM2's tokenizer; made once, kept under ``.cache/``."""
    return make_toy_model(ROOT / ".cache" / "bench" / "toy", ensure_default_model(default_cache_root()))
