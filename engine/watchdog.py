"""Tells a hung engine from a slow one.

vLLM's own health check sees a dead engine core but not a stopped or deadlocked one. Signs of life are outputs and
answers to probes; between them, CPU time that moves means a long step (a big prefill on a loaded machine), CPU time
that stands still means a hang.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WatchdogLimits:
    """Seconds. ``silence``: without a sign of life before a probe is sent; ``hang``: before standing CPU time means
    a hang; ``busy``: before even a computing engine counts as hung."""

    silence: float = 2.0
    hang: float = 8.0
    busy: float = 300.0


#: CPU seconds an engine must burn in the observed window to count as computing.
COMPUTING_CPU_SECONDS = 0.05
WINDOW_SECONDS = 3.0


class Watchdog:
    """Feed it signs of life and ticks; ask whether the engine hangs. ``cpu_seconds`` reads the engine's CPU time."""

    def __init__(
        self, limits: WatchdogLimits, cpu_seconds: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._cpu_seconds = cpu_seconds
        self._clock = clock
        self._last_sign = clock()
        self._cpu: deque[tuple[float, float]] = deque()

    def sign_of_life(self) -> None:
        """An output or a probe's answer arrived."""
        self._last_sign = self._clock()

    @property
    def silence(self) -> float:
        """Seconds since the last sign of life."""
        return self._clock() - self._last_sign

    @property
    def wants_probe(self) -> bool:
        """Whether it is time to ask the engine for a sign of life."""
        return self.silence > self._limits.silence

    def hangs(self) -> bool:
        """Whether the engine is judged hung now. Call it about once a second or more often."""
        silence = self.silence
        if silence <= self._limits.silence:
            self._cpu.clear()
            return False
        self._sample()
        if silence <= self._limits.hang:
            return False
        return silence > self._limits.busy or not self._computing()

    def _sample(self) -> None:
        now = self._clock()
        self._cpu.append((now, self._cpu_seconds()))
        while len(self._cpu) > 2 and self._cpu[1][0] <= now - WINDOW_SECONDS:
            self._cpu.popleft()

    def _computing(self) -> bool:
        return self._cpu[-1][1] - self._cpu[0][1] >= COMPUTING_CPU_SECONDS
