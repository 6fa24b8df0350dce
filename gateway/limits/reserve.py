"""Reserve before admission, settle after: the interface, and the policy without limits."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.access.principal import Principal

Headers = Sequence[tuple[bytes, bytes]]


class LimitClass(enum.Enum):
    """What a route counts as. Every route declares one.

    ``REQUEST`` counts against requests per minute only; ``GENERATION`` against everything.
    """

    NONE = "none"
    REQUEST = "request"
    GENERATION = "generation"


@dataclass(frozen=True, slots=True)
class Demand:
    """What one request asks for. ``tokens`` is the most it can cost: its prompts plus max_tokens of every choice.

    ``address`` is the caller's, behind trusted proxies; ``model`` None where none is named. ``prompt_param`` is the
    wire field to blame if the request alone is larger than a limit.
    """

    request_id: str
    principal: Principal
    address: str
    limit_class: LimitClass
    model: str | None = None
    tokens: int = 0
    prompt_param: str | None = None


class Lease(Protocol):
    """What one request holds until it ends."""

    @property
    def headers(self) -> Headers:
        """``x-ratelimit-*`` as of the reservation; empty where nothing is limited."""

    def settle(self, tokens: int) -> None:
        """Give back what was reserved beyond ``tokens``, and the concurrency. Called once; never blocks or fails."""


class Limits(Protocol):
    """Decides whether a request fits the limits of its principal, address and model."""

    def known(self, principal: Principal, address: str) -> Headers:
        """``x-ratelimit-*`` as last seen by this process, without I/O.

        Raises :class:`gateway.errors.ApiError` 429 if a request refused before proves that there is still no room for
        any: cheap, asked before a body is read.
        """

    async def reserve(self, demand: Demand) -> Lease:
        """Reserve everything at once, or nothing.

        Raises :class:`gateway.errors.ApiError`: 429, 400 ``request_exceeds_limit`` for what can never fit, 503 where
        the limits cannot be checked and the policy is ``closed``.
        """


class _NoLease:
    headers: Headers = ()

    def settle(self, tokens: int) -> None:
        """Nothing was reserved."""


class Unlimited:
    """The policy of a deployment that declares no limits."""

    def __init__(self) -> None:
        self._lease = _NoLease()

    def known(self, principal: Principal, address: str) -> Headers:  # noqa: ARG002 - the interface
        """See :class:`Limits`."""
        return ()

    async def reserve(self, demand: Demand) -> Lease:  # noqa: ARG002 - the interface
        """See :class:`Limits`."""
        return self._lease
