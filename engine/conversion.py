"""GGUF -> Hugging Face directory, in a process of its own: ``python -m engine.conversion SOURCE TARGET``.

Prints ``fraction stage`` lines on standard output. Only for the Llama architecture with a byte-level BPE tokeniser,
which is what the embedded sample model is. Formats: ggml's gguf specification; weight names and the order of query
and key rows as llama.cpp's converter writes them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

Progress = Callable[[str, float], None]

_BLOCK_NAMES: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES: Final = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def convert(source: Path, target: Path, progress: Progress) -> None:
    """Write the model in the GGUF file ``source`` to the existing directory ``target`` as bfloat16.

    Raises ValueError for an architecture other than Llama.
    """
    from gguf import GGUFReader

    progress("reading", 0.0)
    reader = GGUFReader(source)
    values = {
        name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.ggml.t")
    }
    if values["general.architecture"] != "llama":
        raise ValueError(f"cannot convert the architecture {values['general.architecture']}")
    config = model_config(values, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
    _write_json(target / "config.json", config)
    _write_json(target / "generation_config.json", _generation_config(config))
    _write_weights(reader.tensors, config, target / "model.safetensors", progress)
    progress("tokenizer", 0.85)
    _write_tokenizer(source, target, values)
    progress("done", 1.0)


def model_config(values: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    """``config.json`` from GGUF metadata."""
    heads = values["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": values["llama.vocab_size"],
        "hidden_size": values["llama.embedding_length"],
        "intermediate_size": values["llama.feed_forward_length"],
        "num_hidden_layers": values["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": values["llama.attention.head_count_kv"],
        "head_dim": values["llama.embedding_length"] // heads,
        "hidden_act": "silu",
        "max_position_embeddings": values["llama.context_length"],
        "rms_norm_eps": values["llama.attention.layer_norm_rms_epsilon"],
        "rope_parameters": {"rope_type": "default", "rope_theta": values["llama.rope.freq_base"]},
        "tie_word_embeddings": tied,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": values["tokenizer.ggml.bos_token_id"],
        "eos_token_id": values["tokenizer.ggml.eos_token_id"],
        "pad_token_id": values.get("tokenizer.ggml.padding_token_id", values["tokenizer.ggml.eos_token_id"]),
    }


def _generation_config(config: dict[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def hf_name(name: str) -> str:
    """The Hugging Face name of a GGUF tensor of a Llama model. Raises KeyError for one that is not part of it."""
    parts = name.split(".")
    if parts[0] != "blk":
        return f"{_TOP_NAMES[parts[0]]}.weight"
    return f"model.layers.{parts[1]}.{_BLOCK_NAMES[parts[2]]}.weight"


def _write_weights(tensors: Any, config: dict[str, Any], path: Path, progress: Progress) -> None:
    from safetensors.torch import save_file

    weights = {}
    for done, (name, weight) in enumerate(_weights(tensors, config), start=1):
        weights[name] = weight
        progress("weights", 0.05 + 0.7 * done / len(tensors))
    progress("writing", 0.78)
    save_file(weights, path, metadata={"format": "pt"})


def _weights(tensors: Any, config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    import torch
    from gguf import dequantize

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for tensor in tensors:
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            weight = _unpermute(weight, heads[kind])
        yield hf_name(tensor.name), weight.to(torch.bfloat16).contiguous()


def _unpermute(weight: Any, heads: int) -> Any:
    """Undo llama.cpp's interleaving of the two halves of rotary dimensions in query and key rows."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _write_tokenizer(source: Path, target: Path, values: dict[str, Any]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.model_max_length = values["llama.context_length"]
    tokenizer.save_pretrained(target)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", "utf-8")


def main() -> None:
    """Convert the file named first into the directory named second."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    source, target = map(Path, sys.argv[1:3])
    convert(source, target, lambda stage, fraction: print(f"{fraction:.3f} {stage}", flush=True))  # noqa: T201


if __name__ == "__main__":
    main()
