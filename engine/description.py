"""What a model's directory says of it: its ``config.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def described(model: str) -> Mapping[str, Any] | None:
    """The model's ``config.json``; None if there is none, as of a hub id. Raises ValueError if it is no JSON object."""
    file = Path(model) / "config.json"
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"config.json cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise ValueError("config.json is not an object")
    return config


def description(model: str) -> Mapping[str, Any]:
    """The same, and empty where nothing can be read: what is wrong is said when the model is loaded."""
    try:
        return described(model) or {}
    except ValueError:
        return {}
