"""Adapters that must not be served: how each is spoiled, and what it is answered with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engine.adapters.shapes import shapes_of_files
from tests.support import lora

Break = Callable[[Path, Path], None]


def rewritten(change: Callable[[dict[str, Any]], None], **config: Any) -> Break:
    def spoil(path: Path, base: Path) -> None:
        tensors = lora.tensors_of(base, seed=1)
        change(tensors)
        lora.write(path, tensors, lora.config_of(**config))

    return spoil


def header(change: Callable[[dict[str, Any]], None] | None = None, raw: bytes | None = None) -> Break:
    """A damaged header before undamaged data."""

    def spoil(path: Path, base: Path) -> None:
        weights = path / lora.WEIGHTS
        content = weights.read_bytes()
        length = int.from_bytes(content[:8], "little")
        fields = json.loads(content[8 : 8 + length])
        if change is not None:
            change(fields)
        made = raw if raw is not None else json.dumps(fields).encode()
        weights.write_bytes(len(made).to_bytes(8, "little") + made + content[8 + length :])

    return spoil


def first(fields: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(value for name, value in sorted(fields.items()) if name.startswith("base_model"))
    return found


def wrong_in(tensors: dict[str, Any]) -> None:
    name = next(iter(tensors))
    tensors[name] = np.concatenate([tensors[name], tensors[name]], axis=1)


def poisoned(value: float) -> Callable[[dict[str, Any]], None]:
    def spoil(tensors: dict[str, Any]) -> None:
        tensors[next(iter(tensors))][0, 0] = value

    return spoil


def config(**changes: Any) -> Break:
    return rewritten(lambda tensors: None, **changes)


def truncated(path: Path, base: Path) -> None:
    os.truncate(path / lora.WEIGHTS, (path / lora.WEIGHTS).stat().st_size - 100)


def twice(path: Path, base: Path) -> None:
    content = (path / lora.WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + length].decode()
    name, value = next((name, value) for name, value in json.loads(text).items() if name != "__metadata__")
    header(raw=("{" + json.dumps(name) + ":" + json.dumps(value) + "," + text.lstrip()[1:]).encode())(path, base)


def as_pickle(path: Path, base: Path) -> None:
    (path / lora.WEIGHTS).rename(path / "adapter_model.bin")


def linked(path: Path, base: Path) -> None:
    outside = path.parent.parent.parent / "outside.safetensors"
    shutil.copy(path / lora.WEIGHTS, outside)
    (path / lora.WEIGHTS).unlink()
    (path / lora.WEIGHTS).symlink_to(outside)


def piped(path: Path, base: Path) -> None:
    (path / lora.WEIGHTS).unlink()
    os.mkfifo(path / lora.WEIGHTS)


def without(name: str) -> Break:
    return lambda path, base: (path / name).unlink()


def beside(name: str) -> Break:
    def spoil(path: Path, base: Path) -> None:
        (path / name).write_bytes(b"print('hello')")

    return spoil


def halved(tensors: dict[str, Any]) -> None:
    del tensors[next(name for name in tensors if "lora_B" in name)]


def renamed(tensors: dict[str, Any]) -> None:
    name = next(iter(tensors))
    tensors[name.replace("layers.0", "layers.7")] = tensors.pop(name)


def appended(path: Path, base: Path) -> None:
    with (path / lora.WEIGHTS).open("ab") as file:
        file.write(b"x")


def boasting(path: Path, base: Path) -> None:
    (path / lora.WEIGHTS).write_bytes((10 * 2**30).to_bytes(8, "little") + b"{}")


def text(name: str, content: str | bytes) -> Break:
    def spoil(path: Path, base: Path) -> None:
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def instead(name: str, make: Callable[[Path], object]) -> Break:
    """Something else under the name of a file."""

    def spoil(path: Path, base: Path) -> None:
        (path / name).unlink()
        make(path / name)

    return spoil


def with_text(old: str, new: str) -> Break:
    """A configuration that json.dumps would not write."""

    def spoil(path: Path, base: Path) -> None:
        content = (path / lora.CONFIG).read_text("utf-8")
        assert old in content
        (path / lora.CONFIG).write_text(content.replace(old, new), "utf-8")

    return spoil


def added(*names: str, shape: tuple[int, ...] = (4, 64)) -> Break:
    """Tensors that do not belong there."""
    return rewritten(lambda tensors: tensors.update({name: np.ones(shape, np.float32) for name in names}))


def under_other_roots(tensors: dict[str, Any]) -> None:
    for name in list(tensors):
        tensors[name.replace("base_model.model.model.", "base_model.model.decoder.")] = tensors.pop(name)


def twice_under_two_names(tensors: dict[str, Any]) -> None:
    name = next(iter(tensors))
    tensors[name.removeprefix("base_model.model.")] = np.ones((4, 7), np.float32)


def sharded(path: Path, base: Path) -> None:
    (path / lora.WEIGHTS).rename(path / "adapter_model-00001-of-00001.safetensors")
    (path / "adapter_model.safetensors.index.json").write_text("{}")


def embedded_as_linear(path: Path, base: Path) -> None:
    out, into = shapes_of_files(base)["model.embed_tokens"]
    module = "base_model.model.model.embed_tokens.lora_"
    made = {f"{module}A.weight": np.ones((4, into), np.float32), f"{module}B.weight": np.ones((out, 4), np.float32)}
    lora.write(path, made, lora.config_of())


def linear_as_embedded(tensors: dict[str, Any]) -> None:
    into = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors[f"{into}.lora_embedding_A"] = np.ones((4, 64), np.float32)
    tensors[f"{into}.lora_embedding_B"] = np.ones((64, 4), np.float32)
    for part in "AB":
        del tensors[f"{into}.lora_{part}.weight"]


def emptied(tensors: dict[str, Any]) -> None:
    name = next(iter(tensors))
    tensors[name] = np.zeros((0, tensors[name].shape[1]), np.float32)


def of_type(dtype: Any) -> Callable[[dict[str, Any]], None]:
    def spoil(tensors: dict[str, Any]) -> None:
        name = next(iter(tensors))
        tensors[name] = tensors[name].astype(dtype)

    return spoil


#: Of each field what PEFT's format does not mean by it, or what vLLM does not carry out.
ODD_FIELDS: dict[str, dict[str, Any]] = {
    "rank 0": {"r": 0},
    "a rank below zero": {"r": -4},
    "a rank that is true": {"r": True},
    "a rank that is a fraction": {"r": 4.0},
    "a rank that is a text": {"r": "4"},
    "no rank": {"r": None},
    "no alpha": {"lora_alpha": None},
    "an alpha that is a text": {"lora_alpha": "16"},
    "an alpha that is true": {"lora_alpha": True},
    "an alpha that is no number": {"lora_alpha": float("nan")},
    "an infinite alpha": {"lora_alpha": float("-inf")},
    "an alpha that makes weights infinite": {"lora_alpha": 1e300},
    "an alpha of 400 digits": {"lora_alpha": 10**400},
    "rsLoRA that is a text": {"use_rslora": "false"},
    "a rank pattern of rank 0": {"rank_pattern": {"q_proj": 0}},
    "a rank pattern above the server's": {"rank_pattern": {"q_proj": 64}},
    "a rank pattern that is a list": {"rank_pattern": [4]},
    "an alpha pattern of texts": {"alpha_pattern": {"q_proj": "8"}},
    "an alpha pattern of 400 digits": {"alpha_pattern": {"q_proj": -(10**400)}},
    "an alpha pattern that is an expression": {"alpha_pattern": {".*q_proj": 8}},
    "a bias": {"bias": "all"},
    "a bias of its own": {"bias": "lora_only"},
    "a bias that is null": {"bias": None},
    "a bias in B": {"lora_bias": True},
    "modules to save": {"modules_to_save": ["lm_head"]},
    "quantised inside": {"use_qalora": True},
    "layers repeated": {"layer_replication": [[0, 1], [0, 1]]},
    "tokens of its own": {"trainable_token_indices": [5]},
    "switched on by tokens": {"alora_invocation_tokens": [5]},
    "a base that was changed": {"init_lora_weights": "pissa"},
    "a base that was quantised": {"init_lora_weights": "loftq"},
    "another method": {"peft_type": "IA3"},
    "no method": {"peft_type": None},
    "no targets": {"target_modules": None},
    "targets that are none": {"target_modules": []},
    "targets that are numbers": {"target_modules": [1]},
    "targets without end": {"target_modules": "x" * 5000},
}

BROKEN: dict[str, tuple[Break, int, str]] = {
    **{kind: (config(**fields), 422, "invalid_adapter") for kind, fields in ODD_FIELDS.items()},
    "a name twice in the configuration": (with_text('"r": 4', '"r": 8, "r": 4'), 422, "invalid_adapter"),
    "a configuration with a mark of byte order": (with_text("{", "\ufeff{"), 422, "invalid_adapter"),
    "a configuration that is a list": (text(lora.CONFIG, "[]"), 422, "invalid_adapter"),
    "a configuration nested deep": (text(lora.CONFIG, "[" * 200_000), 422, "invalid_adapter"),
    "a configuration of other letters": (text(lora.CONFIG, b'{"r": "\xff"}'), 422, "invalid_adapter"),
    "a configuration that is large": (text(lora.CONFIG, " " * 1_100_000 + "{}"), 422, "invalid_adapter"),
    "a number of 5000 digits": (with_text('"r": 4', f'"r": {"4" * 5000}'), 422, "invalid_adapter"),
    "a configuration that is a pipe": (instead(lora.CONFIG, os.mkfifo), 422, "invalid_adapter"),
    "a configuration that is a directory": (instead(lora.CONFIG, os.mkdir), 422, "invalid_adapter"),
    "weights that are a directory": (instead(lora.WEIGHTS, os.mkdir), 422, "invalid_adapter"),
    "a link that leads nowhere": (instead(lora.WEIGHTS, lambda path: path.symlink_to("none")), 422, "invalid_adapter"),
    "a link to the file beside it": (
        instead(lora.WEIGHTS, lambda path: path.symlink_to(lora.CONFIG)),
        422,
        "invalid_adapter",
    ),
    "weights in shards": (sharded, 422, "invalid_adapter"),
    "an archive beside": (beside("more.tar"), 400, "unsafe_artifact"),
    "a number of Python beside": (beside("weights.NPZ"), 400, "unsafe_artifact"),
    "metadata that are no texts": (
        header(lambda fields: fields.update(__metadata__={"format": 1})),
        422,
        "invalid_adapter",
    ),
    "metadata that are a list": (header(lambda fields: fields.update(__metadata__=[])), 422, "invalid_adapter"),
    "a header that begins with spaces": (header(raw=b'  {"__metadata__":{}}'), 422, "invalid_adapter"),
    "a header without tensors": (header(raw=b'{"__metadata__":{}}'), 422, "invalid_adapter"),
    "a shape of nine dimensions": (
        header(lambda fields: first(fields).update(shape=[1] * 7 + first(fields)["shape"])),
        422,
        "invalid_adapter",
    ),
    "a shape of true": (header(lambda fields: first(fields).update(shape=[True, 256])), 422, "invalid_adapter"),
    "a shape beyond all bounds": (
        header(lambda fields: first(fields).update(shape=[2**62] * 2)),
        422,
        "invalid_adapter",
    ),
    "a tensor of no rows": (rewritten(emptied), 422, "invalid_adapter"),
    "bytes instead of floats": (rewritten(of_type(np.int8)), 422, "invalid_adapter"),
    "long floats": (rewritten(of_type(np.float64)), 422, "invalid_adapter"),
    "a tensor of the base": (added("base_model.model.lm_head.weight"), 422, "invalid_adapter"),
    "a bias beside A": (added("base_model.model.model.layers.0.self_attn.q_proj.lora_A.bias"), 422, "invalid_adapter"),
    "a magnitude": (
        added("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", shape=(64,)),
        422,
        "invalid_adapter",
    ),
    "a trainer's name": (
        added("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"),
        422,
        "invalid_adapter",
    ),
    "a name of a million letters": (added("x" * 1_000_000), 422, "invalid_adapter"),
    "modules below another root": (rewritten(under_other_roots), 422, "invalid_adapter"),
    "one module under two names": (rewritten(twice_under_two_names), 422, "invalid_adapter"),
    "an embedding as a linear layer": (embedded_as_linear, 422, "invalid_adapter"),
    "a linear layer as an embedding": (rewritten(linear_as_embedded), 422, "invalid_adapter"),
    "no weights": (without(lora.WEIGHTS), 422, "invalid_adapter"),
    "no configuration": (without(lora.CONFIG), 422, "invalid_adapter"),
    "truncated": (truncated, 422, "invalid_adapter"),
    "more data than tensors": (appended, 422, "invalid_adapter"),
    "empty weights": (lambda path, base: os.truncate(path / lora.WEIGHTS, 0), 422, "invalid_adapter"),
    "a header of ten gigabytes": (boasting, 422, "invalid_adapter"),
    "a header that is no JSON": (header(raw=b"{nonsense"), 422, "invalid_adapter"),
    "a header nested deep": (header(raw=b"[" * 200_000), 422, "invalid_adapter"),
    "a tensor twice": (twice, 422, "invalid_adapter"),
    "tensors that overlap": (
        header(lambda fields: first(fields).update(data_offsets=[8, 8 + 4096])),
        422,
        "invalid_adapter",
    ),
    "offsets below zero": (header(lambda fields: first(fields).update(data_offsets=[-8, 8])), 422, "invalid_adapter"),
    "an unknown type": (header(lambda fields: first(fields).update(dtype="I64")), 422, "invalid_adapter"),
    "another in-dimension": (rewritten(wrong_in), 422, "invalid_adapter"),
    "half an adapter": (rewritten(halved), 422, "invalid_adapter"),
    "a layer the model does not have": (rewritten(renamed), 422, "invalid_adapter"),
    "a rank that is not the configuration's": (config(rank=8), 422, "invalid_adapter"),
    "a rank above the server's": (config(rank=64), 422, "invalid_adapter"),
    "NaN": (rewritten(poisoned(float("nan"))), 422, "invalid_adapter"),
    "infinity": (rewritten(poisoned(float("inf"))), 422, "invalid_adapter"),
    "DoRA": (config(use_dora=True), 422, "invalid_adapter"),
    "patterns that are expressions": (config(rank_pattern={"(a+)+$": 4}), 422, "invalid_adapter"),
    "a pipe": (piped, 422, "invalid_adapter"),
    "a link out of the directory": (linked, 422, "invalid_adapter"),
    "weights as a pickle": (as_pickle, 400, "unsafe_artifact"),
    "a pickle beside": (beside("training_args.bin"), 400, "unsafe_artifact"),
    "code beside": (beside("modeling.py"), 400, "unsafe_artifact"),
    "code by reference": (config(auto_map={"AutoModel": "evil--code"}), 400, "unsafe_artifact"),
    "too large": (
        lambda path, base: os.truncate(path / lora.WEIGHTS, 33 * 1024 * 1024),
        422,
        "invalid_adapter",
    ),
}
