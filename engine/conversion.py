"""GGUF -> Hugging Face directory, in a process of its own: ``python -m engine.conversion SOURCE TARGET``.

Prints ``fraction stage`` lines on standard output and ends when its standard input does: with whoever started it.
Only for the Llama architecture with SmolLM's byte-level BPE tokenizer, which is what the embedded sample model is.
Formats: ggml's gguf specification; weight names and the order of query and key rows as llama.cpp's
``convert_hf_to_gguf.py`` writes them. torch and transformers stay out: together they take longer than the work.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.bfloat16 import Bfloat16File, to_bfloat16
from engine.child import end_with_parent

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

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
_CONTROL: Final = 3  # gguf.TokenType.CONTROL


def convert(source: Path, target: Path, progress: Progress) -> None:
    """Write the model in the GGUF file ``source`` to the existing directory ``target`` as bfloat16.

    Raises ValueError for another architecture or tokenizer, OSError when ``target`` cannot be written.
    """
    from gguf import GGUFReader

    progress("reading", 0.0)
    reader = GGUFReader(source)
    values = {name: field.contents() for name, field in reader.fields.items()}
    _check("architecture", values["general.architecture"], "llama")
    _check("tokenizer", (values["tokenizer.ggml.model"], values["tokenizer.ggml.pre"]), ("gpt2", "smollm"))
    config = model_config(values, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
    _write_json(target / "config.json", config)
    _write_json(target / "generation_config.json", _generation_config(config))
    progress("tokenizer", 0.05)
    _write_tokenizer(target, values)
    _write_weights(reader.tensors, config, target / "model.safetensors", progress)
    progress("done", 1.0)


def _check(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise ValueError(f"cannot convert the {what} {found}")


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
    # GGUF counts dimensions from the innermost one.
    shapes = {hf_name(tensor.name): tuple(int(n) for n in reversed(tensor.shape)) for tensor in tensors}
    total = done = sum(int(tensor.n_elements) for tensor in tensors)
    with Bfloat16File(path, shapes) as file:
        for tensor in tensors:
            file.write(to_bfloat16(_weight(tensor, config)))
            done -= int(tensor.n_elements)
            progress("weights", 0.1 + 0.9 * (1 - done / total))


def _weight(tensor: Any, config: dict[str, Any]) -> NDArray[float32]:
    from gguf import dequantize

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weight: NDArray[float32] = dequantize(tensor.data, tensor.tensor_type)
    kind = tensor.name.split(".")[-2]
    return _unpermute(weight, heads[kind]) if kind in heads else weight


def _unpermute(weight: NDArray[float32], heads: int) -> NDArray[float32]:
    """Undo llama.cpp's interleaving of the two halves of rotary dimensions in query and key rows."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _write_tokenizer(target: Path, values: dict[str, Any]) -> None:
    tokens = values["tokenizer.ggml.tokens"]
    kinds = values["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    smollm_tokenizer(tokens, values["tokenizer.ggml.merges"], special).save(str(target / "tokenizer.json"))
    named = {
        f"{role}_token": tokens[values[f"tokenizer.ggml.{role if role != 'unk' else 'unknown'}_token_id"]]
        for role in ("bos", "eos", "unk")
    }
    named["pad_token"] = tokens[values.get("tokenizer.ggml.padding_token_id", values["tokenizer.ggml.eos_token_id"])]
    config = {
        **named,
        "add_bos_token": values["tokenizer.ggml.add_bos_token"],
        "add_prefix_space": values["tokenizer.ggml.add_space_prefix"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": values["llama.context_length"],
        # Takes tokenizer.json as it is; GPT2Tokenizer would put a pre-tokenizer of its own in its place.
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    _write_json(target / "tokenizer_config.json", config)
    (target / "chat_template.jinja").write_text(values["tokenizer.chat_template"], "utf-8")


def smollm_tokenizer(tokens: list[str], merges: list[str], special: list[str]) -> Any:
    """The ``tokenizers.Tokenizer`` that GGUF names "smollm" (llama.cpp, src/llama-vocab.cpp).

    Every digit stands alone before GPT-2's split sees the text. transformers' GGUF loader ignores the name and leaves
    the digits out: white space before a number then becomes other tokens than the model was trained on.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: number for number, token in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", "utf-8")


def _print(stage: str, fraction: float) -> None:
    sys.stdout.write(f"{fraction:.4f} {stage}\n")
    sys.stdout.flush()


def main() -> None:
    """Convert the file named first into the directory named second; what went wrong is one line and status 1."""
    source, target = map(Path, sys.argv[1:3])
    end_with_parent()
    try:
        convert(source, target, _print)
    except OSError as error:
        sys.exit(error.strerror or str(error))
    except (ValueError, KeyError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
