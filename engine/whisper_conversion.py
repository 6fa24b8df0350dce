"""Whisper in CTranslate2's format -> Hugging Face directory: ``python -m engine.whisper_conversion PART... TARGET``.

In a process of its own, with the manners of :mod:`engine.conversion`. The parts are one ``model.bin`` (binary version
6) cut in pieces; ``config.json`` and ``tokenizer.json`` lie beside the first. Format: CTranslate2's
``python/ctranslate2/specs/model_spec.py``; weight names as its ``converters/transformers.py`` maps Whisper's.
The weights stay the float16 that they are.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.child import end_with_parent

if TYPE_CHECKING:
    from numpy.typing import NDArray

Progress = Callable[[str, float], None]
Weights = Mapping[str, "NDArray[Any]"]

_VERSION: Final = 6
_TYPES: Final = ("<f4", "i1", "<i2", "<i4", "<f2")
_TIMESTAMP_STEP: Final = 0.02
_TIMESTAMPS: Final = 1501
_BYTES: Final = 256
_LANGUAGES: Final = (50259, 50357)


def convert(parts: Sequence[Path], target: Path, progress: Progress) -> None:
    """Write the multilingual Whisper model in ``parts`` to the existing directory ``target``.

    Raises ValueError for what is not such a model, OSError when ``target`` cannot be written.
    """
    from safetensors.numpy import save_file

    progress("reading", 0.0)
    beside = parts[0].parent
    weights = dict(read(b"".join(part.read_bytes() for part in parts)))
    facts = json.loads((beside / "config.json").read_text("utf-8"))
    progress("tokenizer", 0.3)
    config = model_config(weights, facts)
    tokens = _write_tokenizer(beside / "tokenizer.json", target)
    _write_json(target / "config.json", config)
    _write_json(target / "generation_config.json", _generation_config(config, facts, tokens))
    _write_json(target / "preprocessor_config.json", _feature_extractor(config))
    progress("weights", 0.5)
    save_file(dict(hf_weights(weights, config)), target / "model.safetensors", {"format": "pt"})
    (target / "model.safetensors").chmod(0o644)  # the library makes it for its owner alone
    progress("done", 1.0)


def read(data: bytes) -> Iterator[tuple[str, NDArray[Any]]]:
    """The tensors of a ``model.bin``. Raises ValueError."""
    import numpy

    at = 0

    def number(kind: str) -> int:
        nonlocal at
        at += struct.calcsize(kind)
        return int(struct.unpack_from(kind, data, at - struct.calcsize(kind))[0])

    def text() -> str:
        nonlocal at
        size = number("<H")
        at += size
        return data[at - size : at - 1].decode("utf-8")  # the last byte is a NUL

    try:
        version, name, _revision = number("<I"), text(), number("<I")
        if (version, name) != (_VERSION, "WhisperSpec"):
            raise ValueError(f"cannot convert {name} version {version}")
        for _ in range(number("<I")):
            name, rank = text(), number("<B")
            shape = [number("<I") for _ in range(rank)]
            kind, size = _TYPES[number("<B")], number("<I")
            yield name, numpy.frombuffer(data, kind, size // numpy.dtype(kind).itemsize, at).reshape(shape)
            at += size
    except (struct.error, IndexError) as error:
        raise ValueError(f"model.bin ends in the middle or is none: {error}") from error


def model_config(weights: Weights, facts: Mapping[str, Any]) -> dict[str, Any]:
    """``config.json`` from the weights' shapes."""
    vocabulary, width = weights["decoder/embeddings/weight"].shape
    layers = sum(name.startswith("encoder/") and name.endswith("ffn/layer_norm/gamma") for name in weights)
    heads = int(weights["encoder/num_heads"].reshape(-1)[0])
    end = facts["suppress_ids_begin"][1]
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "dtype": "float16",
        "is_encoder_decoder": True,
        "vocab_size": vocabulary,
        "d_model": width,
        "num_mel_bins": weights["encoder/conv1/weight"].shape[1],
        **{f"{side}_layers": layers for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": heads for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": 4 * width for side in ("encoder", "decoder")},
        "max_source_positions": len(weights["encoder/position_encodings/encodings"]),
        "max_target_positions": len(weights["decoder/position_encodings/encodings"]),
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": True,
        **{f"{role}_token_id": end for role in ("bos", "eos", "pad")},
        "decoder_start_token_id": end + 1,
        "suppress_tokens": facts["suppress_ids"],
        "begin_suppress_tokens": facts["suppress_ids_begin"],
    }


