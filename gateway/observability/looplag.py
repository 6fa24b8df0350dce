"""How late the event loop runs its callbacks: the sign of something blocking it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

INTERVAL_SECONDS: Final = 0.1


class LoopLag:
    """Calls ``observe(seconds)`` about every ``interval`` seconds with how late the call itself came (>= 0).

    A loop that was blocked for ``s`` seconds is reported once, with at least ``s - interval``.
    """

    def __init__(self, observe: Callable[[float], None], interval: float = INTERVAL_SECONDS) -> None:
        self._observe = observe
        self._interval = interval
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin on the running loop. Idempotent."""
        if self._timer is None:
            self._schedule(asyncio.get_running_loop())

    def stop(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + self._interval
        self._timer = loop.call_at(due, self._sample, loop, due)

    def _sample(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        lag = max(0.0, loop.time() - due)
        self._schedule(loop)
        self._observe(lag)


class LagWindow:
    """An ``observe`` that keeps the last lag and the greatest of the last ``size`` samples, in seconds.

    Two half windows, so a spike is visible for at least one scrape and at most two half windows.
    """

    def __init__(self, size: int = 300) -> None:
        self._half = max(1, size // 2)
        self._count = 0
        self._current = 0.0
        self._previous = 0.0
        self.last = 0.0

    def __call__(self, lag: float) -> None:
        """Take one sample in seconds."""
        if self._count == self._half:
            self._count, self._previous, self._current = 0, self._current, 0.0
        self._count += 1
        self.last = lag
        self._current = max(self._current, lag)

    @property
    def max(self) -> float:
        """The greatest lag in the window, in seconds."""
        return max(self._current, self._previous)
