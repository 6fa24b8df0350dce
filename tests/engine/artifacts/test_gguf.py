"""GGUF headers: what is true is read, what lies is refused, and no bytes do worse than that."""

from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import samples
from engine.artifacts.convert import converted_bytes, why_not
from engine.artifacts.gguf import read_gguf
from engine.artifacts.refusal import ArtifactRefused
from tests.support.uploads import gguf


def read(data: bytes) -> object:
    return read_gguf(io.BytesIO(data), len(data))


def test_the_embedded_model_is_read_and_can_be_converted() -> None:
    source = samples._packaged_file(samples.SMOLLM2, samples.SMOLLM2.sources[0])
    with source.open("rb") as file:
        header = read_gguf(file, source.stat().st_size)
    assert (header.architecture, header.tokenizer) == ("llama", ("gpt2", "smollm"))
    assert header.elements > 134_000_000
    assert why_not(header) is None
    assert converted_bytes(header) > 2 * header.elements


def test_another_architecture_is_named() -> None:
    reason = why_not(read_gguf(io.BytesIO(gguf("mamba")), len(gguf("mamba"))))
    assert reason is not None
    assert "'mamba'" in reason


@pytest.mark.parametrize("cut", range(1, 400, 7))
def test_cut_anywhere_it_is_refused(cut: int) -> None:
    whole = gguf(tensors=2)
    read(whole)
    with pytest.raises(ArtifactRefused):
        read(whole[:-cut])


@given(st.data())
def test_no_change_of_a_byte_does_worse_than_a_refusal(data: st.DataObject) -> None:
    changed = bytearray(gguf(tensors=3))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ArtifactRefused):
        read(bytes(changed))