def hf_weights(weights: Weights, config: Mapping[str, Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """The tensors by their Hugging Face names. The output projection is the embedding and is not written twice."""
    for conv in ("conv1", "conv2"):
        yield from _pair(weights, f"encoder/{conv}", f"model.encoder.{conv}")
    yield "model.decoder.embed_tokens.weight", weights["decoder/embeddings/weight"]
    for side in ("encoder", "decoder"):
        yield f"model.{side}.embed_positions.weight", weights[f"{side}/position_encodings/encodings"]
        yield from _norm(weights, f"{side}/layer_norm", f"model.{side}.layer_norm")
        for layer in range(config[f"{side}_layers"]):
            yield from _layer(weights, f"{side}/layer_{layer}", f"model.{side}.layers.{layer}", side == "decoder")


def _layer(weights: Weights, source: str, target: str, decoder: bool) -> Iterator[tuple[str, NDArray[Any]]]:
    attention = f"{source}/self_attention"
    yield from _norm(weights, f"{attention}/layer_norm", f"{target}.self_attn_layer_norm")
    yield from _projections(weights, f"{attention}/linear_0", f"{target}.self_attn", "qkv")
    yield from _pair(weights, f"{attention}/linear_1", f"{target}.self_attn.out_proj")
    if decoder:
        attention = f"{source}/attention"
        yield from _norm(weights, f"{attention}/layer_norm", f"{target}.encoder_attn_layer_norm")
        yield from _projections(weights, f"{attention}/linear_0", f"{target}.encoder_attn", "q")
        yield from _projections(weights, f"{attention}/linear_1", f"{target}.encoder_attn", "kv")
        yield from _pair(weights, f"{attention}/linear_2", f"{target}.encoder_attn.out_proj")
    yield from _norm(weights, f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
    for number, name in enumerate(("fc1", "fc2")):
        yield from _pair(weights, f"{source}/ffn/linear_{number}", f"{target}.{name}")


def _projections(weights: Weights, source: str, target: str, names: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """Projections that CTranslate2 stacks. Whisper's keys have no bias: what stands there for one is zero."""
    import numpy

    matrices = numpy.split(weights[f"{source}/weight"], len(names))
    biases = numpy.split(weights[f"{source}/bias"], len(names))
    for name, matrix, bias in zip(names, matrices, biases, strict=True):
        yield f"{target}.{name}_proj.weight", matrix
        if name != "k":
            yield f"{target}.{name}_proj.bias", bias
        elif bias.any():
            raise ValueError(f"{source}: a bias of keys, which Whisper does not have")


def _pair(weights: Weights, source: str, target: str) -> Iterator[tuple[str, NDArray[Any]]]:
    for part in ("weight", "bias"):
        yield f"{target}.{part}", weights[f"{source}/{part}"]


def _norm(weights: Weights, source: str, target: str) -> Iterator[tuple[str, NDArray[Any]]]:
    yield f"{target}.weight", weights[f"{source}/gamma"]
    yield f"{target}.bias", weights[f"{source}/beta"]


def _write_tokenizer(source: Path, target: Path) -> dict[str, int]:
    """Copy the tokenizer with the timestamps that it lacks; ids of all added tokens by their text."""
    tokenizer = json.loads(source.read_text("utf-8"))
    _mend_merges(tokenizer["model"])
    added = tokenizer["added_tokens"]
    known = {token["content"] for token in added}
    first = max(token["id"] for token in added if not _is_timestamp(token["content"])) + 1
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    for step in range(_TIMESTAMPS):
        text = f"<|{step * _TIMESTAMP_STEP:.2f}|>"
        if text not in known:
            added.append({"id": first + step, "content": text, **flags})
    _write_json(target / "tokenizer.json", tokenizer)
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    config = {
        **ends,
        "tokenizer_class": "WhisperTokenizer",
        "processor_class": "WhisperProcessor",
        "model_max_length": 448,
        "add_prefix_space": False,
        "errors": "replace",
        "return_attention_mask": False,
        "additional_special_tokens": [token["content"] for token in added if token["special"]],
    }
    _write_json(target / "tokenizer_config.json", config)
    return {token["content"]: token["id"] for token in added}


def _mend_merges(model: dict[str, Any]) -> None:
    """Put the first merge back, if it was lost: " t", without which " the" and " there" fall apart.

    Token 256 is the first that is made by a merge; the bytes come before it (GPT-2's vocabulary).
    """
    merges = model["merges"]
    first = next(token for token, number in model["vocab"].items() if number == _BYTES)
    pair = merges[0] if isinstance(merges[0], list) else merges[0].split(" ")
    if "".join(pair) != first:
        whole = [first[0], first[1:]]
        merges.insert(0, whole if isinstance(merges[0], list) else " ".join(whole))


def _is_timestamp(text: str) -> bool:
    return text[2:-2].replace(".", "", 1).isdigit()


def _generation_config(
    config: Mapping[str, Any], facts: Mapping[str, Any], tokens: Mapping[str, int]
) -> dict[str, Any]:
    first, last = _LANGUAGES
    return {
        **{name: config[name] for name in config if name.endswith(("_token_id", "suppress_tokens"))},
        "alignment_heads": facts["alignment_heads"],
        "is_multilingual": True,
        "lang_to_id": {text: number for text, number in tokens.items() if first <= number <= last},
        "max_length": config["max_target_positions"],
        "no_timestamps_token_id": tokens["<|notimestamps|>"],
        "task_to_id": {task: tokens[f"<|{task}|>"] for task in ("translate", "transcribe")},
    }


def _feature_extractor(config: Mapping[str, Any]) -> dict[str, Any]:
    """``preprocessor_config.json``: 25 ms windows every 10 ms at 16 kHz, in pieces of 30 s."""
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": config["num_mel_bins"],
        "sampling_rate": 16_000,
        "n_fft": 400,
        "hop_length": 160,
        "chunk_length": 30,
        "n_samples": 480_000,
        "nb_max_frames": 3000,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", "utf-8")


def _print(stage: str, fraction: float) -> None:
    sys.stdout.write(f"{fraction:.4f} {stage}\n")
    sys.stdout.flush()


def main() -> None:
    """Convert the files named first into the directory named last; what went wrong is one line and status 1."""
    *parts, target = map(Path, sys.argv[1:])
    end_with_parent()
    try:
        convert(parts, target, _print)
    except OSError as error:
        sys.exit(error.strerror or str(error))
    except (ValueError, KeyError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
