"""bfloat16 without torch: rounding, and a safetensors file written tensor by tensor."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from numpy import float32, uint16
    from numpy.typing import NDArray


def to_bfloat16(values: NDArray[float32]) -> NDArray[uint16]:
    """The bits of finite ``values`` rounded to the nearest bfloat16, ties to even, as torch rounds."""
    import numpy

    bits = numpy.ascontiguousarray(values, dtype=numpy.float32).view(numpy.uint32)
    even = (bits >> numpy.uint32(16)) & numpy.uint32(1)
    return ((bits + numpy.uint32(0x7FFF) + even) >> numpy.uint32(16)).astype(numpy.uint16)


class Bfloat16File:
    """A safetensors file of bfloat16 tensors, written in the order in which ``shapes`` names them.

    Format: https://github.com/huggingface/safetensors#format. Raises OSError, and ValueError on leaving when tensors
    are missing or of another size.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._path = path
        self._header, self._size = _header(shapes)

    def __enter__(self) -> Self:
        self._file = self._path.open("wb")
        self._file.write(self._header)
        return self

    def write(self, bits: NDArray[uint16]) -> None:
        """Append the next tensor."""
        self._file.write(bits.astype("<u2", copy=False).data)

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        written = self._file.tell()
        self._file.close()
        if kind is None and written != len(self._header) + self._size:
            raise ValueError(f"{self._path.name}: {written} bytes are not what its header says")


def _header(shapes: Mapping[str, tuple[int, ...]]) -> tuple[bytes, int]:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins aligned
    return len(text).to_bytes(8, "little") + text, end
