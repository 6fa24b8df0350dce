"""A circuit breaker: after a burst of failures nobody asks again until a probe has succeeded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

FAILURES: Final = 5
WITHIN_SECONDS: Final = 1.0


class Breaker:
    """Closed: requests ask the store. Open: nobody does, but for the prober, who closes it.

    ``patience``: seconds after which an unanswered request counts as a failure. A few that wait one after another are a
    burst all the same.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, patience: float = 0.0) -> None:
        self._clock = clock
        self._within = max(WITHIN_SECONDS, 2 * FAILURES * patience)
        self._failures: deque[float] = deque(maxlen=FAILURES)
        self.closed = True

    def failed(self, *, fatal: bool = False) -> bool:
        """Count a failure; True if it opened the breaker. ``fatal``: the store said itself that it cannot serve."""
        now = self._clock()
        self._failures.append(now)
        burst = len(self._failures) == FAILURES and now - self._failures[0] <= self._within
        if self.closed and (fatal or burst):
            self.closed = False
            return True
        return False

    def close(self) -> None:
        """The store serves again."""
        self.closed = True
        self._failures.clear()
