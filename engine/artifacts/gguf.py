"""The header of a GGUF file, read as if its author were an enemy.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Values are skipped but for the few that say what
the file is; nothing is allocated by a number in the file, and every number is held against the file's size.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import BinaryIO, Final

from engine.artifacts.refusal import ArtifactRefused

MAX_HEADER_BYTES: Final = 64 * 1024 * 1024
MAX_ENTRIES: Final = 65_536
MAX_ITEMS: Final = 4 * 1024 * 1024
_MAX_NAME: Final = 1024
_MAX_DIMENSIONS: Final = 4
_MAX_DEPTH: Final = 2
_MAGIC: Final = b"GGUF"
_STRING: Final = 8
_ARRAY: Final = 9
#: Bytes of a value of each type; strings and arrays have their own lengths.
_WIDTHS: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_ALIGNMENT: Final = "general.alignment"
_KEPT: Final = ("general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.pre")


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the file says it is. ``elements``: numbers in all its tensors."""

    architecture: str
    tokenizer: tuple[str, str]
    elements: int


def read_gguf(file: BinaryIO, size: int) -> GgufHeader:
    """The header of a file of ``size`` bytes. Raises :class:`ArtifactRefused` where it lies."""
    reader = _Reader(file, size)
    if reader.take(4) != _MAGIC or reader.u32() not in (2, 3):
        raise ArtifactRefused("It is not a GGUF file of version 2 or 3.")
    tensors, entries = reader.count(), reader.count()
    texts: dict[str, str] = {}
    alignment, seen = 32, set[str]()
    for _ in range(entries):
        name, kind = reader.text(), reader.u32()
        if name in seen:
            raise ArtifactRefused("Its header says a thing twice.")
        seen.add(name)
        if name in _KEPT and kind == _STRING:
            texts[name] = reader.text()
        elif name == _ALIGNMENT and kind == 4:
            alignment = reader.u32()
        else:
            reader.skip(kind, 0)
    if alignment < 8 or alignment > 65_536 or alignment & (alignment - 1):
        raise ArtifactRefused("Its header gives an alignment that is none.")
    elements = _read_tensors(reader, tensors, alignment, size)
    if not texts.get(_KEPT[0]):
        raise ArtifactRefused("Its header does not name an architecture.")
    return GgufHeader(texts[_KEPT[0]], (texts.get(_KEPT[1], ""), texts.get(_KEPT[2], "")), elements)


def _read_tensors(reader: _Reader, count: int, alignment: int, size: int) -> int:
    """Raises :class:`ArtifactRefused` if tensors overlap, or the file ends before or after them."""
    places, names, elements = [], set[str](), 0
    for _ in range(count):
        names.add(reader.text())
        dimensions = reader.u32()
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise ArtifactRefused("Its header gives a tensor a shape that is none.")
        shape = [reader.u64() for _ in range(dimensions)]
        length = _bytes_of(shape, reader.u32())
        places.append((reader.u64(), length))
        elements += math.prod(shape)
    if not places or len(names) != count:
        raise ArtifactRefused("It holds no tensors, or one twice.")
    start = at = _aligned(reader.position, alignment)
    for offset, length in sorted(places):
        if offset % alignment or start + offset < at or start + offset - at > alignment:
            raise ArtifactRefused("Its tensors overlap, or leave a gap.")
        at = start + offset + length
    if not at <= size <= _aligned(at, alignment):
        raise ArtifactRefused("It is truncated, or there is more data than tensors.")
    return elements


def _bytes_of(shape: list[int], kind: int) -> int:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block, width = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise ArtifactRefused(f"It has a tensor of the unknown type {kind}.") from None
    if any(not 1 <= each < 2**40 for each in shape) or math.prod(shape) >= 2**48 or shape[0] % block:
        raise ArtifactRefused("Its header gives a tensor a shape that is none.")
    return int(math.prod(shape) // block * width)


def _aligned(position: int, alignment: int) -> int:
    return (position + alignment - 1) // alignment * alignment


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._end = min(size, MAX_HEADER_BYTES)
        self._items = MAX_ITEMS
        self.position = 0

    def take(self, length: int) -> bytes:
        self._advance(length)
        return self._file.read(length)

    def u32(self) -> int:
        return int(struct.unpack("<I", self.take(4))[0])

    def u64(self) -> int:
        return int(struct.unpack("<Q", self.take(8))[0])

    def count(self) -> int:
        value = self.u64()
        if value > MAX_ENTRIES:
            raise ArtifactRefused(f"Its header promises {value} entries; at most {MAX_ENTRIES} are read.")
        return value

    def text(self) -> str:
        length = self.u64()
        if length > _MAX_NAME:
            raise ArtifactRefused("Its header has a name that is too long.")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise ArtifactRefused("Its header has a name that is no text.") from None

    def skip(self, kind: int, depth: int) -> None:
        if kind in _WIDTHS:
            self._over(_WIDTHS[kind])
        elif kind == _STRING:
            self._over(self.u64())
        elif kind == _ARRAY and depth < _MAX_DEPTH:
            self._skip_array(depth)
        else:
            raise ArtifactRefused(f"Its header has a value of the unknown type {kind}.")

    def _skip_array(self, depth: int) -> None:
        kind, length = self.u32(), self.u64()
        if kind in _WIDTHS:
            self._over(_WIDTHS[kind] * length)
            return
        self._items -= length
        if self._items < 0:
            raise ArtifactRefused(f"Its header lists more than {MAX_ITEMS} things.")
        for _ in range(length):
            self.skip(kind, depth + 1)

    def _over(self, length: int) -> None:
        self._advance(length)
        self._file.seek(self.position)

    def _advance(self, length: int) -> None:
        self.position += length
        if self.position > self._end:
            raise ArtifactRefused("Its header is not all there, or too large.")
