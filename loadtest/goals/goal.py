"""What a goal is, and what was seen of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Asked = Literal["at most", "at least", "exactly"]
_HOLDS: Final[dict[Asked, Callable[[float, float], bool]]] = {
    "at most": lambda seen, bound: seen <= bound,
    "at least": lambda seen, bound: seen >= bound,
    "exactly": lambda seen, bound: seen == bound,
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that was seen; ``bound`` None: it is told and not judged."""

    name: str
    seen: float
    unit: str = ""
    asked: Asked = "at most"
    bound: float | None = None

    @property
    def met(self) -> bool:
        """Whether it is what was asked for."""
        return self.bound is None or _HOLDS[self.asked](self.seen, self.bound)


@dataclass(frozen=True, slots=True)
class Run:
    """How much load, and where files may be put. ``minutes`` is the length of each sustained load."""

    directory: Path
    minutes: float
    requests: int

    @property
    def seconds(self) -> float:
        """The same in seconds."""
        return self.minutes * 60


@dataclass(frozen=True, slots=True)
class Goal:
    """A numbered goal; ``show`` puts the load on and returns what it saw."""

    id: str
    title: str
    show: Callable[[Run], Sequence[Figure]]


def at_most(name: str, seen: float, bound: float, unit: str = "") -> Figure:
    """A figure that may not be larger."""
    return Figure(name, seen, unit, "at most", bound)


def at_least(name: str, seen: float, bound: float, unit: str = "") -> Figure:
    """A figure that may not be smaller."""
    return Figure(name, seen, unit, "at least", bound)


def exactly(name: str, seen: float, bound: float, unit: str = "") -> Figure:
    """A figure that may not be different."""
    return Figure(name, seen, unit, "exactly", bound)


def told(name: str, seen: float, unit: str = "") -> Figure:
    """A figure that nothing is asked of."""
    return Figure(name, seen, unit)
