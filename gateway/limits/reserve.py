"""Reserve before admission, settle after: the interface, and the policy without limits."""

from __future__ import annotations

import enum
from typing import Protocol

from gateway.access.principal import Principal


class LimitClass(enum.Enum):
    """What a route counts as. Every route declares one."""

    NONE = "none"
    REQUEST = "request"
    GENERATION = "generation"


class Lease(Protocol):
    """What one admitted request holds until it ends."""

    def settle(self, *, prompt_tokens: int, completion_tokens: int) -> None:
        """Give back what was reserved and not used. Called exactly once; must not block or fail."""


class Limits(Protocol):
    """Decides whether a request fits its principal's limits."""

    async def reserve(
        self, principal: Principal, limit_class: LimitClass, *, prompt_tokens: int, max_tokens: int
    ) -> Lease:
        """Reserve a request and its tokens at once. Raises :class:`gateway.errors.ApiError` 429."""


class _NoLease:
    def settle(self, *, prompt_tokens: int, completion_tokens: int) -> None:
        """Nothing was reserved."""


class Unlimited:
    """The policy of a deployment that declares no limits."""

    def __init__(self) -> None:
        self._lease = _NoLease()

    async def reserve(
        self,
        principal: Principal,  # noqa: ARG002 - the interface
        limit_class: LimitClass,  # noqa: ARG002
        *,
        prompt_tokens: int,  # noqa: ARG002
        max_tokens: int,  # noqa: ARG002
    ) -> Lease:
        """See :class:`Limits`."""
        return self._lease
