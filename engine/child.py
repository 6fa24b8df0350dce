"""What the converters have in common: each is a process of its own that ends with whoever started it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO


class ConversionFailed(Exception):
    """What the converter said, in one line."""


def run_converter(module: str, sources: Sequence[Path], target: Path, progress: Callable[[str, float], None]) -> None:
    """Run ``python -m module SOURCES... TARGET`` as a child, so that its memory is given back and it ends with us.

    ``progress(stage, fraction)`` is called with what it prints; if it raises, the child is killed. Raises
    :class:`ConversionFailed`.
    """
    # -P: not whatever is called `engine` in the directory in which somebody started us.
    command = [sys.executable, "-P", "-m", module, *map(str, sources), str(target)]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as child,  # noqa: S603
    ):
        try:
            assert child.stdout is not None
            for line in child.stdout:
                fraction, _, stage = line.strip().partition(" ")
                progress(stage, float(fraction))
            status = child.wait()
        except BaseException:
            child.kill()
            raise
        if status != 0:
            raise ConversionFailed(_reason(errors, status))


def _reason(errors: IO[bytes], status: int) -> str:
    if status < 0:
        return f"killed by signal {-status}"
    errors.seek(0)
    return errors.read().decode("utf-8", "replace").strip().rpartition("\n")[2] or f"exit status {status}"


def end_with_parent() -> None:
    """End this process when its standard input does.

    A parent killed outright cannot tell us; the kernel closes its end of the pipe.
    """

    def watch() -> None:
        os.read(0, 1)  # not sys.stdin: its lock, held here, would abort the interpreter's own end
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
