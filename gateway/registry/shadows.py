"""Shadow traffic: what callers ask one version is also asked another one, whose answers nobody sees.

It runs beside requests that were admitted, in what the engine has to spare: few at once, none while anybody waits,
after everything else in the engine's order, and it gives way when it gets crowded. Rows in the ledger are its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from engine.types import Delta, Engine, EngineError, FinishReason, GenerationRequest, ModelState, Prompt
from gateway.admission import Gates
from gateway.protocol.encode import new_id
from gateway.registry.metrics import RegistryMetrics
from gateway.registry.pick import pick
from gateway.registry.table import Arm, RoutingTable
from gateway.usage.ledger import Ledger
from gateway.usage.life import Life
from gateway.work import Job, run_all

log = logging.getLogger("sluice.registry")

#: Shadows that run at once in this process.
AT_ONCE: Final = 4
#: Who its rows in the ledger are accounted to, as principal and as tenant, and their route.
SHADOW: Final = "shadow"
ROUTE: Final = "(shadow)"
#: Behind everything that waits at the engine.
PRIORITY: Final = 2**40
#: Seconds that one may take, and how soon it sees that others wait.
MOST_SECONDS: Final = 300.0
LOOK_SECONDS: Final = 0.05

Render = Callable[[str], Awaitable[Sequence[Prompt]]]
"""The request's prompts as tokens of another model."""


class Shadows:
    """A :class:`~gateway.lifecycle.Service`. Use from one event loop."""

    def __init__(
        self, engine: Engine, table: RoutingTable, gates: Gates, ledger: Ledger, metrics: RegistryMetrics
    ) -> None:
        self._engine = engine
        self._table = table
        self._gates = gates
        self._ledger = ledger
        self._metrics = metrics
        self._running: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """See :class:`~gateway.lifecycle.Service`."""

    async def stop(self) -> None:
        """See :class:`~gateway.lifecycle.Service`."""
        for task in tuple(self._running):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def degraded(self) -> Sequence[str]:
        """See :class:`~gateway.lifecycle.Service`."""
        return ()

    def of(self, arm: str | None, job: Job[Any], render: Render, *, images: bool) -> Callable[[], None] | None:
        """What to call when ``job``, which ``arm`` answers, was admitted; None where nothing is to be shadowed."""
        shadow = None if arm is None else self._table.shadow(arm.partition("@")[0])
        if shadow is None or shadow.arm.id == arm:
            return None
        if pick(shadow.salt, job.response_id, [(0, 100 - shadow.percent), (1, shadow.percent)]) == 0:
            return None
        return lambda: self._cast(shadow.arm, job, render, images=images)

    def _cast(self, arm: Arm, job: Job[Any], render: Render, *, images: bool) -> None:
        """Begin one in the background, or drop it. Never raises, never waits."""
        reason = self._obstacle(arm, images=images)
        if reason is not None:
            self._metrics.shadowed(arm.id, reason)
            return
        task = asyncio.create_task(self._follow(arm, job, render), name=f"shadow-{arm.id}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _obstacle(self, arm: Arm, *, images: bool) -> str | None:
        if images:
            return "images"  # their pixels are gone by now
        model = self._engine.model(arm.model)
        if model is None or model.state is not ModelState.READY:
            return "cold"
        return "crowded" if len(self._running) >= AT_ONCE or self._gates.crowded(arm.model) else None

    async def _follow(self, arm: Arm, job: Job[Any], render: Render) -> None:
        """One of them, until its end or until somebody else needs the room."""
        run = asyncio.ensure_future(self._run(arm, job, render))
        outcome = "completed"
        try:
            async with asyncio.timeout(MOST_SECONDS):
                while not run.done():
                    await asyncio.wait({run}, timeout=LOOK_SECONDS)
                    if self._gates.crowded(arm.model):
                        outcome = "crowded"
                        break
        except TimeoutError:
            outcome = "failed"
        finally:
            run.cancel()
            await asyncio.wait({run})
            if not run.cancelled():
                outcome = self._ended(arm, run.exception())
            self._metrics.shadowed(arm.id, outcome)

    def _ended(self, arm: Arm, error: BaseException | None) -> str:
        if error is None:
            return "completed"
        unexpected = None if isinstance(error, EngineError) else error
        log.warning("a shadow of %s failed: %s", arm.id, error or type(error).__name__, exc_info=unexpected)
        return "failed"

    async def _run(self, arm: Arm, job: Job[Any], render: Render) -> None:
        hold = await self._engine.hold(arm.model)
        try:
            prompts = job.prompts if arm.model == job.model.id else await render(arm.model)
            constraint, parsing = job.request.constraint(), job.request.parsing()
            if constraint is not None:
                await self._engine.constrain(arm.model, constraint, parsing, tenant=SHADOW)
            adapter = None if arm.adapter is None else await self._engine.hold_adapter(arm.model, arm.adapter)
            call = new_id("shadow-")
            try:
                requests = [
                    GenerationRequest(
                        request_id=f"{call}-{index}",
                        model=arm.model,
                        prompt=prompt,
                        sampling=sampling,
                        stream=False,
                        priority=PRIORITY,
                        cache_salt=job.cache_salt,
                        constraint=constraint,
                        parsing=parsing,
                        adapter=arm.adapter,
                        hold=adapter,
                    )
                    for index, (prompt, sampling) in enumerate(zip(prompts, job.samplings, strict=True))
                ]
                for request in requests:
                    self._engine.check(request)
                await self._generate(arm, call, requests)
            finally:
                if adapter is not None:
                    adapter.release()
        finally:
            hold.release()

    async def _generate(self, arm: Arm, call: str, requests: Sequence[GenerationRequest]) -> None:
        life = Life(self._ledger, call)
        sink = _Counting(life)
        life.admitted(
            principal=SHADOW,
            tenant=SHADOW,
            route=ROUTE,
            model=arm.model,
            adapter=arm.adapter,
            prompt_tokens=sum(len(request.prompt.token_ids) for request in requests),
            max_tokens=max(request.sampling.max_tokens for request in requests),
            n=sum(request.sampling.n for request in requests),
            arm=arm.id,
        )
        life.dispatched()
        try:
            await run_all([self._engine.run(request, sink) for request in requests])
        except asyncio.CancelledError:
            life.cached_tokens = sink.cached_tokens
            life.cancelled(completion_tokens=sink.tokens)
            raise
        except BaseException:
            life.cached_tokens = sink.cached_tokens
            life.failed("shadow_failed", completion_tokens=sink.tokens)
            raise
        life.cached_tokens = sink.cached_tokens
        life.completed(completion_tokens=sink.tokens, finish_reasons=tuple(sink.reasons))


class _Counting:
    """Counts what is generated, and drops it. See :class:`engine.types.DeltaSink`."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self.tokens = 0
        self.cached_tokens = 0
        self.reasons: list[FinishReason] = []

    def text(self, text: str, tokens: int) -> None:
        self.delta(Delta(0, text, tokens))

    def delta(self, delta: Delta) -> None:
        self._life.first_token()
        self.tokens += delta.tokens
        if delta.finish_reason is not None:
            self.reasons.append(delta.finish_reason)

    def cached(self, tokens: int) -> None:
        self.cached_tokens += tokens
