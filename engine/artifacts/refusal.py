"""Why files are not taken."""

from __future__ import annotations

from typing import Literal

from engine.types import EngineError


class ArtifactRefused(EngineError):
    """``code``: ``unsafe_artifact`` for what could hold code or is not what it says; ``invalid_model`` for files that
    together are no model. ``file``: which one, if it is one.
    """

    def __init__(
        self,
        message: str,
        *,
        code: Literal["unsafe_artifact", "invalid_model"] = "unsafe_artifact",
        file: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.file = file
