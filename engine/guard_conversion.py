"""MiniLM and the head that ``training/guard_head.py`` trained -> a classifier that vLLM serves.

``python -m engine.guard_conversion FILE... TARGET``, in a process of its own with the manners of
:mod:`engine.packaged_copy`.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from engine.child import end_with_parent

HEAD: Final = Path(__file__).with_name("guard_head.safetensors")
WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"


def labels() -> list[str]:
    """What the head tells apart, in order."""
    with safe_open(HEAD, "numpy") as head:
        return list(json.loads(head.metadata()["labels"]))


def convert(files: Sequence[Path], target: Path) -> None:
    """Write the classifier into the existing directory ``target``. Raises OSError, ValueError."""
    for file in files:
        if file.name == WEIGHTS:
            save_file(_weights(file), target / WEIGHTS, metadata={"format": "pt"})
        elif file.name == CONFIG:
            (target / CONFIG).write_text(json.dumps(_config(file), indent=2), "utf-8")
        else:
            shutil.copyfile(file, target / file.name)


def _weights(file: Path) -> dict[str, np.ndarray]:
    body = {f"bert.{name}": weight for name, weight in load_file(file).items() if not name.startswith("pooler.")}
    head = {name: weight.astype(np.float32) for name, weight in load_file(HEAD).items()}
    return {**body, **head}


def _config(file: Path) -> dict[str, object]:
    names = labels()
    return {
        **json.loads(file.read_text("utf-8")),
        "architectures": ["BertForSequenceClassification"],
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": "single_label_classification",
    }


def main() -> None:
    """Convert the files named first into the directory named last; what went wrong is one line and status 1."""
    *files, target = map(Path, sys.argv[1:])
    end_with_parent()
    sys.stdout.write("0.1000 converting\n")
    sys.stdout.flush()
    try:
        convert(files, target)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(getattr(error, "strerror", None) or str(error))


if __name__ == "__main__":
    main()
