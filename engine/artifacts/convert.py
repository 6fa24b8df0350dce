"""A GGUF beside which the files are put that the engine serves, where its architecture is one we can convert."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from engine.artifacts.gguf import GgufHeader, read_gguf
from engine.artifacts.refusal import ArtifactRefused
from engine.child import ConversionFailed, run_converter

#: See :mod:`engine.conversion`.
ARCHITECTURE: Final = "llama"
TOKENIZER: Final = ("gpt2", "smollm")


def why_not(header: GgufHeader) -> str | None:
    """Why such a one cannot be converted; None if it can."""
    if (header.architecture, header.tokenizer) == (ARCHITECTURE, TOKENIZER):
        return None
    model, split = header.tokenizer
    return (
        f"a GGUF of the architecture {header.architecture[:64]!r} with the tokenizer {model[:64]!r}/{split[:64]!r}, "
        f"which cannot be converted; only {ARCHITECTURE!r} with {'/'.join(TOKENIZER)!r} can"
    )


def converted_bytes(header: GgufHeader) -> int:
    """What converting it adds: each number becomes a bfloat16, and the tokenizer some megabytes."""
    return 2 * header.elements + 16 * 1024 * 1024


def convert_gguf(source: Path, target: Path, going_on: Callable[[], None]) -> None:
    """Write what the engine serves into the directory ``target``. Blocks, ``going_on`` may raise to end it.

    Raises :class:`ArtifactRefused` if the file turns out not to be convertible, OSError where the disk is full.
    """
    try:
        run_converter("engine.conversion", [source], target, lambda _stage, _fraction: going_on())
    except ConversionFailed as failure:
        if str(failure) == os.strerror(errno.ENOSPC):
            raise OSError(errno.ENOSPC, str(failure)) from None
        raise ArtifactRefused(f"It cannot be converted: {failure}", code="invalid_model", file=source.name) from None


def unservable(directory: Path) -> str | None:
    """Why a directory that holds nothing but a GGUF is not served; None for any other."""
    files = sorted(directory.glob("*.gguf"))
    if not files or any(directory.glob("*.safetensors")):
        return None
    try:
        with files[0].open("rb") as file:
            return why_not(read_gguf(file, files[0].stat().st_size)) or "a GGUF that was not converted"
    except (ArtifactRefused, OSError) as error:
        return f"a GGUF that cannot be read: {error}"
