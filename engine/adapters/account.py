"""The account of one engine's adapters.

One engine has one account (:class:`engine.adapters.manager.AdapterManager`). With several front-end workers it is kept
by the process that holds the engine (:mod:`engine.adapters.desk`); the workers ask (:mod:`engine.adapters.elsewhere`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engine.adapters.facts import Facts
from engine.adapters.residency import Hold
from engine.types import AdapterInfo, AdapterSpec, EngineError


class AdapterAccount(Protocol):
    """What a model's runtime asks. On the event loop's thread."""

    def started(self, facts: Facts) -> None:
        """The engine is there, for the first time or again."""

    def lost(self, error: EngineError) -> None:
        """The engine is gone: who waits for an adapter gets ``error``."""

    def infos(self) -> Sequence[AdapterInfo]:
        """Every adapter, by name."""

    async def look(self) -> None:
        """Bring :meth:`infos` up to date."""

    async def load(self, spec: AdapterSpec) -> AdapterInfo:
        """See :meth:`engine.types.Engine.load_adapter`."""

    async def unload(self, name: str, *, drain: bool) -> None:
        """See :meth:`engine.types.Engine.unload_adapter`."""

    async def hold(self, name: str) -> Hold:
        """See :meth:`engine.types.Engine.hold_adapter`."""
