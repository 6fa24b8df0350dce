"""The guard as the pipeline sees it, and the deployment without one. Nothing unguarded is ever reported as passed."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeVar

from engine.types import DeltaSink
from gateway.access.principal import Principal
from gateway.observability.tracing.span import NO_SPAN, Span

#: Who wrote a passage. ``tool``: the result of a call; ``tools``: what the request declares of its tools.
Source: TypeAlias = Literal["system", "user", "assistant", "tool", "tools"]

R = TypeVar("R")


class GuardPolicy(enum.Enum):
    """What a route lets the guard see. Every route declares one; ``NONE`` only where no model runs.

    ``EVALUATION``: the route is the guard itself, its text goes to no other model.
    """

    NONE = "none"
    GENERATION = "generation"
    EVALUATION = "evaluation"


@dataclass(frozen=True, slots=True)
class Passage:
    """A text that the model will read, and who wrote it.

    ``label``: no sentence, such as the id of a call, which some templates show; rules read it, models are not asked.
    """

    text: str
    source: Source
    label: bool = False


@dataclass(frozen=True, slots=True)
class TokenPassage:
    """A text that came as token ids: the guard reads what the model would."""

    token_ids: Sequence[int]


#: Everything in a request that a guard must see. A plain string is checked whatever the policy says of sources.
Passages: TypeAlias = Sequence[str | Passage | TokenPassage]


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose request is guarded, and where it goes.

    ``param`` is the wire field that carries the text; ``request_id`` the ``X-Request-Id`` of the answer;
    ``span`` is that of the request.
    """

    principal: Principal
    route: str
    policy: GuardPolicy
    model: str | None
    param: str | None = None
    request_id: str = ""
    address: str = ""
    adapter: str | None = None
    span: Span = NO_SPAN


class TokenMeter(Protocol):
    """Counts what the engine emitted, also what is never shown."""

    reasoning: int

    def count(self, tokens: int) -> None:
        """Add ``tokens``."""


@dataclass(frozen=True, slots=True)
class Outlet:
    """Where the choices of a request go. ``max_tokens`` is per choice."""

    sink: DeltaSink
    meter: TokenMeter
    choices: int
    max_tokens: int


class Watch(Protocol):
    """One request under guard, from its text to its last token."""

    @property
    def streams(self) -> bool:
        """Whether whole answers are generated as streams too, so that they can be cut."""

    @property
    def flagged(self) -> bool:
        """Whether the answer is to say that something was flagged and let through (``annotate``)."""

    async def screen(self, request: R, passages: Callable[[R], Passages]) -> R:
        """The request without what the policy takes out of it, before it is rendered. Raises ApiError as ``over``."""

    def over(self, passages: Callable[[], Passages]) -> AbstractAsyncContextManager[object]:
        """Checks the input while the block runs, and ends the block if it does not pass.

        Raises :class:`gateway.errors.ApiError`: 400 ``content_policy_violation``, 503 ``guardian_unavailable``.
        """

    def sink(self, outlet: Outlet) -> DeltaSink:
        """What the engine pushes to instead of ``outlet.sink``: it lets through what has passed."""

    async def run(self, generation: Awaitable[None]) -> None:
        """Run ``generation``, stopped early where nothing of it would be shown; returns when all that may be sent was.

        Raises :class:`gateway.errors.ApiError` as ``over``.
        """


class Guard(Protocol):
    """Decides for every request whether and how it is watched."""

    def watch(self, subject: Subject) -> Watch:
        """The watch over one request; use it once."""

    async def check_input(self, subject: Subject, passages: Passages) -> bool:
        """Check texts that no generation follows; whether something was flagged and let through.

        Raises as :meth:`Watch.over`.
        """


class Unwatched:
    """The watch of a request that no policy applies to: adds nothing to its way."""

    streams = False
    flagged = False

    async def screen(self, request: R, passages: Callable[[R], Passages]) -> R:  # noqa: ARG002 - the interface
        """See :class:`Watch`."""
        return request

    def over(self, passages: Callable[[], Passages]) -> AbstractAsyncContextManager[object]:  # noqa: ARG002
        """See :class:`Watch`."""
        return nullcontext()

    def sink(self, outlet: Outlet) -> DeltaSink:
        """See :class:`Watch`."""
        return outlet.sink

    async def run(self, generation: Awaitable[None]) -> None:
        """See :class:`Watch`."""
        await generation


class Unguarded:
    """The policy of a deployment that declares no guard."""

    def __init__(self) -> None:
        self._unwatched = Unwatched()

    def watch(self, subject: Subject) -> Watch:  # noqa: ARG002 - the interface
        """See :class:`Guard`."""
        return self._unwatched

    async def check_input(self, subject: Subject, passages: Passages) -> bool:  # noqa: ARG002 - the interface
        """See :class:`Guard`."""
        return False
