"""What files of a model may be called, and what format such names make."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final, Literal

from engine.adapters.snapshot import UNSAFE
from engine.artifacts.refusal import ArtifactRefused

Format = Literal["safetensors", "gguf"]

MAX_FILES: Final = 512
#: No name begins with a dot: those are ours, and the ways out of a directory.
_PATH: Final = re.compile(r"([A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}/)?[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_KINDS: Final = re.compile(
    r"\.(safetensors|gguf|json|jinja|txt|model|tiktoken|md)$|(^|/)(LICENSE|NOTICE)$", re.IGNORECASE
)
_WORDS: Final = re.compile(r"\.(md|txt)$|^(LICENSE|NOTICE)$", re.IGNORECASE)


def check_name(file: str) -> None:
    """Raise :class:`ArtifactRefused` for a name that leads elsewhere or is not that of a kind of file we serve."""
    if not _PATH.fullmatch(file):
        raise ArtifactRefused("Expected a plain file name, in one directory at most.", code="invalid_model", file=file)
    if UNSAFE.search(file):
        raise ArtifactRefused("It can hold code: weights are taken as safetensors or GGUF only.", file=file)
    if not _KINDS.search(file):
        raise ArtifactRefused("That is no kind of file that belongs to a model.", file=file)


def format_of(files: Collection[str]) -> Format:
    """The format of a model of these files. Raises :class:`ArtifactRefused` if they are none."""
    for file in files:
        check_name(file)
    ggufs = [file for file in files if file.lower().endswith(".gguf")]
    tensors = [file for file in files if file.lower().endswith(".safetensors")]
    if ggufs:
        rest = [file for file in files if file not in ggufs and not _WORDS.search(file)]
        if len(ggufs) > 1 or rest or "/" in ggufs[0]:
            raise ArtifactRefused(
                "A GGUF is one file; only a README or a licence may lie beside it.", code="invalid_model"
            )
        return "gguf"
    if "config.json" not in files or all("/" in file for file in tensors):
        raise ArtifactRefused("A model needs config.json and *.safetensors, or one *.gguf.", code="invalid_model")
    return "safetensors"
