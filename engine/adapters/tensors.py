"""The header of a safetensors file, read as if its author were an enemy.

The format: 8 bytes of length (little endian), so many bytes of JSON, then the data
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np

from engine.types import AdapterRefused

MAX_HEADER_BYTES: Final = 8 * 1024 * 1024
MAX_DIMENSIONS: Final = 8
_LENGTH_BYTES: Final = 8
_SCAN_BYTES: Final = 4 * 1024 * 1024

#: Of each type its size in bytes, the integer to read it as, and the bits of the exponent: all set in NaN and infinity.
_FLOATS: Final = {
    "F16": (2, "<u2", 0x7C00),
    "BF16": (2, "<u2", 0x7F80),
    "F32": (4, "<u4", 0x7F800000),
}
_FLOAT_WIDTHS: Final = {dtype: width for dtype, (width, _, _) in _FLOATS.items()}
#: Bytes of every type of whole bytes that the format knows.
WIDTHS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor; ``begin`` and ``end`` are offsets into the file, in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(file: BinaryIO, size: int, widths: Mapping[str, int] = _FLOAT_WIDTHS) -> list[Tensor]:
    """The tensors of a file of ``size`` bytes, in the order of their data, which they cover without gap or overlap.

    ``widths``: bytes of one number of each type that is taken; default: the floats that adapters are made of.
    Raises :class:`AdapterRefused`.
    """
    if size < _LENGTH_BYTES:
        raise AdapterRefused("The weights are not a safetensors file: it is too short.")
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if length > size - _LENGTH_BYTES:
        raise AdapterRefused("The weights are not a safetensors file, or a truncated one: the header is not all there.")
    if length > MAX_HEADER_BYTES:
        raise AdapterRefused(f"The header of the weights is larger than {MAX_HEADER_BYTES} bytes.")
    start = _LENGTH_BYTES + length
    tensors = [_tensor(name, value, start, widths) for name, value in _entries(file.read(length)).items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    at = start
    for tensor in tensors:
        if tensor.begin != at:
            raise AdapterRefused(f"The data of {_named(tensor.name)} overlaps another's, or leaves a gap.")
        at = tensor.end
    if at != size:
        raise AdapterRefused("The weights are truncated, or there is more data than tensors.")
    return tensors


def require_finite(file: BinaryIO, tensors: list[Tensor]) -> None:
    """Raises :class:`AdapterRefused` for a NaN or an infinity in the data. Blocks for as long as reading it takes."""
    for tensor in tensors:
        _, kind, exponent = _FLOATS[tensor.dtype]
        file.seek(tensor.begin)
        left = tensor.end - tensor.begin
        while left:
            piece = file.read(min(left, _SCAN_BYTES))
            if not piece:
                raise AdapterRefused("The weights are truncated.")
            left -= len(piece)
            if bool(((np.frombuffer(piece, kind) & exponent) == exponent).any()):
                raise AdapterRefused(f"{_named(tensor.name)} holds NaN or infinity.")


def _entries(raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise AdapterRefused("The header of the weights is not JSON.") from None
    if not isinstance(header, dict) or not raw.startswith(b"{"):
        raise AdapterRefused("The header of the weights is not an object.")
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(text, str) for text in notes.values()):
        raise AdapterRefused("The header's metadata are not texts.")
    if not header:
        raise AdapterRefused("The weights hold no tensors.")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise AdapterRefused(f"The header of the weights has {_named(twice)} twice.")
    return found


def _tensor(name: str, value: Any, start: int, widths: Mapping[str, int]) -> Tensor:
    match value:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end], **rest} if not rest:
            pass
        case _:
            raise AdapterRefused(f"The header says nothing usable of {_named(name)}.")
    if dtype not in widths:
        raise AdapterRefused(f"{_named(name)} is of type {_named(dtype)}; expected one of {', '.join(widths)}.")
    if len(shape) > MAX_DIMENSIONS or not all(_counts(each) for each in (*shape, begin, end)):
        raise AdapterRefused(f"The header gives {_named(name)} a shape or an offset that is none.")
    if end - begin != math.prod(shape) * widths[dtype]:
        raise AdapterRefused(f"The data of {_named(name)} is not as large as its shape says.")
    return Tensor(name, dtype, tuple(shape), start + begin, start + end)


def _counts(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _named(name: str) -> str:
    """A name from a file, fit for a message."""
    return repr(name[:128])
