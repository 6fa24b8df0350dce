"""One model of the pool: what was configured, where it is now, and who uses it."""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.config import EngineConfig
from engine.types import ModelInfo, ModelState, Phase

if TYPE_CHECKING:
    from engine.runtime import VllmEngine

log = logging.getLogger("sluice.pool")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as configured. ``memory`` is what it takes, in bytes; None: estimated, then measured."""

    config: EngineConfig
    pin: bool = False
    preload: bool = False
    memory: int | None = None


class LoadStep(enum.Enum):
    """How far a load is; it can be cancelled while it is under way only."""

    NOT_BEGUN = enum.auto()
    UNDER_WAY = enum.auto()
    ENDING = enum.auto()


class Resident:
    """``users`` are requests that hold it or wait for it; ``reserved`` is its part of the budget, in bytes, of which
    ``expected`` were thought to be needed. ``evicting``: it is unloaded for another, not by an administrator.

    ``holders`` are the users that have got it, ``unused`` is set while there are none. ``asleep``: its engine is there,
    and has given the device's memory up.

    ``on_idle`` is called whenever its last user has gone. ``card`` is what the gateway sees, as of the last change.
    """

    def __init__(self, spec: ModelSpec, on_idle: Callable[[], None]) -> None:
        self.spec = spec
        self.name = spec.config.served_name
        self.state = ModelState.COLD
        self.runtime: VllmEngine | None = None
        self.users = 0
        self.holders = 0
        self.unused = asyncio.Event()
        self.unused.set()
        self.last_used = 0.0
        self.expected = 0
        self.reserved = 0
        self.size_bytes = 0
        self.load_seconds: float | None = None
        self.loading_since = 0.0
        self.load_step = LoadStep.NOT_BEGUN
        self.detail: str | None = None
        self.retry_at = 0.0
        self.loader: asyncio.Task[None] | None = None
        self.unloader: asyncio.Task[None] | None = None
        self.evicting = False
        self.asleep = False
        self.card = ModelInfo(
            self.name,
            int(time.time()),
            0,
            kind=spec.config.kind,
            state=ModelState.COLD,
            pinned=spec.pin,
            preload=spec.preload,
        )
        self._on_idle = on_idle

    def enter(self, state: ModelState, detail: str | None = None) -> None:
        """Change its state."""
        if state is not self.state:
            fields = {"model": self.name, "state": state.value} | ({"detail": detail} if detail else {})
            log.info("model %s: %s", self.name, state.value, extra={"fields": fields})
        self.state = state
        self.detail = detail
        self.refresh()

    def refresh(self) -> None:
        """Bring the card up to date. What was learnt of the model stays known when it is gone."""
        runtime = self.runtime
        told = runtime.info() if runtime is not None and self.state is ModelState.READY else self.card
        learnt = told if told.context_length else self.card  # an engine that is being restarted knows nothing
        self.card = replace(
            self.card,
            context_length=learnt.context_length,
            images=learnt.images,
            reasoning=learnt.reasoning,
            labels=learnt.labels,
            width=learnt.width,
            state=self.state,
            phase=runtime.state().phase if runtime is not None else None,
            size_bytes=self.size_bytes,
            load_seconds=self.load_seconds,
            detail=self.detail,
        )

    def info(self) -> ModelInfo:
        """The card with what changes from moment to moment."""
        if self.runtime is None:
            return replace(self.card, phase=None, users=self.users, state=self.state)
        engine = self.runtime.state()
        gone = self.state is ModelState.READY and engine.phase is Phase.FAILED
        return replace(
            self.card,
            phase=engine.phase,
            users=self.users,
            state=ModelState.FAILED if gone else self.state,
            running=engine.running,
            waiting=engine.waiting,
            kv_usage=engine.kv_usage,
            generated_tokens=engine.generated_tokens,
        )

    @property
    def phase(self) -> Phase | None:
        """Its engine's phase; None while there is no engine."""
        return self.runtime.state().phase if self.runtime is not None else None

    @property
    def evictable(self) -> bool:
        """Whether it may leave now to make room."""
        return self.state is ModelState.READY and self._idle and not self.spec.pin

    @property
    def sleeps(self) -> bool:
        """Whether it is asleep, and nobody wants it: what it still keeps may be taken from it too."""
        return self.state is ModelState.SLEEPING and self._idle

    @property
    def _idle(self) -> bool:
        return not self.users and self.runtime is not None and not self.runtime.busy

    def retry_after(self) -> float:
        """Seconds until it is probably there, by what its last load took."""
        elapsed = time.monotonic() - self.loading_since if self.state is ModelState.LOADING else 0.0
        return min(60.0, max(1.0, (self.load_seconds or 15.0) - elapsed))

    # -- who uses it ----------------------------------------------------------------------------------------------

    def join(self) -> None:
        """One more user, who has not got it yet."""
        self.users += 1

    def held(self) -> Resident:
        """One of the users has got it: a resident is the hold of each of its holders."""
        self.holders += 1
        self.unused.clear()
        return self

    def release(self) -> None:
        """See :class:`engine.types.Hold`."""
        self.holders -= 1
        if not self.holders:
            self.unused.set()
        self.leave()

    def leave(self) -> None:
        """One user less, who does not hold it."""
        self.users -= 1
        self.last_used = time.monotonic()
        if not self.users:
            self._on_idle()
