"""The deployment as it is now, and its last minute: one sample a second, taken whether or not somebody looks."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from engine.types import Engine, ModelInfo
from gateway.admission import Gates
from gateway.observability.recent import WINDOW_SECONDS

INTERVAL_SECONDS: Final = 1.0
#: Samples that the present rate is the mean of: a single one jumps with the steps of the engine.
RATE_SAMPLES: Final = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment. ``tokens_per_second`` since the sample before; ``running`` and ``waiting`` are sequences in the
    engines, ``queued`` requests at the gate; ``kv_usage`` is the fullest engine's share.
    """

    tokens_per_second: float
    running: int
    waiting: int
    queued: int
    kv_usage: float


class LiveFigures:
    """A :class:`gateway.lifecycle.Service`. Use from one event loop."""

    def __init__(self, engine: Engine, gates: Gates, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._gates = gates
        self._clock = clock
        self._generated: dict[str, int] = {}
        self._looked: float | None = None
        self._samples: deque[Sample] = deque(maxlen=WINDOW_SECONDS)
        self._sampling: asyncio.Task[None] | None = None

    @property
    def history(self) -> Sequence[Sample]:
        """At most a minute of samples, oldest first."""
        return tuple(self._samples)

    def now(self) -> Sample:
        """The present, with the rate of the last seconds."""
        rates = [sample.tokens_per_second for sample in self._samples][-RATE_SAMPLES:]
        return self._moment(self._engine.models(), sum(rates) / len(rates) if rates else 0.0)

    def sample(self) -> None:
        """Look once."""
        moment, models = self._clock(), self._engine.models()
        # An engine that was started anew counts from 0.
        gained = sum(
            max(0, model.generated_tokens - self._generated.get(model.id, model.generated_tokens)) for model in models
        )
        elapsed = None if self._looked is None else moment - self._looked
        self._looked = moment
        self._generated = {model.id: model.generated_tokens for model in models}
        self._samples.append(self._moment(models, gained / elapsed if elapsed else 0.0))

    def _moment(self, models: Sequence[ModelInfo], rate: float) -> Sample:
        return Sample(
            rate,
            sum(model.running for model in models),
            sum(model.waiting for model in models),
            self._gates.queued,
            max((model.kv_usage for model in models), default=0.0),
        )

    # -- as a service -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to look."""
        self._sampling = asyncio.create_task(self._look_on(), name="live-figures")

    async def stop(self) -> None:
        """Idempotent."""
        if self._sampling is not None:
            self._sampling.cancel()
            with suppress(asyncio.CancelledError):
                await self._sampling
            self._sampling = None

    def degraded(self) -> Sequence[str]:
        """Nothing here can be away."""
        return ()

    async def _look_on(self) -> None:
        while True:
            self.sample()
            await asyncio.sleep(INTERVAL_SECONDS)
