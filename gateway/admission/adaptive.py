"""A bound on running sequences that holds a latency: additive increase, multiplicative decrease."""

from __future__ import annotations

from statistics import median
from typing import Final

INTERVAL_SECONDS: Final = 1.0
_DECREASE: Final = 0.9
_INCREASE: Final = 0.05
_MAX_SAMPLES: Final = 1024


class AdaptiveBound:
    """Between ``low`` and ``high``; starts high, so that an idle server takes a burst.

    ``target_latency`` is the time from dispatch to the first token, in seconds. Once per interval: median above the
    target, the bound falls by a tenth; otherwise, with more than ``target_queue`` requests waiting, it grows by a
    twentieth, at least by one. After it has fallen it waits for a request that was dispatched since: the latency of
    earlier ones is that of the old bound, and would make it fall again and again for one cause.
    """

    def __init__(self, low: int, high: int, target_latency: float, target_queue: int) -> None:
        self._low = min(low, high)
        self._high = high
        self._target_latency = target_latency
        self._target_queue = target_queue
        self._samples: list[float] = []
        self._next_step: float | None = None
        self._fell_at: float | None = None
        self.value = high

    def observe(self, dispatched: float, now: float) -> None:
        """The first token of a request that was dispatched then comes now."""
        if self._fell_at is not None:
            if dispatched < self._fell_at:
                return
            self._fell_at = None
        if len(self._samples) < _MAX_SAMPLES:
            self._samples.append(now - dispatched)

    def step(self, waiting: int, now: float) -> None:
        """Adapt, if it is time. ``waiting`` is the length of the queue."""
        if self._next_step is None:
            self._next_step = now + INTERVAL_SECONDS
        if now < self._next_step:
            return
        self._next_step = now + INTERVAL_SECONDS
        samples, self._samples = self._samples, []
        if samples and median(samples) > self._target_latency:
            self.value = max(self._low, int(self.value * _DECREASE))
            self._fell_at = now
        elif self._fell_at is None and waiting > self._target_queue:
            self.value = min(self._high, self.value + max(1, int(self.value * _INCREASE)))
