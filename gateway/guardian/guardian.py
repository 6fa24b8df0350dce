"""The guard of a deployment: its policies, its evaluators, and what runs beside the requests."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from typing import Any, Final

from engine.types import Engine
from gateway.guardian.check import GuardPolicy, Passages, Subject, Unwatched, Watch
from gateway.guardian.court import Court
from gateway.guardian.policy import Policy, PolicySet
from gateway.guardian.watch import RequestWatch
from gateway.settings.guard import GuardPolicies

log = logging.getLogger("sluice.guardian")

#: Looks of shadow mode that run at once; more are left out.
MAX_BACKGROUND: Final = 64
#: Seconds between two looks after evaluators that failed.
PROBE_SECONDS: Final = 1.0


class Guardian:
    """A :class:`gateway.guardian.check.Guard` and a :class:`gateway.lifecycle.Service`. Use from one event loop."""

    def __init__(
        self,
        court: Court,
        engine: Engine,
        declared: GuardPolicies,
        worker: Executor,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.court = court
        #: The policies as they were declared, and as they are applied; both may be replaced while requests run.
        self.declared = declared
        self._policies: PolicySet = declared.policies()
        #: What a running request keeps to, and who is told of policies that an administrator sets.
        self.seen: Callable[[], PolicySet | None] = lambda: None
        self.on_change: Callable[[PolicySet], None] = lambda _policies: None
        #: The paths that a policy may name; empty while they are not known.
        self.routes: frozenset[str] = frozenset()
        self._engine = engine
        self._worker = worker
        self._chance = chance
        self._unwatched = Unwatched()
        self._background: set[asyncio.Task[None]] = set()
        self._prober: asyncio.Task[None] | None = None

    def policy(self, subject: Subject) -> Policy:
        """What applies to ``subject`` now."""
        return (self.seen() or self._policies).policy(subject)

    def declare(self, declared: GuardPolicies) -> None:
        """From now on ``declared`` applies."""
        self.declared = declared
        self.policies = declared.policies()

    @property
    def policies(self) -> PolicySet:
        """The policies of today."""
        return self._policies

    @policies.setter
    def policies(self, policies: PolicySet) -> None:
        self._policies = policies
        self.on_change(policies)

    def watch(self, subject: Subject) -> Watch:
        """See :class:`gateway.guardian.check.Guard`."""
        return self._watch(subject) or self._unwatched

    async def check_input(self, subject: Subject, passages: Passages) -> bool:
        """See :class:`gateway.guardian.check.Guard`."""
        watch = self._watch(subject)
        if watch is not None:
            await watch.check(passages)
        return watch is not None and watch.flagged

    def _watch(self, subject: Subject) -> RequestWatch | None:
        if subject.policy is not GuardPolicy.GENERATION:
            return None
        policy = self.policy(subject)
        if not (policy.input or policy.output):
            return None
        looked_at = policy.action != "shadow" or self._chance() < policy.sample
        return RequestWatch(self.court, self._engine, policy, subject, self._in_background, looked_at=looked_at)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._background) >= MAX_BACKGROUND:
            work.close()
            self.court.observer.failed("shadow", "busy")
            return
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a look in shadow mode failed: %s", error)

    # -- beside the requests --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """See :class:`gateway.lifecycle.Service`."""
        risks = sorted(self.court.thresholds(self.policies.base))
        log.info("guard on", extra={"fields": {"risks": risks, "action": self.policies.base.action}})
        self._prober = asyncio.create_task(self._probe(), name="guard-prober")

    async def _probe(self) -> None:
        """Whether evaluators answer is known by asking them, also when no request comes (any more)."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await self.court.panel.probe(self.policies.base.timeout)

    async def stop(self) -> None:
        """See :class:`gateway.lifecycle.Service`."""
        running = [*self._background, *([] if self._prober is None else [self._prober])]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self.court.panel.close()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def degraded(self) -> Sequence[str]:
        """See :class:`gateway.lifecycle.Service`."""
        return [f"guard evaluator {name} does not answer" for name in self.court.panel.resting()]
