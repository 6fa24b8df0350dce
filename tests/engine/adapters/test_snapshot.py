"""What is taken and what is not, and that a copy is what was checked: no engine is asked."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.adapters.shapes import shapes_of_files
from engine.adapters.snapshot import CONFIG, WEIGHTS, SnapshotStore, sha256_of
from engine.types import AdapterRefused
from tests.support import lora
from tests.support.broken_adapters import BROKEN

MAX_BYTES = 32 * 1024 * 1024


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of two layers, as far as its header goes."""
    import numpy as np
    from safetensors.numpy import save_file

    directory = tmp_path_factory.mktemp("base")
    tensors = {"model.embed_tokens.weight": np.zeros((512, 64), np.float16)}
    for layer in range(2):
        for name, shape in {"q_proj": (64, 64), "k_proj": (32, 64), "v_proj": (32, 64), "o_proj": (64, 64)}.items():
            tensors[f"model.layers.{layer}.self_attn.{name}.weight"] = np.zeros(shape, np.float16)
    save_file(tensors, directory / "model.safetensors")
    return directory


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "store", MAX_BYTES)


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_refused_and_leaves_nothing(
    kind: str, store: SnapshotStore, base: Path, tmp_path: Path
) -> None:
    spoil, _, code = BROKEN[kind]
    path = lora.make_adapter(tmp_path / "a" / "b", base, seed=1)
    spoil(path, base)
    with pytest.raises(AdapterRefused) as caught:
        store.take(path, shapes_of_files(base), 16)
    assert caught.value.code == code
    assert len(str(caught.value)) < 1024
    assert str(tmp_path) not in str(caught.value)
    assert not (tmp_path / "store").exists() or os.listdir(tmp_path / "store") == []


def test_a_copy_is_kept_once_by_its_content_and_cannot_be_written(
    store: SnapshotStore, base: Path, tmp_path: Path
) -> None:
    path = lora.make_adapter(tmp_path / "one", base, seed=1)
    first = store.take(path, shapes_of_files(base), 16)
    config = json.loads((path / CONFIG).read_text())
    (path / CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": "elsewhere"}, indent=7))
    again = store.take(path, shapes_of_files(base), 16)
    assert first == again
    assert first.sha256 == sha256_of(path) == sha256_of(first.path)
    assert (first.path / WEIGHTS).read_bytes() == (path / WEIGHTS).read_bytes()
    assert {file.name for file in first.path.iterdir()} == {CONFIG, WEIGHTS}
    assert all(file.stat().st_mode & 0o222 == 0 for file in (first.path, *first.path.iterdir()))
    other = store.take(lora.make_adapter(tmp_path / "two", base, seed=2), shapes_of_files(base), 16)
    assert other.sha256 != first.sha256
    alpha = lora.write(tmp_path / "three", lora.tensors_of(base, seed=1), lora.config_of(lora_alpha=9))
    assert store.take(alpha, shapes_of_files(base), 16).sha256 != first.sha256
    store.forget(first.sha256)
    store.forget(first.sha256)
    assert not first.path.exists()


def test_a_copy_that_was_tampered_with_is_made_again(store: SnapshotStore, base: Path, tmp_path: Path) -> None:
    path = lora.make_adapter(tmp_path / "one", base, seed=1)
    first = store.take(path, shapes_of_files(base), 16)
    first.path.chmod(0o700)
    (first.path / WEIGHTS).chmod(0o600)
    (first.path / WEIGHTS).write_bytes(b"something else")
    store.take(path, shapes_of_files(base), 16)
    assert sha256_of(first.path) == first.sha256


def test_roots_of_other_libraries_are_understood_where_a_model_has_several(
    store: SnapshotStore, base: Path, tmp_path: Path
) -> None:
    """The same module under another root, a rank of its own."""
    tensors = {
        name.replace("base_model.model.model.", "base_model.model.language_model."): value
        for name, value in lora.tensors_of(base, seed=1, modules=("q_proj",)).items()
    }
    tensors |= lora.tensors_of(base, seed=2, modules=("o_proj",), rank=8)
    path = lora.write(tmp_path / "one", tensors, lora.config_of(rank_pattern={"o_proj": 8}))
    shapes = shapes_of_files(base)
    assert store.take(path, shapes | {"visual.proj": (8, 8)}, 16).rank == 8
    # vLLM would look for the one root that there is, and serve the base model in its name.
    with pytest.raises(AdapterRefused, match="has no module"):
        store.take(path, shapes, 16)


def test_patterns_keep_their_order_in_the_copy(store: SnapshotStore, base: Path, tmp_path: Path) -> None:
    """PEFT and vLLM take the first that matches."""
    patterns = {"self_attn.q_proj": 8, "layers.1.self_attn.q_proj": 32, "k_proj": 2}
    path = lora.write(tmp_path / "one", lora.tensors_of(base, seed=1), lora.config_of(alpha_pattern=patterns))
    copy = store.take(path, shapes_of_files(base), 16).path
    assert list(json.loads((copy / CONFIG).read_text())["alpha_pattern"].items()) == list(patterns.items())


def test_nothing_stays_open_of_what_is_refused(store: SnapshotStore, base: Path, tmp_path: Path) -> None:
    path = lora.make_adapter(tmp_path / "one", base, seed=1)
    (path / WEIGHTS).unlink()
    (path / WEIGHTS).mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(AdapterRefused):
            store.take(path, shapes_of_files(base), 16)
    assert len(os.listdir("/proc/self/fd")) == before


@given(at=st.integers(0, 4000), value=st.integers(0, 255))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_byte_of_a_header_changed_is_taken_or_refused_never_an_error(
    store: SnapshotStore, base: Path, tmp_path: Path, at: int, value: int
) -> None:
    path = lora.make_adapter(tmp_path / "one", base, seed=1)
    content = bytearray((path / WEIGHTS).read_bytes())
    content[at % min(len(content), 4000)] = value
    (path / WEIGHTS).write_bytes(content)
    with suppress(AdapterRefused):
        store.take(path, shapes_of_files(base), 16)
