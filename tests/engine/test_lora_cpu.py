"""LoRA on a CPU: rows get their own adapter or none, as one row alone would. Checked against vLLM 0.32.0."""

from __future__ import annotations

from importlib import metadata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine import lora_cpu

SLOTS, RANK, INTO, OUT = 3, 4, 6, 10


def weights(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


A, B = weights(SLOTS, 1, RANK, INTO), weights(SLOTS, 1, OUT, RANK)
Rows = st.lists(st.integers(-1, SLOTS - 1), min_size=1, max_size=12)


@given(Rows)
def test_every_row_gets_what_it_would_alone_and_none_gets_anothers(slots: list[int]) -> None:
    indices, inputs = torch.tensor(slots), weights(len(slots), INTO)
    shrunk, base = torch.full((len(slots), RANK), 7.0), weights(len(slots), OUT + 2)
    result = base.clone()
    lora_cpu.shrink(inputs, A, shrunk, indices, 0.5)
    lora_cpu.expand(shrunk, B, result, indices)
    for row, slot in enumerate(slots):
        expected = base[row].clone()
        if slot >= 0:
            expected[:OUT] += B[slot, 0] @ (0.5 * (A[slot, 0] @ inputs[row]))
        torch.testing.assert_close(result[row], expected, rtol=1e-4, atol=1e-5)


@given(Rows, st.booleans())
def test_a_slice_is_written_and_nothing_beside_it(slots: list[int], add: bool) -> None:
    indices, inputs, base = torch.tensor(slots), weights(len(slots), RANK), weights(len(slots), OUT + 8)
    result = base.clone()
    lora_cpu.expand_slice(inputs, B, result, indices, 5, OUT, add)
    for row, slot in enumerate(slots):
        expected = base[row].clone()
        if slot >= 0:
            gained = B[slot, 0] @ inputs[row]
            expected[5 : 5 + OUT] = expected[5 : 5 + OUT] + gained if add else gained
        torch.testing.assert_close(result[row], expected, rtol=1e-4, atol=1e-5)


def test_it_stands_in_vllms_place_and_agrees_with_it_where_that_is_right() -> None:
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    theirs = {name: getattr(lora_ops, name) for name in ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")}
    indices, inputs = torch.tensor([0, 2, 1, 2]), weights(4, INTO)
    expected, found = torch.zeros(4, RANK), torch.zeros(4, RANK)
    theirs["bgmv_shrink"](inputs, A, expected, indices, 2.0)
    lora_cpu.shrink(inputs, A, found, indices, 2.0)
    torch.testing.assert_close(found, expected)
    neighbour = torch.zeros(1, RANK)
    theirs["bgmv_shrink"](inputs[:1], A, neighbour, torch.tensor([-1]))
    assert neighbour.any(), "vLLM gives a row without an adapter the last slot's: if it does not any more, drop ours"
    try:
        lora_cpu.install()
        assert lora_ops.bgmv_shrink is punica_cpu.bgmv_shrink is lora_cpu.shrink
        assert lora_ops.bgmv_expand is punica_cpu.bgmv_expand is lora_cpu.expand
        assert lora_ops.bgmv_expand_slice is punica_cpu.bgmv_expand_slice is lora_cpu.expand_slice
    finally:
        for module in (lora_ops, punica_cpu):
            for name, function in theirs.items():
                setattr(module, name, function)


def test_an_unknown_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda _name: "0.33.0+cpu")
    with pytest.raises(lora_cpu.UnknownVersion, match=r"0\.33\.0"):
        lora_cpu.install()
