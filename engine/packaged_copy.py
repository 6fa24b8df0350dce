"""A packaged model that vLLM takes as it is -> a directory: ``python -m engine.packaged_copy FILE... TARGET``.

In a process of its own, with the manners of :mod:`engine.conversion`. Each file keeps its place relative to the first.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.child import end_with_parent

Progress = Callable[[str, float], None]


def copy(files: Sequence[Path], target: Path, progress: Progress) -> None:
    """Copy ``files`` to the existing directory ``target``. Raises OSError, ValueError for one that lies elsewhere."""
    root = files[0].parent
    for number, file in enumerate(files):
        progress("copying", number / len(files))
        place = target / file.relative_to(root)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, place)


def _print(stage: str, fraction: float) -> None:
    sys.stdout.write(f"{fraction:.4f} {stage}\n")
    sys.stdout.flush()


def main() -> None:
    """Copy the files named first into the directory named last; what went wrong is one line and status 1."""
    *files, target = map(Path, sys.argv[1:])
    end_with_parent()
    try:
        copy(files, target, _print)
    except (OSError, ValueError) as error:
        sys.exit(getattr(error, "strerror", None) or str(error))


if __name__ == "__main__":
    main()
