"""Whether this process takes more work at all: life cycle, requests in flight, memory."""

from __future__ import annotations

from collections.abc import Callable

from gateway.errors import SERVER, ApiError, shutting_down


class Admission:
    """Counts what is in flight and refuses new work when the process must not take more.

    ``memory_fraction`` reads the share of memory in use; ``finish_rate`` of past requests gives ``Retry-After``.
    """

    def __init__(self, max_in_flight: int, max_memory: float, memory_fraction: Callable[[], float]) -> None:
        self._max_in_flight = max_in_flight
        self._max_memory = max_memory
        self._memory_fraction = memory_fraction
        self._closed_for: float | None = None
        self.in_flight = 0

    def close(self, retry_after: float) -> None:
        """Refuse everything from now on: the process is shutting down."""
        self._closed_for = retry_after

    def require_open(self) -> None:
        """Raise :class:`ApiError` 503 if no new request may begin. Cheap: called before a body is read."""
        if self._closed_for is not None:
            raise shutting_down(self._closed_for)
        if self.in_flight >= self._max_in_flight:
            raise _overloaded("Too many requests are in flight.")
        if self._memory_fraction() > self._max_memory:
            raise _overloaded("The server is short of memory.")

    def enter(self) -> None:
        """One more request is in flight. Raises like :meth:`require_open`."""
        self.require_open()
        self.in_flight += 1

    def leave(self) -> None:
        """One request less is in flight."""
        self.in_flight -= 1


def _overloaded(why: str) -> ApiError:
    return ApiError(503, f"{why} Try again later.", code="engine_overloaded", type=SERVER, retry_after=2)
