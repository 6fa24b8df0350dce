"""Several models in one memory budget: loaded on demand, kept while in use, evicted when idle and room is needed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from engine.config import EngineConfig
from engine.dispatch import Dispatch
from engine.memory import expected_bytes, taken_bytes, trim
from engine.resident import LoadStep, ModelSpec, Resident
from engine.types import (
    EngineState,
    EngineUnavailable,
    Hold,
    ModelInfo,
    ModelState,
    ModelUnavailable,
    Phase,
    PoolState,
    RequestRejected,
)

if TYPE_CHECKING:
    from engine.core import EngineCore
    from engine.metrics import VllmMetrics
    from engine.runtime import VllmEngine

log = logging.getLogger("sluice.pool")

GIB: Final = 1024**3
#: Seconds between two looks at how much memory the models' processes have.
MEASURE_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class PoolPolicy:
    """``budget`` in bytes. ``cold``: whether a request waits while its model is loaded. Times in seconds: ``cold_wait``
    is the most it waits; ``failed_pause`` the time after a failed load in which requests do not try again;
    ``unload_timeout`` what running requests get to end.
    """

    budget: int
    cold: Literal["wait", "refuse"] = "wait"
    cold_wait: float = 120.0
    failed_pause: float = 60.0
    unload_timeout: float = 60.0


class ModelPool(Dispatch):
    """The :class:`engine.types.Engine` of the gateway. Use it from one event loop.

    ``make`` builds the runtime of one model, not started. ``check`` looks at its files before others leave for it; it
    blocks, and raises :class:`EngineUnavailable`.
    """

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        policy: PoolPolicy,
        make: Callable[[EngineConfig], VllmEngine],
        metrics: VllmMetrics | None = None,
        check: Callable[[EngineConfig], None] = lambda _: None,
    ) -> None:
        self._policy = policy
        self._make = make
        self._check = check
        self._metrics = metrics
        self._models = {spec.config.served_name: Resident(spec, self._room_may_be) for spec in specs}
        self._freed = asyncio.Event()
        self._phase = Phase.STOPPED
        self._loads: Counter[tuple[str, str]] = Counter()
        self._evictions: Counter[str] = Counter()
        self._measuring: asyncio.Task[None] | None = None

    # -- what it is -----------------------------------------------------------------------------------------------

    def models(self) -> Sequence[ModelInfo]:
        """See :class:`engine.types.Engine`."""
        return [resident.info() for resident in self._models.values()]

    def model(self, name: str) -> ModelInfo | None:
        """See :class:`engine.types.Engine`."""
        resident = self._models.get(name)
        return resident.card if resident is not None else None

    def slots(self, model: str) -> int:
        """See :class:`engine.types.Engine`."""
        resident = self._models.get(model)
        return resident.runtime.slots() if resident is not None and resident.runtime is not None else 0

    def pool(self) -> PoolState:
        """See :class:`engine.types.Engine`."""
        return PoolState(self._policy.budget, self._used(), dict(self._loads), dict(self._evictions))

    def state(self) -> EngineState:
        """All engines together. The phase is READY while one of the models that count can serve (docs/models.md)."""
        states = [runtime.state() for runtime in self._runtimes()]
        return EngineState(
            phase=self._overall(),
            running=sum(state.running for state in states),
            waiting=sum(state.waiting for state in states),
            queued_tokens=sum(state.queued_tokens for state in states),
            kv_usage=max((state.kv_usage for state in states), default=0.0),
            restarts=sum(state.restarts for state in states),
            detail=next((state.detail for state in states if state.detail), None),
            generated_tokens=sum(state.generated_tokens for state in states),
            told_at=max((state.told_at for state in states), default=0.0),
        )

    def _overall(self) -> Phase:
        if self._phase is not Phase.READY:
            return self._phase
        present = [each.info() for each in self._models.values() if each.state is not ModelState.UNLOADED]
        counting = [info for info in present if info.preload] or present
        phases = [_phase_of(info) for info in counting]
        return Phase.READY if Phase.READY in phases else next(iter(phases), Phase.STOPPED)

    @property
    def core(self) -> EngineCore | None:
        """The engine of the first model, for oracles in tests; None while there is none."""
        first = next(iter(self._models.values()))
        return first.runtime.core if first.runtime is not None else None

    def runtime(self, model: str) -> VllmEngine | None:
        """The runtime of ``model``, for oracles in tests; None while it is not in memory."""
        return self._models[model].runtime

    def flush_metrics(self) -> None:
        """Bring vLLM's exported metrics up to date; call before a scrape."""
        for runtime in self._runtimes():
            runtime.flush_metrics()

    def _runtimes(self) -> list[VllmEngine]:
        return [each.runtime for each in self._models.values() if each.runtime is not None]

    # -- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """See :class:`engine.types.Engine`."""
        if self._metrics is not None:
            self._metrics.show()
        self._phase = Phase.STARTING
        self._measuring = asyncio.create_task(self._measure_all(), name="model-sizes")
        first = True
        for resident in self._models.values():
            if resident.spec.preload:
                await self._preload(resident, needed=first)
                first = False
        if self._phase is Phase.STARTING:
            self._phase = Phase.READY

    async def _preload(self, resident: Resident, *, needed: bool) -> None:
        try:
            await self._await_load(resident)
        except EngineUnavailable as error:
            if needed:
                raise
            log.error("model %s is not there at start: %s", resident.name, error)

    async def drain(self) -> None:
        """Refuse new requests and return when none is left."""
        self._phase = Phase.DRAINING
        await asyncio.gather(*(runtime.drain() for runtime in self._runtimes()))

    def kill(self) -> None:
        """End the engines' processes at once, without asking them. Call :meth:`stop` afterwards."""
        for runtime in self._runtimes():
            runtime.kill()

    async def stop(self) -> None:
        """End every request with :class:`EngineUnavailable` and leave no process behind. Idempotent."""
        if self._phase is Phase.STOPPED:
            return
        self._phase = Phase.STOPPED
        if self._measuring is not None:
            self._measuring.cancel()
        await asyncio.gather(*(self._stop(resident) for resident in self._models.values()))
        if self._metrics is not None:
            self._metrics.hide()

    async def _stop(self, resident: Resident) -> None:
        await _ended(resident.unloader)
        await self._cancel_load(resident)
        if resident.runtime is not None:
            runtime, resident.runtime = resident.runtime, None
            await runtime.stop()

    # -- into memory ----------------------------------------------------------------------------------------------

    async def hold(self, model: str) -> Hold:
        """See :class:`engine.types.Engine`."""
        resident = self._resident(model)
        # Counted before it is there: what others wait for is not evicted as soon as it was loaded.
        resident.join()
        if resident.state is not ModelState.READY:
            try:
                await self._brought(resident)
            except BaseException:
                resident.leave()
                raise
        return resident.held()

    async def load(self, model: str) -> None:
        """See :class:`engine.types.Engine`."""
        resident = self._resident(model)
        while resident.state is not ModelState.READY or resident.phase is Phase.FAILED:
            if resident.unloader is not None:
                await _ended(resident.unloader)
            elif resident.state is ModelState.READY:
                await self._take_out(resident, ModelState.COLD)
            else:
                await self._await_load(resident)

    async def _brought(self, resident: Resident) -> None:
        """Wait, as the policy allows, until ``resident`` is READY. Raises :class:`ModelUnavailable`."""
        try:
            async with asyncio.timeout(self._policy.cold_wait):
                while resident.state is not ModelState.READY:
                    await self._one_step_nearer(resident)
        except TimeoutError:
            raise self._unavailable(resident) from None

    async def _one_step_nearer(self, resident: Resident) -> None:
        if self._phase is not Phase.READY:
            raise EngineUnavailable(f"the engine is {self._phase.value}", retry_after=15.0)
        if resident.unloader is not None and resident.evicting:
            await _ended(resident.unloader)
            return
        if resident.state in (ModelState.UNLOADING, ModelState.UNLOADED):
            raise self._unavailable(resident)
        if resident.state is ModelState.FAILED and time.monotonic() < resident.retry_at:
            raise self._unavailable(resident)
        loader = self._loader(resident)
        if self._policy.cold == "refuse":
            raise self._unavailable(resident)
        await asyncio.shield(loader)

    def _unavailable(self, resident: Resident) -> ModelUnavailable:
        failed = resident.state is ModelState.FAILED
        wait = max(1.0, resident.retry_at - time.monotonic()) if failed else resident.retry_after()
        message = f"model {resident.name} is {resident.state.value}"
        return ModelUnavailable(message, state=resident.state, retry_after=wait)

    async def _await_load(self, resident: Resident) -> None:
        await asyncio.shield(self._loader(resident))

    def _loader(self, resident: Resident) -> asyncio.Task[None]:
        """The one load of ``resident`` that all who want it wait for."""
        if resident.loader is None:
            # At once, so that nobody sees a state in which nothing seems to happen.
            resident.loading_since = time.monotonic()
            resident.load_step = LoadStep.NOT_BEGUN
            resident.enter(ModelState.LOADING)
            resident.loader = asyncio.create_task(self._load(resident), name=f"load {resident.name}")
            resident.loader.add_done_callback(_retrieved)
        return resident.loader

    async def _load(self, resident: Resident) -> None:
        resident.load_step = LoadStep.UNDER_WAY
        outcome, failure = "loaded", None
        try:
            if resident.asleep and resident.phase is not Phase.READY:
                await self._end_engine(resident)  # it died in its sleep
            if not resident.asleep:
                # Before anybody leaves for it.
                await asyncio.to_thread(self._check, resident.spec.config)
            await self._make_room(resident)
            outcome = "woken" if resident.asleep else "loaded"
            await (self._wake(resident) if resident.asleep else self._start(resident))
        except asyncio.CancelledError:
            outcome, failure = "cancelled", ModelUnavailable("it is unloaded", state=ModelState.UNLOADED)
        except ModelUnavailable as error:
            outcome, failure = "no_room", error
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this load's failure, and told to who waits
            outcome, failure = "failed", self._failed(resident, error)
        # From here on it cannot be cancelled any more: what is left of it is cleared up.
        resident.load_step = LoadStep.ENDING
        self._loads[resident.name, outcome] += 1
        if failure is not None:
            await self._discard(resident, failure)
        resident.loader = None
        if failure is not None:
            raise failure

    def _failed(self, resident: Resident, error: Exception) -> ModelUnavailable:
        if not isinstance(error, EngineUnavailable):
            log.exception("model %s could not be loaded", resident.name)
        pause = self._policy.failed_pause
        resident.retry_at = time.monotonic() + pause
        failure = ModelUnavailable(str(error), state=ModelState.FAILED, retry_after=pause)
        failure.__cause__ = error
        return failure

    async def _start(self, resident: Resident) -> None:
        resident.runtime = self._make(resident.spec.config)
        await resident.runtime.start()
        await self._measure(resident)
        resident.load_seconds = time.monotonic() - resident.loading_since
        resident.last_used = time.monotonic()
        resident.enter(ModelState.READY)

    async def _wake(self, resident: Resident) -> None:
        assert resident.runtime is not None
        await resident.runtime.wake()
        resident.asleep = False
        resident.last_used = time.monotonic()
        resident.enter(ModelState.READY)

    async def _discard(self, resident: Resident, failure: ModelUnavailable) -> None:
        """What is left of a load that came to nothing. What found no room to wake in sleeps on."""
        if resident.asleep and failure.state is ModelState.COLD:
            resident.enter(ModelState.SLEEPING)
            return
        await self._end_engine(resident)
        self._forget(resident, failure.state, None if failure.state is ModelState.UNLOADED else str(failure))

    async def _end_engine(self, resident: Resident) -> None:
        resident.asleep = False
        resident.reserved = 0
        if resident.runtime is not None:
            runtime, resident.runtime = resident.runtime, None
            await runtime.stop()

    # -- room -----------------------------------------------------------------------------------------------------

    def _used(self) -> int:
        return sum(resident.reserved for resident in self._models.values())

    async def _make_room(self, resident: Resident) -> None:
        """Reserve the memory of ``resident``; idle others leave for it, the least recently used first.

        Raises :class:`EngineUnavailable` if it can never fit, :class:`ModelUnavailable` if others are in use for as
        long as anybody would wait.
        """
        need = resident.expected = resident.spec.memory or expected_bytes(resident.spec.config)
        self._check_fits(resident, need)
        try:
            async with asyncio.timeout(self._policy.cold_wait):
                # What it keeps in its sleep is part of what it needs.
                while self._used() - resident.reserved + need > self._policy.budget:
                    await self._evict_one()
        except TimeoutError:
            raise ModelUnavailable("no memory is free", state=ModelState.COLD, retry_after=5.0) from None
        resident.reserved = need

    def _check_fits(self, resident: Resident, need: int) -> None:
        kept = sum(each.reserved for each in self._models.values() if each.spec.pin and each is not resident)
        if need + kept <= self._policy.budget:
            return
        others = f", of which {kept / GIB:.1f} GiB are pinned" if kept else ""
        raise EngineUnavailable(
            f"it needs about {need / GIB:.1f} GiB; the budget is {self._policy.budget / GIB:.1f} GiB{others}"
        )

    async def _evict_one(self) -> None:
        """Evict the idle model that was not used for longest, or wait until that may have changed.

        One that can sleep is put to sleep. Those that are asleep leave altogether when no other is left.
        """
        models = self._models.values() if self._phase is Phase.READY else []
        idle = [each for each in models if each.evictable] or [each for each in models if each.sleeps]
        if idle:
            victim = min(idle, key=lambda each: each.last_used)
            self._evictions[victim.name] += 1
            await self._take_out(victim, ModelState.SLEEPING if _can_sleep(victim) else ModelState.COLD)
            return
        self._check_somebody_may_leave()
        self._freed.clear()
        await self._freed.wait()

    def _check_somebody_may_leave(self) -> None:
        # At start nobody is evicted for another: what is to be there from the start does not fit together.
        if self._phase is Phase.STARTING:
            raise EngineUnavailable(
                f"the models that are to be loaded at start need more than {self._policy.budget / GIB:.1f} GiB together"
            )

    def _room_may_be(self) -> None:
        self._freed.set()

    # -- out of memory --------------------------------------------------------------------------------------------

    async def unload(self, model: str) -> None:
        """See :class:`engine.types.Engine`."""
        resident = self._resident(model)
        # Others may load and unload it meanwhile: the last word counts.
        while resident.loader is not None or resident.runtime is not None:
            if resident.loader is not None:
                await self._cancel_load(resident)
            elif resident.unloader is not None:
                resident.evicting = False
                await asyncio.shield(resident.unloader)
            else:
                await self._take_out(resident, ModelState.UNLOADED)
        self._forget(resident, ModelState.UNLOADED, None)

    async def _cancel_load(self, resident: Resident) -> None:
        while (loader := resident.loader) is not None:
            if resident.load_step is LoadStep.NOT_BEGUN:
                # A task that is cancelled before its first step never runs, and would clear nothing up.
                await asyncio.sleep(0)
                continue
            if resident.load_step is LoadStep.UNDER_WAY:
                resident.load_step = LoadStep.ENDING
                loader.cancel()
            await _ended(loader)

    async def _take_out(self, resident: Resident, state: ModelState) -> None:
        """Unload, to be ``state`` afterwards. Goes on if the caller is cancelled."""
        resident.evicting = state is not ModelState.UNLOADED
        resident.enter(ModelState.UNLOADING)
        work = self._put_to_sleep(resident) if state is ModelState.SLEEPING else self._unload(resident)
        resident.unloader = asyncio.create_task(work, name=f"unload {resident.name}")
        resident.unloader.add_done_callback(_retrieved)
        await asyncio.shield(resident.unloader)

    async def _unload(self, resident: Resident) -> None:
        assert resident.runtime is not None
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._policy.unload_timeout):
                    await resident.unused.wait()
            await resident.runtime.stop()
            await asyncio.to_thread(trim)
        finally:
            resident.runtime = None
            resident.unloader = None
            self._forget(resident, ModelState.COLD if resident.evicting else ModelState.UNLOADED, None)

    async def _put_to_sleep(self, resident: Resident) -> None:
        assert resident.runtime is not None
        try:
            freed = await resident.runtime.sleep()
        except Exception:
            log.exception("model %s does not go to sleep: it is unloaded", resident.name)
            await self._unload(resident)
            return
        resident.asleep = True
        resident.reserved = max(0, resident.reserved - freed)
        resident.unloader = None
        resident.enter(ModelState.SLEEPING)
        self._room_may_be()

    def _forget(self, resident: Resident, state: ModelState, detail: str | None) -> None:
        resident.reserved = resident.size_bytes = 0
        resident.asleep = False
        resident.enter(state, detail)
        self._room_may_be()

    # -- sizes ----------------------------------------------------------------------------------------------------

    async def _measure_all(self) -> None:
        while True:
            await asyncio.sleep(MEASURE_SECONDS)
            for resident in self._models.values():
                if resident.state in (ModelState.READY, ModelState.SLEEPING):
                    await self._measure(resident)
                    resident.refresh()

    async def _measure(self, resident: Resident) -> None:
        runtime = resident.runtime
        assert runtime is not None
        size = await asyncio.to_thread(runtime.memory_bytes)
        if resident.runtime is runtime and resident.reserved:
            resident.size_bytes = size
            if not resident.asleep:
                resident.reserved = resident.spec.memory or taken_bytes(resident.expected, size)

    def _resident(self, model: str) -> Resident:
        resident = self._models.get(model)
        if resident is None:
            raise RequestRejected("unknown model", param="model", code="model_not_found")
        return resident

    def _runtime_of(self, model: str) -> VllmEngine:
        resident = self._resident(model)
        if resident.runtime is None:
            raise self._unavailable(resident)
        return resident.runtime


def _can_sleep(resident: Resident) -> bool:
    return resident.runtime is not None and not resident.asleep and resident.runtime.can_sleep


def _phase_of(info: ModelInfo) -> Phase:
    """The phase of one model for readiness: what its first request would load is as good as there."""
    match info.state:
        case ModelState.COLD | ModelState.SLEEPING:
            return Phase.READY
        case ModelState.LOADING:
            return Phase.STARTING
        case ModelState.UNLOADING:
            return Phase.DRAINING
        case ModelState.READY:
            return info.phase or Phase.STOPPED
        case _:
            return Phase.FAILED


async def _ended(task: asyncio.Task[None] | None) -> None:
    """Wait until ``task`` is over, however it ends."""
    if task is not None:
        await asyncio.wait({task})


def _retrieved(task: asyncio.Task[None]) -> None:
    """Nobody may be left who wants to know how it ended."""
    if not task.cancelled():
        task.exception()
