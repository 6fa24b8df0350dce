"""Principals and scopes."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.limits.quota import UNLIMITED, Quota


class Scope(enum.Enum):
    """What a principal may do. ``ADMIN`` implies the others."""

    INFERENCE = "inference"
    READ_ONLY = "read_only"
    TRAINING = "training"
    ADMIN = "admin"


ALL_SCOPES: Final = frozenset(Scope)
DEFAULT_TENANT: Final = "default"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller who was identified.

    ``id`` is safe to log, unique, and what limits and usage are counted on: a key's public id, ``jwt-`` and a digest
    of issuer and subject, ``static`` or ``anonymous``. ``tenant`` is who pays and whose prefix cache it is. ``models``
    and ``adapters`` None: all. ``weight`` is the fair share relative to other tenants. ``expires_at`` is Unix seconds.
    """

    id: str
    scopes: frozenset[Scope]
    tenant: str = DEFAULT_TENANT
    models: frozenset[str] | None = None
    adapters: frozenset[str] | None = None
    quota: Quota = UNLIMITED
    weight: float = 1.0
    expires_at: float | None = None
    guard_policy: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def may(self, scope: Scope) -> bool:
        """Whether this principal holds ``scope`` or one that implies it."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def may_use(self, model: str) -> bool:
        """Whether this principal may know of ``model``."""
        return self.models is None or model in self.models

    def may_use_adapter(self, adapter: str) -> bool:
        """Whether this principal may know of ``adapter``, if it may of its model."""
        return self.adapters is None or adapter in self.adapters
