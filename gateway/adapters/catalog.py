"""The adapters that requests may name: one table in memory, looked up by the exact name and by nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from gateway.access.principal import Principal


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter of ``model``. ``tenant``: whose it is, None: everybody's. ``created`` is Unix seconds.

    ``sha256`` is of its content, where that is known. ``ready``: the engine knows it. One that is not yet, or is
    ``broken``, keeps its name all the same.
    """

    name: str
    model: str
    tenant: str | None = None
    created: int = 0
    enabled: bool = True
    ready: bool = True
    broken: bool = False
    sha256: str | None = None

    @property
    def id(self) -> str:
        """Its full name on the wire."""
        return f"{self.model}:{self.name}"

    def open_to(self, principal: Principal) -> bool:
        """Whether ``principal`` may know of it."""
        return (
            self.enabled
            and self.tenant in (None, principal.tenant)
            and principal.may_use(self.model)
            and principal.may_use_adapter(self.name)
        )


async def _nobody(_name: str) -> None:
    """Nobody can."""


class AdapterCatalog:
    """Names are unique over all models. Used on the event loop's thread."""

    def __init__(self, adapters: Iterable[Adapter] = ()) -> None:
        self._by_name = {adapter.name: adapter for adapter in adapters}
        #: Gives the engine an adapter that it should have; set by whoever can. Raises EngineError kinds.
        self.bring: Callable[[str], Awaitable[None]] = _nobody

    def __len__(self) -> int:
        """How many there are."""
        return len(self._by_name)

    def all(self) -> list[Adapter]:
        """Every adapter, by name."""
        return [self._by_name[name] for name in sorted(self._by_name)]

    def get(self, name: str) -> Adapter | None:
        """The adapter of that plain name."""
        return self._by_name.get(name)

    def named(self, wire_name: str) -> Adapter | None:
        """What a request means by ``wire_name``: a plain name, or ``base:adapter``.

        The last colon divides: names of adapters hold none, ids of models may.
        """
        base, colon, name = wire_name.rpartition(":")
        adapter = self._by_name.get(name)
        return None if adapter is None or (colon and adapter.model != base) else adapter

    def put(self, adapter: Adapter) -> None:
        """Add one, or replace the one of its name."""
        self._by_name[adapter.name] = adapter

    def remove(self, name: str) -> None:
        """Forget one. Idempotent."""
        self._by_name.pop(name, None)
