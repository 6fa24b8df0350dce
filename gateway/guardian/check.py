"""The guard's interface, and the policy without a guard. Nothing unguarded is ever reported as passed."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

from gateway.access.principal import Principal


class GuardPolicy(enum.Enum):
    """What a route lets the guard see. Every route declares one; ``NONE`` only where no model runs."""

    NONE = "none"
    GENERATION = "generation"


class Guard(Protocol):
    """Checks the text of a request."""

    async def check_input(self, principal: Principal, policy: GuardPolicy, texts: Sequence[str]) -> None:
        """Raise :class:`gateway.errors.ApiError` 400 ``content_policy_violation`` to block."""


class Unguarded:
    """The policy of a deployment that declares no guard."""

    async def check_input(
        self,
        principal: Principal,
        policy: GuardPolicy,
        texts: Sequence[str],
    ) -> None:
        """See :class:`Guard`."""
