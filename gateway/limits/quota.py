"""How much a key, an address or a model may take: plain values. None means no limit of that kind."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Self


@dataclass(frozen=True, slots=True)
class Quota:
    """Windows slide: at no moment do the last 60 seconds (or 24 hours) hold more than the number says.

    ``concurrent`` counts admitted requests that have not ended.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    concurrent: int | None = None

    def or_else(self, default: Quota) -> Quota:
        """These numbers, with those of ``default`` where none is given."""
        return _filled(self, default)

    def within(self, other: Quota) -> bool:
        """Whether nothing here is more generous than ``other``."""
        pairs = [(getattr(self, each.name), getattr(other, each.name)) for each in fields(self)]
        return all(theirs is None or (own is not None and own <= theirs) for own, theirs in pairs)

    def as_dict(self) -> dict[str, int]:
        """Only the limits that are set."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) is not None}

    @classmethod
    def from_dict(cls, values: dict[str, int]) -> Self:
        """The inverse of :meth:`as_dict`. Raises TypeError for an unknown name."""
        return cls(**values)


@lru_cache(4096)
def _filled(own: Quota, default: Quota) -> Quota:
    """Asked several times per request, of few different ones."""
    given = {each.name: getattr(own, each.name) for each in fields(own)}
    return Quota(**{name: getattr(default, name) if value is None else value for name, value in given.items()})


UNLIMITED = Quota()
