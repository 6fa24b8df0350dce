"""KV caches through files, on a real engine: what is found, what is said, what is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.toy import make_toy_model

ROOT = Path(__file__).resolve().parents[2]

#: A machine that has other things to do takes minutes for a start.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_cache_is_found_once_by_whom_it_was_handed_to(default_model: Path, tmp_path: Path) -> None:
    model = make_toy_model(tmp_path / "toy", default_model)
    command = [sys.executable, "-m", "tests.support.handing_on", str(model), str(tmp_path / "kv")]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr[-3000:]
    report = json.loads(ended.stdout.splitlines()[-1])
    block = report["block_size"]
    for length, (same, found, left) in report["by_length"].items():
        assert same, length
        assert found == (int(length) - 1) // block * block, "whole blocks, also of prompts that are computed in pieces"
        moved = int(length) > block
        assert left == (0 if moved else 1), "read once, and gone; what nobody fetched is swept by the next who writes"
    assert report["batch_is_right"]
    assert report["stranger_found"] == 0, "a cache of the same tokens that was handed to somebody else"
    assert report["broken_is_right"], "what cannot be read is computed"
    assert report["gone_is_right"]
    assert report["abandoned"] == 0
    assert report["kv_is_free"]
