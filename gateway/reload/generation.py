"""What of the settings can change while the server runs, as one frozen value: each request sees one of them."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.access.identify import Headers, Identity
    from gateway.access.principal import Principal
    from gateway.guardian.policy import PolicySet
    from gateway.limits.limiter import LimitRules
    from gateway.pipeline import Policy


@dataclass(frozen=True, slots=True)
class Generation:
    """``number`` counts from 1; ``guard`` is None without one."""

    number: int
    policy: Policy
    identity: Identity
    limits: LimitRules
    guard: PolicySet | None


class Generations:
    """The generation of today. A request is pinned to the one it met, with every task that it starts."""

    def __init__(self, first: Generation) -> None:
        self.today = first
        self._pinned: ContextVar[Generation] = ContextVar("sluice-generation")

    def pin(self) -> None:
        """The running task, a request's own, keeps to the generation of today."""
        self._pinned.set(self.today)

    def seen(self) -> Generation:
        """What the running task keeps to; outside of requests that of today."""
        return self._pinned.get(self.today)

    def take_guard(self, policies: PolicySet) -> None:
        """The guard's policies were changed by an administrator."""
        self.today = replace(self.today, guard=policies)


class SeenIdentity:
    """See :class:`gateway.access.identify.Identity`: that of the running request's generation."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations

    def identify(self, headers: Headers) -> Principal:
        """See :class:`gateway.access.identify.Identity`."""
        return self._generations.seen().identity.identify(headers)
