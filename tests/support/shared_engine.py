"""An engine that another gateway owns: lent to a second one, which cannot stop it."""

from __future__ import annotations

from typing import Any


class SharedEngine:
    """Everything is the owner's, but its life."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def start(self) -> None:
        """It runs already."""

    async def drain(self) -> None:
        """That is the owner's to say."""

    async def stop(self) -> None:
        """That is the owner's to say."""
