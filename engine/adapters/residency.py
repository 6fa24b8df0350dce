"""Which adapters are in the engine: loaded before their first request, evicted when nobody holds them.

vLLM's worker has a cache of its own, and reads an adapter's files again when a request needs one that it has dropped:
if they are gone by then, the engine dies. So the worker is never left to choose. What is counted here never exceeds its
capacity, room is made by asking it to remove, and a request runs only while it holds its adapter.

Requests wait in order of the first that asked for their adapter. While somebody waits and everything is in use, the
least recently used adapter is closed: it takes no more requests, which wait with the others, until it can be evicted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from engine.types import AdapterNotFound, AdapterUnavailable, EngineError

log = logging.getLogger("sluice.adapters")

#: Loads that the engine is given at once: between two of them it makes a step for everybody else.
_LOADS_AT_ONCE: Final = 2


@dataclass(frozen=True, slots=True)
class Lora:
    """A version of an adapter as the engine knows it. ``id`` and ``name`` are given to no other version, ever."""

    id: int
    name: str
    path: str
    size: int


class LoraEngine(Protocol):
    """What is asked of vLLM."""

    async def add_lora(self, lora: Lora) -> None:
        """Load it. Raises :class:`engine.types.EngineUnavailable` without an engine, else whatever is wrong with it."""

    async def remove_lora(self, lora: Lora) -> None:
        """Free its place. Raises :class:`engine.types.EngineUnavailable` without an engine."""


class LoraObserver(Protocol):
    """Told on the event loop; must not raise. Seconds."""

    def adapter_loaded(self, seconds: float, *, good: bool) -> None:
        """The engine was asked to load one."""

    def adapter_evicted(self) -> None:
        """One made room for another."""

    def adapter_waited(self, seconds: float) -> None:
        """A request got an adapter that was not there when it asked."""


class Unobserved:
    """Nobody is told."""

    def adapter_loaded(self, seconds: float, *, good: bool) -> None:
        """See :class:`LoraObserver`."""

    def adapter_evicted(self) -> None:
        """See :class:`LoraObserver`."""

    def adapter_waited(self, seconds: float) -> None:
        """See :class:`LoraObserver`."""


@dataclass(frozen=True, slots=True)
class ResidencyLimits:
    """``count``: the worker's capacity. ``size``: bytes of weights, None for no bound. Times in seconds.

    ``wait``: how long a request waits for its adapter; ``broken``: how long one that did not load is left alone.
    """

    count: int
    size: int | None = None
    wait: float = 15.0
    broken: float = 60.0


@dataclass(eq=False, slots=True)
class _Place:
    """An adapter that takes up room. ``task``: what is being done about it, if it is on its way in or out."""

    lora: Lora
    task: asyncio.Task[None] | None
    loaded: bool = False
    closed: bool = False
    held: int = 0
    used: float = 0.0


class Hold:
    """See :class:`engine.types.AdapterHold`."""

    __slots__ = ("_is_valid", "_release", "lora")

    def __init__(self, lora: Lora, release: Callable[[], None], is_valid: Callable[[], bool]) -> None:
        self.lora = lora
        self._release: Callable[[], None] | None = release
        self._is_valid = is_valid

    @property
    def valid(self) -> bool:
        """Whether it still keeps anything: an engine that is restarted has lost all its adapters."""
        return self._release is not None and self._is_valid()

    def release(self) -> None:
        """Let go. Idempotent."""
        release, self._release = self._release, None
        if release is not None:
            release()


Waiter = asyncio.Future[Hold]


@dataclass(slots=True)
class _Queued:
    lora: Lora
    waiters: list[Waiter] = field(default_factory=list)


class Residency:
    """For one engine. Use it from one event loop."""

    def __init__(
        self,
        engine: LoraEngine,
        limits: ResidencyLimits,
        observer: LoraObserver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._observer = observer
        self._clock = clock
        self._places: dict[int, _Place] = {}
        self._queue: dict[int, _Queued] = {}
        self._broken: dict[int, tuple[float, str]] = {}
        self._pinned: set[int] = set()
        self._leaving: dict[int, asyncio.Future[None]] = {}

    # -- what is asked ------------------------------------------------------------------------------------------

    async def hold(self, lora: Lora) -> Hold:
        """``lora``, loaded, until it is released. Raises :class:`~engine.types.AdapterUnavailable` when it does not
        load, or not in time; :class:`~engine.types.EngineUnavailable`; AdapterNotFound when it is being forgotten.
        """
        place = self._places.get(lora.id)
        if place is not None and place.loaded and not place.closed:
            return self._held(place)
        if lora.id in self._leaving:
            raise AdapterNotFound("the adapter was removed")
        if (reason := self.broken(lora)) is not None:
            raise self._unavailable(lora, reason)
        return await self._wait(lora)

    def state(self, lora: Lora) -> tuple[bool, bool, int]:
        """Whether it is in the engine, whether it is on its way there, how many hold it."""
        place = self._places.get(lora.id)
        waiting = lora.id in self._queue or (place is not None and not place.loaded)
        return place is not None and place.loaded, waiting, 0 if place is None else place.held

    def broken(self, lora: Lora) -> str | None:
        """Why it is left alone for now."""
        until, reason = self._broken.get(lora.id, (0.0, ""))
        if until > self._clock():
            return reason
        self._broken.pop(lora.id, None)
        return None

    def pin(self, lora: Lora, pinned: bool) -> None:
        """A pinned adapter is never evicted. Raises ValueError if no room would be left for the others."""
        if pinned and len(self._pinned | {lora.id}) >= self._limits.count:
            raise ValueError(f"at most {self._limits.count - 1} adapters can be pinned")
        (self._pinned.add if pinned else self._pinned.discard)(lora.id)
        self._pump()

    def forget(self, lora: Lora) -> asyncio.Future[None]:
        """Take no more requests for ``lora``; the future is done when it is out of the engine."""
        if (leaving := self._leaving.get(lora.id)) is not None:
            return leaving
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leaving[lora.id] = gone
        self._pinned.discard(lora.id)
        self._broken.pop(lora.id, None)
        self._fail(self._queue.pop(lora.id, None), AdapterNotFound("the adapter was removed"))
        if (place := self._places.get(lora.id)) is None:
            self._gone(lora.id)
        else:
            place.closed = True
            self._pump()
        return gone

    def reset(self, error: EngineError) -> None:
        """The engine is gone, and all that was in it: who waits gets ``error``."""
        places, self._places = self._places, {}
        queue, self._queue = self._queue, {}
        for place in places.values():
            if place.task is not None:
                place.task.cancel()
        for queued in queue.values():
            self._fail(queued, error)
        for lora_id in list(self._leaving):
            self._gone(lora_id)

    # -- waiting ------------------------------------------------------------------------------------------------

    async def _wait(self, lora: Lora) -> Hold:
        begun = self._clock()
        waiter: Waiter = asyncio.get_running_loop().create_future()
        queued = self._queue.setdefault(lora.id, _Queued(lora))
        queued.waiters.append(waiter)
        self._pump()
        hold = None
        try:
            async with asyncio.timeout(self._limits.wait):
                hold = await waiter
        except TimeoutError:
            raise AdapterUnavailable("the adapter could not be loaded in time", retry_after=5.0) from None
        finally:
            self._left(queued, waiter)
            if hold is None and waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                waiter.result().release()  # it came in the moment of giving up
        self._observer.adapter_waited(self._clock() - begun)
        return hold

    def _left(self, queued: _Queued, waiter: Waiter) -> None:
        queued.waiters.remove(waiter)
        if not queued.waiters and self._queue.get(queued.lora.id) is queued:
            del self._queue[queued.lora.id]
            self._pump()

    def _held(self, place: _Place) -> Hold:
        place.held += 1
        place.used = self._clock()
        return Hold(place.lora, lambda: self._released(place), lambda: self._places.get(place.lora.id) is place)

    def _released(self, place: _Place) -> None:
        place.held -= 1
        place.used = self._clock()
        if not place.held:
            self._pump()

    def _serve(self, place: _Place) -> None:
        """Give everyone who waits for it what they wait for."""
        queued = self._queue.pop(place.lora.id, None)
        for waiter in queued.waiters if queued else ():
            if not waiter.done():
                waiter.set_result(self._held(place))

    @staticmethod
    def _fail(queued: _Queued | None, error: EngineError) -> None:
        for waiter in queued.waiters if queued else ():
            if not waiter.done():
                waiter.set_exception(error)

    # -- making room, loading -----------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Do what can be done for those who wait, first come first served."""
        self._settle_closed()
        for queued in list(self._queue.values()):
            if queued.lora.id in self._places:
                continue  # on its way in, or closed and on its way out
            if self._loading() >= _LOADS_AT_ONCE or not self._room_for(queued.lora):
                return
            self._load(queued.lora)

    def _settle_closed(self) -> None:
        """Evict those that nobody holds any more; open those again that nobody needs the room of."""
        needed = any(lora_id not in self._places for lora_id in self._queue)
        for place in list(self._places.values()):
            if not place.closed or not place.loaded or place.task is not None:
                continue
            if not needed and place.lora.id not in self._leaving:
                place.closed = False
                self._serve(place)
            elif not place.held:
                self._remove(place)

    def _loading(self) -> int:
        return sum(1 for place in self._places.values() if not place.loaded)

    def _room_for(self, lora: Lora) -> bool:
        """Whether it can be loaded now; if not, room is being made."""
        places = self._places.values()
        if self._fits(lora, places):
            return True
        if self._fits(lora, [place for place in places if not (place.closed and place.task)]):
            return False  # somebody is leaving
        open_places = [place for place in places if self._may_leave(place)]
        idle = [place for place in open_places if not place.held]
        if idle:
            self._remove(min(idle, key=lambda place: place.used))
        elif open_places and not self._fits(lora, [place for place in places if not place.closed]):
            min(open_places, key=lambda place: place.used).closed = True
        return False

    def _fits(self, lora: Lora, places: Iterable[_Place]) -> bool:
        taken = [place.lora.size for place in places]
        limit = self._limits.size
        return len(taken) < self._limits.count and (limit is None or sum(taken) + lora.size <= limit)

    def _may_leave(self, place: _Place) -> bool:
        return place.loaded and not place.closed and place.lora.id not in self._pinned

    def _load(self, lora: Lora) -> None:
        place = _Place(lora, None)
        self._places[lora.id] = place
        place.task = asyncio.create_task(self._bring_in(place), name=f"load-{lora.name}")

    async def _bring_in(self, place: _Place) -> None:
        begun = self._clock()
        try:
            await self._engine.add_lora(place.lora)
        except EngineError as error:
            self._not_loaded(place, error)
        except Exception as error:  # noqa: BLE001 - vLLM raises anything; all of it means that the files do not load
            self._observer.adapter_loaded(self._clock() - begun, good=False)
            log.error("adapter %s does not load: %s", place.lora.name, str(error)[:1024])
            self._broken[place.lora.id] = (self._clock() + self._limits.broken, "its files do not load")
            self._not_loaded(place, self._unavailable(place.lora, "its files do not load"))
        else:
            self._observer.adapter_loaded(self._clock() - begun, good=True)
            place.task = None
            place.loaded = True
            place.used = self._clock()
            if not place.closed:
                self._serve(place)
            self._pump()

    def _not_loaded(self, place: _Place, error: EngineError) -> None:
        self._places.pop(place.lora.id, None)
        self._fail(self._queue.pop(place.lora.id, None), error)
        self._gone(place.lora.id)
        self._pump()

    def _remove(self, place: _Place) -> None:
        place.closed = True
        if place.lora.id not in self._leaving:
            self._observer.adapter_evicted()
        place.task = asyncio.create_task(self._take_out(place), name=f"evict-{place.lora.name}")

    async def _take_out(self, place: _Place) -> None:
        with suppress(EngineError):
            await self._engine.remove_lora(place.lora)
        self._places.pop(place.lora.id, None)
        self._gone(place.lora.id)
        self._pump()

    def _gone(self, lora_id: int) -> None:
        leaving = self._leaving.pop(lora_id, None)
        if leaving is not None and not leaving.done():
            leaving.set_result(None)

    def _unavailable(self, lora: Lora, reason: str) -> AdapterUnavailable:
        until = self._broken.get(lora.id, (0.0, ""))[0]
        return AdapterUnavailable(reason, retry_after=max(1.0, until - self._clock()), broken=True)
