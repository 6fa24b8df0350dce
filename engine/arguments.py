"""The names of vLLM's engine arguments, read from its source: importing it takes seconds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_CLASSES: Final = ("EngineArgs", "AsyncEngineArgs")


def known_arguments() -> frozenset[str]:
    """What ``AsyncEngineArgs`` of the installed vLLM takes; empty if it is not there (checked against 0.32.0)."""
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        return frozenset()
    source = Path(spec.origin).parent / "engine" / "arg_utils.py"
    return frozenset(_fields(ast.parse(source.read_text("utf-8")))) if source.is_file() else frozenset()


def _fields(module: ast.Module) -> Iterator[str]:
    for statement in module.body:
        if isinstance(statement, ast.ClassDef) and statement.name in _CLASSES:
            for field in statement.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    yield field.target.id
