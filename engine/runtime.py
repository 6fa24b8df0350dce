"""One model's life: start, serve, watch, restart, drain, stop. The pool holds several of them."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from engine.adapters.account import AdapterAccount
from engine.adapters.elsewhere import AdaptersElsewhere
from engine.adapters.manager import AdapterManager
from engine.adapters.residency import Hold, Lora, LoraObserver, Unobserved
from engine.attachment import Attachments
from engine.config import EngineConfig, check_environment, check_versions, engine_arguments, may_sleep
from engine.core import EngineCore
from engine.metrics import VllmMetrics
from engine.pooling import Pooler
from engine.processes import EngineProcesses, descendants
from engine.pull import pull
from engine.speech.core import SpeechCore
from engine.structured.judge import GrammarJudge, JudgeLimits
from engine.types import (
    AdapterInfo,
    AdapterNotFound,
    AdapterSpec,
    Classes,
    Constraint,
    Conversation,
    Delta,
    DeltaSink,
    Embeddings,
    EngineState,
    EngineUnavailable,
    GenerationRequest,
    ModelInfo,
    Pairs,
    Parsing,
    Phase,
    PoolingRequest,
    Prompt,
    RequestRejected,
    TranscriptionCost,
    TranscriptionRequest,
    TranscriptSink,
    TransferFacts,
)
from engine.vision import images_of
from engine.watchdog import WatchdogLimits

log = logging.getLogger("sluice.engine")

TICK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Seconds. After ``give_up_after`` failures within ``window`` the engine stays down and says so."""

    first_delay: float = 0.5
    max_delay: float = 30.0
    give_up_after: int = 5
    window: float = 600.0


