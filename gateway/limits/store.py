"""What a store of limits does, in Redis or in memory, with the same meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: No wait will ever help.
NEVER: Final = -1
#: How long a store remembers what it granted: longer than any request may run.
GRANT_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Level:
    """One limit as the store saw it. ``used`` includes what was just granted.

    ``reset_ms`` is the time until nothing of it is used any more; ``wait_ms`` 0 if the charge fitted, else the time
    until it will, or :data:`NEVER`.
    """

    used: int
    reset_ms: int
    wait_ms: int


@dataclass(frozen=True, slots=True)
class Decision:
    """``levels`` has one per charge, in their order. Either all charges were made, or none.

    ``repeated``: it was asked for twice, and the first copy may still arrive; a settlement must guard against that.
    """

    granted: bool
    levels: tuple[Level, ...]
    repeated: bool = False
