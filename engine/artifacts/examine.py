"""Files on disk against what their names promise: headers are read, nothing is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engine.adapters.tensors import WIDTHS, read_header
from engine.artifacts.gguf import GgufHeader, read_gguf
from engine.artifacts.names import Format, format_of
from engine.artifacts.refusal import ArtifactRefused
from engine.types import AdapterRefused

MAX_JSON_BYTES: Final = 4 * 1024 * 1024
MAX_INDEX_BYTES: Final = 64 * 1024 * 1024
INDEX: Final = "model.safetensors.index.json"
#: Vocabularies: large, and read by nothing that runs what is in them.
_VOCABULARY: Final = re.compile(r"(^|/)(tokenizer|vocab|added_tokens)\.json$")
#: What makes Transformers look for code.
_NAMES_CODE: Final = ("auto_map", "auto_mapping", "custom_pipelines")
#: How pickles and archives of them begin.
_CODE: Final = re.compile(rb"\x80[\x02-\x05]|PK\x03\x04")


@dataclass(frozen=True, slots=True)
class Found:
    """What the files are. ``gguf``: the header, of such a one."""

    format: Format
    architecture: str
    gguf: GgufHeader | None = None


def examine(directory: Path, files: Collection[str]) -> Found:
    """What the model of ``files`` in ``directory`` is. Blocks. Raises :class:`ArtifactRefused`, OSError."""
    form = format_of(files)
    headers = {file: _examine_file(directory / file, file) for file in sorted(files)}
    if form == "gguf":
        header = next(header for header in headers.values() if header is not None)
        return Found(form, header.architecture, header)
    _check_index(directory, files)
    return Found(form, _architecture(directory / "config.json"))


def _examine_file(path: Path, name: str) -> GgufHeader | None:
    size, kind = path.stat().st_size, path.suffix.lower()
    try:
        with path.open("rb") as file:
            if kind == ".gguf":
                return read_gguf(file, size)
            if kind == ".safetensors":
                read_header(file, size, WIDTHS)
            elif _CODE.match(file.read(4)):
                raise ArtifactRefused("It is a pickle or an archive, whatever it is called.")
        if kind == ".json":
            _check_json(path, name)
    except (ArtifactRefused, AdapterRefused) as refused:
        raise ArtifactRefused(str(refused), file=name) from None
    return None


def _check_json(path: Path, name: str) -> None:
    if _VOCABULARY.search(name) or name == INDEX:
        return
    for key in _keys(_read_json(path, MAX_JSON_BYTES)):
        if key in _NAMES_CODE:
            raise ArtifactRefused(f"It names code to run ({key}).")


def _keys(value: Any) -> Iterator[str]:
    """All keys at any depth. The depth is bounded by the decoder's."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case dict() as fields:
                yield from fields
                waiting.extend(fields.values())
            case list() as items:
                waiting.extend(items)


def _read_json(path: Path, limit: int) -> Any:
    if path.stat().st_size > limit:
        raise ArtifactRefused(f"It is larger than {limit} bytes.", file=path.name)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ArtifactRefused("It is not JSON.", file=path.name) from None


def _check_index(directory: Path, files: Collection[str]) -> None:
    """Shards that the index names must be there."""
    if INDEX not in files:
        return
    index = _read_json(directory / INDEX, MAX_INDEX_BYTES)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise ArtifactRefused("It has no usable weight_map.", file=INDEX)
    absent = sorted(set(shards.values()) - set(files))
    if absent:
        raise ArtifactRefused(f"{absent[0][:128]!r} is named there, but absent.", code="invalid_model", file=INDEX)


def _architecture(config: Path) -> str:
    match _read_json(config, MAX_JSON_BYTES):
        case {"architectures": [str(first), *_]} if first.isidentifier() and len(first) <= 128:
            return first
    raise ArtifactRefused("It names no architecture.", code="invalid_model", file=config.name)