class VllmEngine:
    """One model on vLLM in this process. Use it from one event loop.

    ``starts`` is shared by all engines of a process, which are started one after the other; ``metrics`` is where vLLM's
    own are kept. With ``attachments`` the engine is somebody else's, who also starts it anew.
    Stopped once, it cannot be started again.
    """

    def __init__(
        self,
        config: EngineConfig,
        restarts: RestartPolicy | None = None,
        *,
        starts: asyncio.Lock | None = None,
        metrics: VllmMetrics | None = None,
        observer: LoraObserver | None = None,
        attachments: Attachments | None = None,
    ) -> None:
        self._config = config
        self._attachments = attachments
        self._starts = starts or asyncio.Lock()
        self._metrics = metrics
        self._policy = restarts or RestartPolicy()
        self._created = int(time.time())
        self._phase = Phase.STOPPED
        self._detail: str | None = None
        self._core: EngineCore | None = None
        self._failures: deque[float] = deque()
        self._restarts = 0
        self._slots = 0
        self._running = 0
        self._draining = False
        self._asleep = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._supervisor: asyncio.Task[None] | None = None
        # Lives as long as the engine may: its processes ask the kernel to die with this very thread.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sluice-engine")
        self._render = ThreadPoolExecutor(2, thread_name_prefix="sluice-render")
        self._files = ThreadPoolExecutor(1, thread_name_prefix="sluice-adapters")
        self._adapters = self._account(observer or Unobserved())
        self._judge = GrammarJudge(self._vocabulary, JudgeLimits(config.schema_seconds))

    def _account(self, observer: LoraObserver) -> AdapterAccount | None:
        """Of an engine that is somebody else's, the account of adapters is too."""
        config = self._config
        if config.adapters is None:
            return None
        if self._attachments is not None:
            return AdaptersElsewhere(self._attachments, self._settled)
        return AdapterManager(config.served_name, config.adapters, self, observer, self._files)

    # -- what it is ---------------------------------------------------------------------------------------------

    def info(self) -> ModelInfo:
        """The model, whatever its state."""
        core = self._core
        pooler = core.pooler if core else None
        return ModelInfo(
            self._config.served_name,
            self._created,
            core.context_length if core else 0,
            images=core is not None and core.vision is not None,
            reasoning=core is not None and core.parsers.marks is not None,
            kind=self._config.kind,
            phase=self._now(),
            labels=pooler.labels if pooler else (),
            width=pooler.width if pooler else 0,
        )

    def state(self) -> EngineState:
        """The engine now."""
        core = self._core
        return EngineState(
            phase=self._now(),
            running=core.load.running if core else 0,
            waiting=core.load.waiting if core else 0,
            queued_tokens=core.queued_tokens if core else 0,
            kv_usage=core.load.kv_usage if core else 0.0,
            restarts=self._restarts,
            detail=self._detail,
            generated_tokens=core.load.generated_tokens if core else 0,
            told_at=core.load.told_at if core else 0.0,
        )

    def slots(self) -> int:
        """Sequences that the engine batches at once; 0 before its first start."""
        return self._slots

    @property
    def busy(self) -> bool:
        """Whether a request runs."""
        return self._running > 0

    def memory_bytes(self) -> int:
        """Resident memory of its processes. Reads the process table: not for the event loop."""
        return self._core.processes.memory_bytes() if self._core is not None else 0

    @property
    def core(self) -> EngineCore | None:
        """The engine behind the facade, for oracles in tests; None while there is none."""
        return self._core

    def flush_metrics(self) -> None:
        """Bring vLLM's exported metrics up to date; call before a scrape."""
        if self._core is not None:
            self._core.flush_metrics()

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the model; returns when it can serve. Raises :class:`EngineUnavailable` if it cannot."""
        check_versions()
        check_environment(os.environ)
        self._enter(Phase.STARTING)
        await self._launch()
        self._enter(Phase.READY)
        if self._config.kind == "generate":
            self._judge.start()
        self._supervisor = asyncio.create_task(self._supervise(), name="engine-supervisor")

    async def drain(self) -> None:
        """Refuse new requests and return when none is left."""
        self._draining = True
        self._enter(Phase.DRAINING)
        await self._idle.wait()

    @property
    def can_sleep(self) -> bool:
        """Whether it may be put to sleep instead of being stopped. An engine that others share may not."""
        return self._attachments is None and may_sleep(self._config)

    async def sleep(self) -> int:
        """Move the weights to the machine's memory and drop the KV cache, while nobody uses it; bytes of a device that
        this freed. It answers nobody until :meth:`wake`. Raises whatever vLLM does.
        """
        self._asleep = True
        return await self._living().sleep()

    async def wake(self) -> None:
        """Undo :meth:`sleep`, and prove with one token that it answers. Raises whatever vLLM does."""
        core = self._living()
        await core.wake()
        await core.attach()
        self._asleep = False

    def kill(self) -> None:
        """End the engine's processes at once, without asking them. Call :meth:`stop` afterwards."""
        if self._core is not None:
            self._core.processes.kill(wait=0)

    async def stop(self) -> None:
        """End every request with :class:`EngineUnavailable` and leave no process behind. Idempotent."""
        if self._phase is Phase.STOPPED:
            return
        self._enter(Phase.STOPPED)
        if self._supervisor is not None:
            self._supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervisor
        await self._judge.stop()
        if self._adapters is not None:
            self._adapters.lost(EngineUnavailable("the engine is stopping"))
        if self._core is not None:
            core, self._core = self._core, None
            await core.close(self._thread)
        if self._metrics is not None:
            self._metrics.forget(self._config.served_name)
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._render.shutdown(wait=False, cancel_futures=True)
        self._files.shutdown(wait=False, cancel_futures=True)

    async def _launch(self) -> None:
        # What is started meanwhile would be taken for this engine's.
        async with self._starts:
            await self._launch_alone()

    async def _launch_alone(self) -> None:
        before = descendants()
        limits = WatchdogLimits(hang=self._config.hang_timeout)
        build = asyncio.get_running_loop().run_in_executor(self._thread, self._build, limits)
        try:
            core = await asyncio.shield(build)
            if self._metrics is not None:
                self._metrics.adopt(self._config.served_name)
            await core.attach()
        except asyncio.CancelledError:
            await self._abandon(build, before)
            raise
        except Exception as error:
            EngineProcesses.started_since(before).kill()
            log.exception("the engine did not start")
            raise EngineUnavailable(f"the engine did not start: {error}") from error
        self._core = core
        self._slots = core.slots
        if self._adapters is not None and (facts := core.adapter_facts()) is not None:
            self._adapters.started(facts)

    async def _abandon(self, build: asyncio.Future[EngineCore], before: frozenset[int]) -> None:
        """End a start-up: it cannot be interrupted, but without its children it fails by itself."""
        if self._attachments is not None:
            self._attachments.cancel()
        while not build.done():
            EngineProcesses.started_since(before).kill(wait=0)
            await asyncio.wait({build}, timeout=TICK_SECONDS)
        if build.exception() is None:
            await build.result().close(self._thread)

    def _build(self, limits: WatchdogLimits) -> EngineCore:
        config = self._config
        core = SpeechCore if config.kind == "transcribe" else EngineCore
        if (held := self._attachments) is not None:
            place = held.attach()
            return core.join(place, partial(held.lost, place), limits, config.tool_parser, config.kind)
        return core.build(engine_arguments(config), limits, config.tool_parser, config.kind)

    def _vocabulary(self) -> str:
        if self._core is None:
            raise EngineUnavailable("the engine is not ready")
        return self._core.vocabulary()

    def _enter(self, phase: Phase, detail: str | None = None) -> None:
        if phase is not self._phase:
            log.info("engine %s", phase.value, extra={"fields": {"detail": detail} if detail else {}})
        self._phase = phase
        self._detail = detail

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            core = self._core
            if core is None or core.dead:
                if self._asleep:
                    # Nobody misses it, and there may be no room for a new one: the pool starts one when it is wanted.
                    self._enter(Phase.FAILED, "the engine died in its sleep")
                    return
                if not await self._recover("the engine died"):
                    return
            elif core.watchdog.hangs():
                self._note_stall(core)
            else:
                if core.watchdog.wants_probe:
                    core.probe()
                if self._phase is Phase.STALLED:
                    log.warning("the engine answers again")
                    self._enter(Phase.DRAINING if self._draining else Phase.READY)

    def _note_stall(self, core: EngineCore) -> None:
        if self._phase in (Phase.READY, Phase.DRAINING):
            log.error(
                "the engine makes no progress", extra={"fields": {"silent_seconds": round(core.watchdog.silence, 1)}}
            )
            self._enter(Phase.STALLED, "no progress")
            core.fail_all("the engine makes no progress", only_waiting=True)
        elif core.watchdog.silence > self._config.kill_timeout:
            log.error("the engine hangs: killing it")
            core.processes.kill(wait=0)

    async def _recover(self, reason: str) -> bool:
        """Bring up a new engine, with back-off; False when it is time to stay down."""
        self._enter(Phase.RESTARTING, reason)
        log.error("%s: restarting it", reason)
        if self._adapters is not None:
            self._adapters.lost(EngineUnavailable(reason, retry_after=self._retry_after()))
        if self._core is not None:
            core, self._core = self._core, None
            await core.close(self._thread)
        while self._may_retry():
            await asyncio.sleep(self._delay())
            try:
                await self._launch()
            except EngineUnavailable:
                continue
            self._restarts += 1
            self._enter(Phase.DRAINING if self._draining else Phase.READY)
            return True
        self._enter(Phase.FAILED, f"{self._policy.give_up_after} failures in {self._policy.window:.0f} s")
        log.critical("the engine failed too often and stays down: restart the process when the cause is mended")
        return False

    def _may_retry(self) -> bool:
        now = time.monotonic()
        self._failures.append(now)
        while self._failures[0] < now - self._policy.window:
            self._failures.popleft()
        return len(self._failures) < self._policy.give_up_after

    def _delay(self) -> float:
        return min(self._policy.max_delay, self._policy.first_delay * 2 ** (len(self._failures) - 1))

    # -- serving ------------------------------------------------------------------------------------------------

    async def render_chat(self, model: str, conversation: Conversation) -> Prompt:
        """See :meth:`engine.types.Engine.render_chat`."""
        core = self._serving(model)
        if core.prompts.is_quick(conversation):
            return core.prompts.chat(conversation)
        prompt = await asyncio.get_running_loop().run_in_executor(self._render, core.prompts.chat, conversation)
        images = images_of(conversation.messages)
        return prompt if core.vision is None or not images else await core.vision.see(prompt, images)

    async def tokenize(
        self, model: str, text: str, *, keep_text: bool = False, add_special_tokens: bool = True
    ) -> Prompt:
        """See :meth:`engine.types.Engine.tokenize`."""
        prompts = self._serving(model).prompts
        work = partial(prompts.plain, text, keep_text, add_special_tokens=add_special_tokens)
        return await asyncio.get_running_loop().run_in_executor(self._render, work)

    async def detokenize(self, model: str, token_ids: Sequence[int]) -> str:
        """See :meth:`engine.types.Engine.detokenize`."""
        prompts = self._serving(model).prompts
        return await asyncio.get_running_loop().run_in_executor(self._render, prompts.decode, token_ids)

    async def constrain(
        self, model: str, constraint: Constraint | None, parsing: Parsing | None, *, tenant: str = ""
    ) -> None:
        """See :meth:`engine.types.Engine.constrain`."""
        core = self._serving(model)
        plan = await asyncio.get_running_loop().run_in_executor(self._render, core.checked_plan, constraint, parsing)
        if plan is not None:
            await self._judge.check(plan, tenant)

    async def token_strings(self, model: str, token_ids: Sequence[int]) -> Sequence[str]:
        """See :meth:`engine.types.Engine.token_strings`."""
        prompts = self._serving(model).prompts
        return await asyncio.get_running_loop().run_in_executor(self._render, prompts.strings, token_ids)

    def adapters(self) -> Sequence[AdapterInfo]:
        """See :meth:`engine.types.Engine.adapters`."""
        return () if self._adapters is None else self._adapters.infos()

    async def load_adapter(self, spec: AdapterSpec) -> AdapterInfo:
        """See :meth:`engine.types.Engine.load_adapter`."""
        return await self._taking_adapters(spec.model).load(spec)

    async def unload_adapter(self, model: str, name: str, *, drain: bool = False) -> None:
        """See :meth:`engine.types.Engine.unload_adapter`."""
        await self._taking_adapters(model).unload(name, drain=drain)

    async def hold_adapter(self, model: str, name: str) -> Hold:
        """See :meth:`engine.types.Engine.hold_adapter`."""
        adapters = self._taking_adapters(model)
        self._serving(model)
        return await adapters.hold(name)

    async def look_at_adapters(self) -> None:
        """See :meth:`engine.types.Engine.look_at_adapters`."""
        if self._adapters is not None:
            await self._adapters.look()

    def _taking_adapters(self, model: str) -> AdapterAccount:
        if self._adapters is None or model != self._config.served_name:
            raise AdapterNotFound(f"{model} takes no adapters")
        return self._adapters

    async def add_lora(self, lora: Lora) -> None:
        """See :class:`engine.adapters.residency.LoraEngine`."""
        await self._living().add_lora(lora)

    async def remove_lora(self, lora: Lora) -> None:
        """See :class:`engine.adapters.residency.LoraEngine`."""
        await self._living().remove_lora(lora)

    async def _settled(self) -> None:
        await self._living().settled()

    def _living(self) -> EngineCore:
        if self._core is None or self._core.dead:
            raise EngineUnavailable("there is no engine now", retry_after=self._retry_after())
        return self._core

    def check(self, request: GenerationRequest) -> None:
        """See :meth:`engine.types.Engine.check`."""
        self._serving(request.model).check(request)

    async def run(self, request: GenerationRequest, sink: DeltaSink) -> None:
        """See :meth:`engine.types.Engine.run`."""
        core = self._serving(request.model)
        self._running += 1
        self._idle.clear()
        try:
            if request.adapter is None:
                await core.run(request, sink)
            else:
                await self._run_with_adapter(core, request, sink)
        finally:
            self._ended()

    def transfer_facts(self, model: str) -> TransferFacts | None:
        """See :meth:`engine.types.Engine.transfer_facts`."""
        core = self._core
        serves = model == self._config.served_name and self._now() is Phase.READY
        return core.transfer_facts if core is not None and serves else None

    async def prefill(self, request: GenerationRequest, sink: DeltaSink) -> Mapping[str, object] | None:
        """See :meth:`engine.types.Engine.prefill`."""
        core = self._serving(request.model)
        self._running += 1
        self._idle.clear()
        try:
            return await core.prefill(request, sink)
        finally:
            self._ended()

    def _ended(self) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()

    async def tokenize_all(self, model: str, texts: Sequence[str]) -> Sequence[Prompt]:
        """See :meth:`engine.types.Engine.tokenize_all`."""
        prompts = self._serving(model).prompts
        return await asyncio.get_running_loop().run_in_executor(self._render, prompts.plain_all, texts)

    async def tokenize_pairs(self, model: str, pairs: Sequence[tuple[str, str]]) -> Pairs:
        """See :meth:`engine.types.Engine.tokenize_pairs`."""
        if self._config.kind == "embed":
            texts = list(dict.fromkeys(text for pair in pairs for text in pair))
            place = {text: index for index, text in enumerate(texts)}
            prompts = await self.tokenize_all(model, texts)
            return Pairs(prompts, [(place[first], place[second]) for first, second in pairs])
        builder = self._serving(model).prompts
        return Pairs(await asyncio.get_running_loop().run_in_executor(self._render, builder.pairs, pairs), None)

    def check_prompts(self, request: PoolingRequest) -> None:
        """See :meth:`engine.types.Engine.check_prompts`."""
        self._serving(request.model).check_prompts(request)

    async def embed(self, request: PoolingRequest) -> Embeddings:
        """See :meth:`engine.types.Engine.embed`."""
        pooler, rows = await self._pooled(request)
        return pooler.embeddings(request, rows)

    async def classify(self, request: PoolingRequest) -> Classes:
        """See :meth:`engine.types.Engine.classify`."""
        pooler, rows = await self._pooled(request)
        return pooler.classes(rows)

    async def score(self, request: PoolingRequest) -> Sequence[float]:
        """See :meth:`engine.types.Engine.score`."""
        pooler, rows = await self._pooled(request)
        return pooler.scores(request, rows)

    async def _pooled(self, request: PoolingRequest) -> tuple[Pooler, Sequence[Any]]:
        core = self._serving(request.model)
        self._running += 1
        self._idle.clear()
        try:
            rows = await core.pool(request)
        finally:
            self._ended()
        assert core.pooler is not None
        return core.pooler, rows

    async def transcription_cost(self, request: TranscriptionRequest) -> TranscriptionCost:
        """See :meth:`engine.types.Engine.transcription_cost`."""
        core = self._hearing(request.model)
        return await asyncio.get_running_loop().run_in_executor(self._render, core.transcription_cost, request)

    async def transcribe(self, request: TranscriptionRequest, sink: TranscriptSink) -> None:
        """See :meth:`engine.types.Engine.transcribe`."""
        core = self._hearing(request.model)
        self._running += 1
        self._idle.clear()
        try:
            await core.transcribe(request, sink)
        finally:
            self._ended()

    def _hearing(self, model: str) -> SpeechCore:
        core = self._serving(model)
        if not isinstance(core, SpeechCore):
            raise RequestRejected("This model does not transcribe.", param="model", code="model_kind_mismatch")
        return core

    async def _run_with_adapter(self, core: EngineCore, request: GenerationRequest, sink: DeltaSink) -> None:
        assert request.adapter is not None
        hold = request.hold or await self.hold_adapter(request.model, request.adapter)
        assert isinstance(hold, Hold)
        try:
            if not hold.valid:
                raise EngineUnavailable("the engine was restarted", retry_after=self._retry_after())
            await core.run(request, sink, hold.lora)
        finally:
            if hold is not request.hold:
                hold.release()

    def generate(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        """See :meth:`engine.types.Engine.generate`."""
        return pull(self, request)

    def _serving(self, model: str) -> EngineCore:
        if model != self._config.served_name:
            raise RequestRejected("unknown model", param="model")
        core = self._core
        if self._phase is not Phase.READY or core is None or core.dead or self._asleep:
            raise EngineUnavailable(f"the engine is {self._now().value}", retry_after=self._retry_after())
        return core

    def _now(self) -> Phase:
        """The phase, also in the moment between the engine's death and the supervisor's next look."""
        died = self._core is not None and self._core.dead and self._phase in (Phase.READY, Phase.STALLED)
        return Phase.RESTARTING if died else self._phase

    def _retry_after(self) -> float:
        return 15.0 if self._now() in (Phase.STARTING, Phase.RESTARTING) else 5.0
