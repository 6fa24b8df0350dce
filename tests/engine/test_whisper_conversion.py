from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from engine.whisper_conversion import model_config, read


def test_the_model_is_whole_and_says_what_it_is(whisper_model: Path) -> None:
    config = json.loads((whisper_model / "config.json").read_text())
    assert config["architectures"] == ["WhisperForConditionalGeneration"]
    assert (config["d_model"], config["encoder_layers"], config["encoder_attention_heads"]) == (512, 6, 8)
    generation = json.loads((whisper_model / "generation_config.json").read_text())
    assert generation["lang_to_id"]["<|en|>"] == 50259
    assert len(generation["lang_to_id"]) == 99
    assert generation["task_to_id"] == {"translate": 50358, "transcribe": 50359}
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in whisper_model.iterdir())


def test_the_tokenizer_has_every_timestamp(whisper_model: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(whisper_model / "tokenizer.json"))
    assert tokenizer.token_to_id("<|0.00|>") == 50364
    assert tokenizer.token_to_id("<|30.00|>") == 51864
    assert tokenizer.encode(" Hello there.", add_special_tokens=False).ids == [2425, 456, 13]


def test_every_weight_has_its_name_and_shape(whisper_model: Path) -> None:
    from safetensors import safe_open

    with safe_open(whisper_model / "model.safetensors", "np") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a dict
    assert len(shapes) == 245
    assert shapes["model.decoder.embed_tokens.weight"] == (51865, 512)
    assert shapes["model.encoder.conv1.weight"] == (512, 80, 3)
    assert shapes["model.decoder.layers.5.encoder_attn.v_proj.bias"] == (512,)
    assert not [name for name in shapes if name.endswith("k_proj.bias")]


def packed(name: str, array: np.ndarray) -> bytes:
    text = name.encode() + b"\0"
    shape = struct.pack(f"<{array.ndim}I", *array.shape)
    head = struct.pack("<H", len(text)) + text + struct.pack("<B", array.ndim) + shape
    return head + struct.pack("<BI", 4, array.nbytes) + array.tobytes()


HEAD = struct.pack("<IH", 6, 12) + b"WhisperSpec\0" + struct.pack("<I", 3)


def test_a_file_is_read_to_its_last_tensor() -> None:
    first, second = np.arange(6, dtype="<f2").reshape(2, 3), np.ones(2, dtype="<f2")
    found = dict(read(HEAD + struct.pack("<I", 2) + packed("a/weight", first) + packed("b", second)))
    assert found.keys() == {"a/weight", "b"}
    assert (found["a/weight"] == first).all()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEAD,
        HEAD + struct.pack("<I", 1) + packed("a", np.ones(9, dtype="<f2"))[:-3],
        struct.pack("<IH", 5, 12) + b"WhisperSpec\0" + struct.pack("<II", 3, 0),
    ],
    ids=["empty", "only a head", "cut off", "another version"],
)
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"model\.bin|version|buffer"):
        dict(read(data))


def test_the_configuration_needs_the_embedding() -> None:
    with pytest.raises(KeyError):
        model_config({}, {})
