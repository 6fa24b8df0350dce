"""The other workers of this gateway, as the rest of the gateway sees them: told what was changed here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LookAtAdapters:
    """Adapters were registered, changed or removed."""


class Fellows(Protocol):
    """Acts are values that can be sent to another process."""

    async def tell(self, act: object) -> Sequence[Any]:
        """Have every other worker that serves do it; what they answer, but for those that are slow or die."""

    def obey(self, kind: type[T], do: Callable[[T], Awaitable[object]]) -> None:
        """What is done here when another worker tells of such an act."""


class Alone:
    """One process: there are no others."""

    async def tell(self, act: object) -> Sequence[Any]:  # noqa: ARG002 - nobody to tell it
        """See :class:`Fellows`."""
        return ()

    def obey(self, kind: type[T], do: Callable[[T], Awaitable[object]]) -> None:
        """See :class:`Fellows`."""


class Others:
    """``everywhere`` is the parent's: see :meth:`gateway.workers.parent.Parent.everywhere`."""

    def __init__(self, everywhere: Callable[[object], Awaitable[Sequence[Any]]]) -> None:
        self._everywhere = everywhere
        self._acts: dict[type[Any], Callable[[Any], Awaitable[object]]] = {}

    async def tell(self, act: object) -> Sequence[Any]:
        """See :class:`Fellows`."""
        return await self._everywhere(act)

    def obey(self, kind: type[T], do: Callable[[T], Awaitable[object]]) -> None:
        """See :class:`Fellows`."""
        self._acts[kind] = do

    async def told(self, act: object) -> object:
        """Another worker tells us."""
        return await self._acts[type(act)](act)
