"""The converter against independent references: transformers' loader, torch's rounding, llama.cpp's tokenizer."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engine import samples
from engine.bfloat16 import Bfloat16File, to_bfloat16
from engine.conversion import hf_name, model_config


def test_weights_equal_what_transformers_reads(default_model: Path) -> None:
    import torch
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    source = samples._packaged_file(samples.SMOLLM2, samples.SMOLLM2.sources[0])
    reference = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    expected = {name: weight.to(torch.bfloat16) for name, weight in reference.state_dict().items()}
    with safe_open(default_model / "model.safetensors", "pt") as ours:
        names = set(ours.keys())
        assert names == set(expected) - {"lm_head.weight"}  # tied
        assert all(torch.equal(ours.get_tensor(name), expected[name]) for name in names)


@given(arrays.arrays(numpy.float32, 16, elements=st.floats(width=32, allow_nan=False)))
def test_rounding_is_that_of_torch(values: Any) -> None:
    import torch

    ours = torch.from_numpy(to_bfloat16(values)).view(torch.bfloat16)
    assert torch.equal(ours, torch.from_numpy(values).to(torch.bfloat16))


def test_a_file_that_is_not_what_its_header_says_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="not what its header says"),
        Bfloat16File(tmp_path / "x", {"a": (2, 3)}) as file,
    ):
        file.write(to_bfloat16(numpy.zeros((2, 2), numpy.float32)))


@cache
def tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


class Reference:
    """llama.cpp's "smollm", written down as plainly as can be: split off numbers, split as GPT-2, merge by rank."""

    def __init__(self) -> None:
        import regex
        from gguf import GGUFReader

        fields = GGUFReader(samples._packaged_file(samples.SMOLLM2, samples.SMOLLM2.sources[0])).fields
        self.ids = {token: number for number, token in enumerate(fields["tokenizer.ggml.tokens"].contents())}
        self.ranks = {tuple(m.split(" ")): rank for rank, m in enumerate(fields["tokenizer.ggml.merges"].contents())}
        self.numbers = regex.compile(r"\p{N}|\P{N}+")
        self.words = regex.compile(
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        )
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in printable]
        self.shown = {byte: chr(byte) for byte in printable} | {b: chr(256 + n) for n, b in enumerate(others)}

    def encode(self, text: str) -> list[int]:
        parts = (word for part in self.numbers.findall(text) for word in self.words.findall(part))
        return [self.ids[piece] for part in parts for piece in self._merge([self.shown[b] for b in part.encode()])]

    def _merge(self, pieces: list[str]) -> list[str]:
        while True:
            ranked = [(self.ranks[pair], at) for at, pair in enumerate(pairwise(pieces)) if pair in self.ranks]
            if not ranked:
                return pieces
            at = min(ranked)[1]
            pieces = [*pieces[:at], pieces[at] + pieces[at + 1], *pieces[at + 2 :]]


@cache
def reference() -> Reference:
    return Reference()


TEXT = st.text(
    st.sampled_from("abcXYZ eéüß東京한🚀 \n\t\r\u00a0\u3000 0123456789½²Ⅻ٣ '\"\\.,:;{}[]()<>|_-/#"), max_size=60
)


@given(text=TEXT)
@example(text="In 2024 there were  12 of them\n\n 7 more,   5 %")
@example(text="they'll say it's 3.14159 ½")
def test_text_becomes_the_tokens_of_llama_cpp(default_model: Path, text: str) -> None:
    ours = tokenizer(default_model)
    assert ours.encode(text) == reference().encode(text)
    assert ours.decode(ours.encode(text)) == text


def test_special_tokens_and_the_chat_template(default_model: Path) -> None:
    ours = tokenizer(default_model)
    assert (ours.eos_token, ours.eos_token_id) == ("<|im_end|>", 2)
    assert ours.encode("<|im_start|><|im_end|><|endoftext|><repo_name>") == [1, 2, 0, 3]
    assert ours.decode([1, 2], skip_special_tokens=True) == ""
    assert ours.model_max_length == 8192
    shown = ours.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert shown == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_generation_ends_at_the_end_of_the_turn(default_model: Path) -> None:
    from transformers import GenerationConfig

    assert GenerationConfig.from_pretrained(default_model).eos_token_id == 2


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
