"""Adapters that must not be served: how each is spoiled, and what it is answered with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

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


BROKEN: dict[str, tuple[Break, int, str]] = {
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
