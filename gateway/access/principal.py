"""Principals and scopes."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Scope(enum.Enum):
    """What a principal may do. ``ADMIN`` implies the others."""

    INFERENCE = "inference"
    READ_ONLY = "read_only"
    TRAINING = "training"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller who was identified. ``id`` is safe to log."""

    id: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether this principal holds ``scope`` or one that implies it."""
        return scope in self.scopes or Scope.ADMIN in self.scopes
