"""The gate in front of the engine: takes a request at once, lets it wait for its turn, or sends it away in time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.admission.adaptive import AdaptiveBound
from gateway.admission.fairness import FairShares, Share
from gateway.admission.ticket import Ticket
from gateway.errors import SERVER, ApiError, queue_timeout, shutting_down

#: Ends that the finish rate looks back on, and how many must be known before a wait is predicted from it.
_RATE_SAMPLES: Final = 64
_ENOUGH_SAMPLES: Final = 8
_MAX_RETRY_AFTER: Final = 60.0
_DEFAULT_RETRY_AFTER: Final = 2.0
#: Below this bound one sequence more or less is a large part of the engine.
_SMALL_BOUND: Final = 4
#: The part of the queue that is kept for tenants of whom nothing waits: one in so many places.
_KEPT_OF_QUEUE: Final = 8
_EVERYBODY: Final = ""


@dataclass(frozen=True, slots=True)
class GateLimits:
    """``max_running`` None: what the engine batches. Times in seconds, ``max_memory`` a share of 1."""

    max_running: int | None
    max_queue: int
    max_wait: float
    max_memory: float
    fair_share: bool


class GateObserver(Protocol):
    """Told what happens at the gate."""

    def waited(self, seconds: float) -> None:
        """A request was let in after ``seconds``."""

    def shed(self, reason: str) -> None:
        """A request was sent away; reasons are a few fixed words."""


class _Waiting:
    __slots__ = ("arrived", "ticket", "turn")

    def __init__(self, ticket: Ticket, arrived: float, turn: asyncio.Future[Slot]) -> None:
        self.ticket = ticket
        self.arrived = arrived
        self.turn = turn


class Slot:
    """A place among the running. ``priority`` orders requests inside the engine, lower first."""

    __slots__ = ("_began", "_expected", "_gate", "_key", "_ticket", "priority")

    def __init__(self, gate: Gate, ticket: Ticket, key: str, expected: float, priority: int, began: float) -> None:
        self._gate = gate
        self._ticket = ticket
        self._key = key
        self._expected = expected
        self._began = began
        self.priority = priority

    def first_token(self) -> None:
        """The engine has produced something."""
        self._gate.first_token_after(self._began)

    def leave(self, tokens: int) -> None:
        """Make room. ``tokens`` is what was served, prompt included. Called exactly once."""
        self._gate.left(self._ticket, self._key, self._expected, tokens)


class Gate:
    """Use from one event loop.

    ``memory_fraction`` is the share of memory in use; ``slots`` the sequences that the engine batches at once, 0 while
    it is not known. With fair share the queue is ordered by tenants' shares, and the last slot is kept for a tenant of
    whom nothing runs: a newcomer need not wait until a long generation of somebody else ends. In the same way an eighth
    of the queue is kept for tenants of whom nothing waits: one that floods the queue does not close it to the others.
    """

    def __init__(
        self,
        limits: GateLimits,
        *,
        memory_fraction: Callable[[], float],
        slots: Callable[[], int],
        observer: GateObserver,
        adaptive: Callable[[int], AdaptiveBound] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._memory_fraction = memory_fraction
        self._slots = slots
        self._observer = observer
        self._make_adaptive = adaptive
        self._adaptive: AdaptiveBound | None = None
        self._clock = clock
        self._closed_for: float | None = None
        self._shares: FairShares[_Waiting] = FairShares()
        self._running = 0
        self._ends: deque[float] = deque(maxlen=_RATE_SAMPLES)
        self.in_flight = 0
        self.queued = 0

    # -- what others see ------------------------------------------------------------------------------------------

    @property
    def bound(self) -> int:
        """Sequences that may run at once now; 0: no bound."""
        base = self._limits.max_running or self._slots()
        if self._make_adaptive is None or not base:
            return base
        if self._adaptive is None:
            self._adaptive = self._make_adaptive(base)
        return min(base, self._adaptive.value)

    def close(self, retry_after: float) -> None:
        """Refuse everything new from now on: the process is shutting down. Those who wait keep their place."""
        self._closed_for = retry_after

    def require_open(self, tenant: str | None = None) -> None:
        """Raise :class:`ApiError` 503 if no new request of ``tenant`` (None: not known yet) may begin.

        Cheap: called before a body is read.
        """
        if self._closed_for is not None:
            raise shutting_down(self._closed_for)
        if self._crowded(tenant):
            raise self._overloaded("The queue is full.", "queue_full")
        if self._short_of_memory():
            raise self._overloaded("The server is short of memory.", "memory")

    def takes(self, tenant: str | None = None) -> bool:
        """Whether :meth:`require_open` would raise nothing."""
        return self._closed_for is None and not self._crowded(tenant) and not self._short_of_memory()

    @property
    def crowded(self) -> bool:
        """Whether there is no room for what can wait: requests wait, or as many run as may, or it is closed."""
        return self._closed_for is not None or self._full()

    def _crowded(self, tenant: str | None) -> bool:
        return self.queued >= self._places(tenant) and self._full()

    def _short_of_memory(self) -> bool:
        return self._memory_fraction() > self._limits.max_memory

    # -- in and out -----------------------------------------------------------------------------------------------

    async def enter(self, ticket: Ticket) -> Slot:
        """Wait for a turn. Raises :class:`ApiError` 503: like :meth:`require_open`, or ``queue_timeout``."""
        self.require_open(ticket.tenant)
        key = ticket.tenant if self._limits.fair_share else _EVERYBODY
        share = self._shares.share(key)
        if not self.queued and self._fits(share, ticket):
            self._observer.waited(0.0)
            return self._admit(ticket, key)
        return await self._wait(ticket, key)

    async def _wait(self, ticket: Ticket, key: str) -> Slot:
        waiting = _Waiting(ticket, self._clock(), asyncio.get_running_loop().create_future())
        patience = min(ticket.deadline - waiting.arrived, self._limits.max_wait)
        self._shares.push(key, waiting)
        self.queued += 1
        # Others may wait only because they do not fit.
        self._admit_who_may()
        if not waiting.turn.done() and self._hopeless(key, patience):
            self._give_up(waiting, key)
            self._observer.shed("predicted")
            raise queue_timeout(self.retry_after())
        try:
            async with asyncio.timeout(max(0.0, patience)):
                return await asyncio.shield(waiting.turn)
        except (TimeoutError, asyncio.CancelledError) as error:
            self._give_up(waiting, key)
            # The caller may have a timer of its own for the deadline: which of both is first is chance.
            if isinstance(error, TimeoutError) or self._clock() >= ticket.deadline:
                self._observer.shed("timeout")
            if isinstance(error, asyncio.CancelledError):
                raise
            raise queue_timeout(self.retry_after()) from None

    def _give_up(self, waiting: _Waiting, key: str) -> None:
        if waiting.turn.done():
            waiting.turn.result().leave(0)
            return
        self._shares.remove(key, waiting)
        self.queued -= 1
        self._admit_who_may()

    def first_token_after(self, began: float) -> None:
        """For :class:`Slot`."""
        if self._adaptive is not None:
            self._adaptive.observe(began, self._clock())

    def left(self, ticket: Ticket, key: str, expected: float, tokens: int) -> None:
        """For :class:`Slot`."""
        self.in_flight -= 1
        self._running -= ticket.sequences
        self._note_end()
        self._shares.finish(key, ticket.weight, ticket.sequences, expected, tokens)
        self._admit_who_may()

    # -- who may run ------------------------------------------------------------------------------------------------

    def _admit_who_may(self) -> None:
        if self._adaptive is not None:
            self._adaptive.step(self.queued, self._clock())
        while self.queued:
            share = self._next()
            if share is None:
                return
            waiting = self._shares.pop(share)
            self.queued -= 1
            slot = self._admit(waiting.ticket, share.tenant)
            self._observer.waited(self._clock() - waiting.arrived)
            waiting.turn.set_result(slot)

    def _next(self) -> Share[_Waiting] | None:
        """The tenant that is due, or a newcomer where only the kept slot is free; None if nobody may run."""
        due = self._shares.due()
        if self._fits(due, due.waiting[0].ticket):
            return due
        if not due.running:
            return None  # it needs more room than there is: overtaken again and again it would wait for ever
        new = self._shares.newcomer(due)
        return new if new is not None and self._fits(new, new.waiting[0].ticket) else None

    def _fits(self, share: Share[_Waiting], ticket: Ticket) -> bool:
        bound = self.bound
        if not bound or not self._running:
            return True
        kept = 1 if self._limits.fair_share and share.running and bound >= _SMALL_BOUND else 0
        return self._running + ticket.sequences <= bound - kept

    def _places(self, tenant: str | None) -> int:
        """How long the queue may be for one more of ``tenant`` to wait in it."""
        most = self._limits.max_queue
        if self._limits.fair_share and tenant is not None and self._shares.waits(tenant):
            return most - most // _KEPT_OF_QUEUE
        return most

    def _full(self) -> bool:
        return bool(self.queued) or (0 < self.bound <= self._running)

    def _admit(self, ticket: Ticket, key: str) -> Slot:
        self.in_flight += 1
        self._running += ticket.sequences
        expected = self._shares.expect(key, ticket.tokens)
        start = self._shares.dispatch(key, ticket.weight, ticket.sequences, expected)
        priority = int(start) if self._limits.fair_share else 0
        return Slot(self, ticket, key, expected, priority, self._clock())

    # -- what a wait would be ---------------------------------------------------------------------------------------

    def _hopeless(self, key: str, patience: float) -> bool:
        """Whether the last who came will probably wait in vain: better to hear it now."""
        rate = self._finish_rate()
        if rate is None:
            return False
        in_turns = len(self._shares.share(key).waiting) * self._shares.tenants_waiting
        ahead = min(self.queued, in_turns) - 1
        return ahead / rate > patience

    def _note_end(self) -> None:
        """Only ends while others wait tell how fast the engine can be; an idle one ends few."""
        if self.queued:
            self._ends.append(self._clock())
        else:
            self._ends.clear()

    def _finish_rate(self) -> float | None:
        """Requests that end per second while others wait; None while too few have ended."""
        if len(self._ends) < _ENOUGH_SAMPLES:
            return None
        return len(self._ends) / max(self._clock() - self._ends[0], 1e-3)

    def retry_after(self) -> float:
        """Seconds until the queue as it is now has been served, by what is known of the engine's pace."""
        rate = self._finish_rate()
        if rate is None:
            return _DEFAULT_RETRY_AFTER
        return min(_MAX_RETRY_AFTER, max(1.0, self.queued / rate))

    def _overloaded(self, why: str, reason: str) -> ApiError:
        self._observer.shed(reason)
        return ApiError(
            503, f"{why} Try again later.", code="engine_overloaded", type=SERVER, retry_after=self.retry_after()
        )
