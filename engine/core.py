"""One ``AsyncLLM`` and what surrounds it: built and shut down on one lasting thread, restarted by the runtime.

Fence around vLLM's ``AsyncLLM`` (vllm/v1/engine/async_llm.py, checked against 0.32.0).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

from vllm import PoolingParams, SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.loggers import StatLoggerBase
from xgrammar import TokenizerInfo

from engine.adapters.facts import Facts
from engine.adapters.residency import Lora
from engine.adapters.series import bound_lora_series
from engine.attachment import Attachment
from engine.config import AUTOMATIC, POOLED, on_cpu
from engine.hotpath import HotPath, batch_token_histograms
from engine.layout import Layout, cores_divided
from engine.lora_cpu import CPU_LORA
from engine.machine import allowed_cores
from engine.output import Generation, as_engine_error, note_times
from engine.parsing.choose import parsers_of
from engine.parsing.sink import ParsingSink
from engine.plugin import GATEWAY_PID
from engine.pooling import Batch, Pooler, prompt_id
from engine.processes import EngineProcesses, descendants
from engine.prompt import PromptBuilder, chat_template
from engine.sampling import check_bounds, check_speculation, to_vllm
from engine.sleeping import FREE_MEMORY
from engine.structured.plan import Plan, check_constraint, plan_of
from engine.structured.uncut import UncutSink
from engine.transfer import PREFILL_ONLY, facts_of
from engine.types import (
    Constraint,
    DeltaSink,
    EngineOverloaded,
    EngineUnavailable,
    GenerationRequest,
    ModelKind,
    Parsing,
    PoolingRequest,
    PromptTooLong,
    RequestRejected,
    Sampling,
)
from engine.vision import Vision, engine_input
from engine.watchdog import Watchdog, WatchdogLimits

SHUTDOWN_SECONDS = 5.0
#: Finished requests that the estimate for Retry-After looks back on.
RATE_SAMPLES = 64


class SchedulerLoad(StatLoggerBase):
    """Keeps the scheduler's last word: sequences running and waiting, and the share of KV cache in use; and counts
    what was generated.
    """

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:  # noqa: ARG002 - vLLM's signature
        self.running = 0
        self.waiting = 0
        self.kv_usage = 0.0
        self.generated_tokens = 0
        self.told_at = 0.0

    def record(self, scheduler_stats: Any, iteration_stats: Any = None, *_: Any, **__: Any) -> None:
        """Called by vLLM once per engine step."""
        if scheduler_stats is not None:
            self.running = scheduler_stats.num_running_reqs
            self.waiting = scheduler_stats.num_waiting_reqs
            self.kv_usage = scheduler_stats.kv_cache_usage
            self.told_at = time.monotonic()
        if iteration_stats is not None:
            self.generated_tokens += iteration_stats.num_generation_tokens

    def log(self) -> None:
        """Nothing to print: the metrics say it."""

    def log_engine_initialized(self) -> None:
        """Nothing to print."""


class EngineLoad:
    """The load of all copies of the model together; ``kv_usage`` is their mean."""

    def __init__(self, copies: Sequence[SchedulerLoad]) -> None:
        self._copies = copies

    @property
    def running(self) -> int:
        """Sequences in the batches."""
        return sum(each.running for each in self._copies)

    @property
    def waiting(self) -> int:
        """Sequences that wait for a slot."""
        return sum(each.waiting for each in self._copies)

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache in use, 0 to 1."""
        return sum(each.kv_usage for each in self._copies) / len(self._copies)

    @property
    def generated_tokens(self) -> int:
        """Tokens since the engine's last start."""
        return sum(each.generated_tokens for each in self._copies)

    @property
    def told_at(self) -> float:
        """When the engine last said so, by the machine's monotonic clock: to one of its clients at a time."""
        return max(each.told_at for each in self._copies)


def _lora_request(lora: Lora) -> LoRARequest:
    return LoRARequest(lora_name=lora.name, lora_int_id=lora.id, lora_path=lora.path)


class EngineCore:
    """A started engine. Construct with :meth:`build` on a lasting thread, then :meth:`attach` on the loop."""

    def __init__(
        self,
        llm: AsyncLLM,
        processes: EngineProcesses,
        load: EngineLoad,
        limits: WatchdogLimits,
        tool_parser: str = AUTOMATIC,
        kind: ModelKind = "generate",
        lost: Callable[[], bool] | None = None,
    ) -> None:
        self._llm = llm
        # None: the engine is ours, and ends with us.
        self._lost = lost
        self._load = load
        self.processes = processes
        self.watchdog = Watchdog(limits, processes.cpu_seconds)
        self.context_length: int = llm.model_config.max_model_len
        copies = llm.vllm_config.parallel_config.data_parallel_size
        self.slots: int = llm.vllm_config.scheduler_config.max_num_seqs * copies
        self.vocab_size: int = llm.model_config.get_vocab_size()
        self.parsers = parsers_of(llm, tool_parser, chat_template(llm.get_tokenizer()))
        reasons = self.parsers.marks is not None
        self.vision = Vision.of(llm)
        self.prompts = PromptBuilder(
            llm.get_tokenizer(),
            llm.model_config,
            self.context_length,
            reasons=reasons,
            placeholder=None if self.vision is None else self.vision.placeholder,
        )
        self.transfer_facts = facts_of(llm.vllm_config)
        self._speculates = llm.vllm_config.speculative_config is not None
        self._tokenizer = llm.get_tokenizer()
        self._hotpath = HotPath(llm, self.watchdog.sign_of_life)
        self._histograms = batch_token_histograms(llm)
        self.pooler = Pooler(llm, kind, self.context_length) if kind in POOLED else None
        self._generations: set[Generation | Batch] = set()
        bound_lora_series(llm)
        self._probe: asyncio.Task[None] | None = None
        self._finishes: deque[float] = deque([time.monotonic()], maxlen=RATE_SAMPLES)
        self._closing: set[asyncio.Task[None]] = set()

    @classmethod
    def build(
        cls,
        arguments: Mapping[str, Any],
        limits: WatchdogLimits,
        tool_parser: str = AUTOMATIC,
        kind: ModelKind = "generate",
    ) -> EngineCore:
        """Start the processes and load the model; blocks for as long as that takes. ``tool_parser``: see config.

        One at a time in a process: what is started meanwhile is taken for this engine's.
        """
        os.environ[GATEWAY_PID] = str(os.getpid())
        if arguments.get("enable_lora") and on_cpu():
            os.environ[CPU_LORA] = "1"  # for good: an engine without adapters is only a little slower to start
        before = descendants()
        loads: list[SchedulerLoad] = []

        def keep_load(vllm_config: Any, engine_index: int = 0) -> SchedulerLoad:
            loads.append(SchedulerLoad(vllm_config, engine_index))
            return loads[-1]

        with cores_divided(Layout.of(arguments), allowed_cores()) if on_cpu() else nullcontext():
            llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=[keep_load])
        try:
            return cls(llm, EngineProcesses.started_since(before), EngineLoad(loads), limits, tool_parser, kind)
        except EngineUnavailable:
            llm.shutdown()
            raise

    @classmethod
    def join(
        cls,
        place: Attachment,
        lost: Callable[[], bool],
        limits: WatchdogLimits,
        tool_parser: str = AUTOMATIC,
        kind: ModelKind = "generate",
    ) -> EngineCore:
        """Take a place at a running engine. ``lost``: whether its holder says that it is gone."""
        os.environ[GATEWAY_PID] = str(os.getpid())
        loads: list[SchedulerLoad] = []

        def keep_load(vllm_config: Any, engine_index: int = 0) -> SchedulerLoad:
            loads.append(SchedulerLoad(vllm_config, engine_index))
            return loads[-1]

        arguments = AsyncEngineArgs(**place.arguments)
        addresses = {"input_address": place.input_address, "output_address": place.output_address}
        if place.stats_address is not None:
            addresses["stats_update_address"] = place.stats_address
        llm = AsyncLLM.from_vllm_config(
            arguments.create_engine_config(UsageContext.ENGINE_CONTEXT),
            stat_loggers=[keep_load],
            client_addresses=addresses,
            client_count=place.clients,
            client_index=place.client,
        )
        processes = EngineProcesses.of(place.pids)
        core = cls(llm, processes, EngineLoad(loads), limits, tool_parser, kind, lost)
        core.slots = -(-core.slots // place.clients)
        return core

    async def attach(self) -> None:
        """Bind to the running event loop and prove with one token that the engine answers."""
        if self.pooler is not None:
            async for _ in self._llm.encode(tokens_input([0]), PoolingParams(task=self.pooler.task), "sluice-warm-up"):
                pass
            self.watchdog.sign_of_life()
            return
        params = SamplingParams(max_tokens=1, temperature=0.0, output_kind=RequestOutputKind.FINAL_ONLY)
        async for _ in self._llm.generate(tokens_input([0]), params, "sluice-warm-up"):
            pass
        self.watchdog.sign_of_life()

    @property
    def dead(self) -> bool:
        """Whether vLLM has given this engine up."""
        return bool(self._llm.errored) or (self._lost is not None and self._lost())

    async def settled(self) -> None:
        """Return when the engine has heard all that was said to it: it listens to each client in order.

        Raises :class:`EngineUnavailable`.
        """
        try:
            await self._llm.engine_core.call_utility_async("is_sleeping")
        except Exception as error:
            raise EngineUnavailable("the engine died") from error

    async def sleep(self) -> int:
        """Move the weights to the machine's memory and drop the KV cache; bytes that the fullest device gained."""
        before = await self._free_memory()
        await self._llm.sleep(level=1)
        return max(0, await self._free_memory() - before)

    async def wake(self) -> None:
        """Bring the weights back."""
        if not await self._llm.wake_up():
            raise EngineUnavailable("the engine did not wake up")

    async def _free_memory(self) -> int:
        return int(await self._llm.engine_core.call_utility_async(FREE_MEMORY))

    @property
    def load(self) -> EngineLoad:
        """The scheduler's last word."""
        return self._load

    @property
    def unfinished(self) -> int:
        """Sequences that vLLM still keeps state for."""
        return len(self._llm.output_processor.request_states)

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens of sequences still in prefill."""
        return int(self._llm.get_num_queued_tokens())

    def flush_metrics(self) -> None:
        """Bring vLLM's exported histograms up to date; call before a scrape."""
        for histogram in self._histograms:
            histogram.flush()

    def check(self, request: GenerationRequest) -> None:
        """See :meth:`engine.types.Engine.check`."""
        self._check_fits(len(request.prompt.token_ids), request.sampling.max_tokens)
        if request.prompt.media is None:  # else its ids are not the caller's
            self.prompts.check_ids(request.prompt.token_ids)
        check_bounds(request.sampling, self.vocab_size)
        if self._speculates:
            check_speculation(request.sampling)

    def plan(self, constraint: Constraint | None, parsing: Parsing | None) -> Plan | None:
        """What the output is held to; None if it is free. Raises :class:`RequestRejected` for a strict tool that
        this model's calls cannot be held to.
        """
        if constraint is not None:
            return plan_of(constraint)
        tag = self.parsers.grammar(parsing)
        return None if tag is None else Plan("structural_tag", tag, "tools")

    def checked_plan(self, constraint: Constraint | None, parsing: Parsing | None) -> Plan | None:
        """:meth:`plan`, when its schemas have been looked through: takes milliseconds.

        Raises :class:`RequestRejected` naming the field at fault.
        """
        if constraint is not None:
            check_constraint(constraint)
        self.parsers.check_tools(parsing)
        return self.plan(constraint, parsing)

    def vocabulary(self) -> str:
        """xgrammar's view of the tokeniser (``TokenizerInfo``), as JSON."""
        return str(TokenizerInfo.from_huggingface(self._tokenizer, vocab_size=self.vocab_size).serialize_json())

    def _check_fits(self, prompt_tokens: int, max_tokens: int) -> None:
        if prompt_tokens == 0:
            raise RequestRejected("The prompt is empty.", param="prompt")
        if prompt_tokens >= self.context_length:
            raise PromptTooLong(prompt_tokens=prompt_tokens, limit=self.context_length)
        if prompt_tokens + max_tokens > self.context_length:
            raise PromptTooLong(prompt_tokens=prompt_tokens, limit=self.context_length, max_tokens=max_tokens)

    def adapter_facts(self) -> Facts | None:
        """What the engine can do with adapters; None if it takes none."""
        return Facts.of(self._llm.vllm_config)

    async def add_lora(self, lora: Lora) -> None:
        """See :class:`engine.adapters.residency.LoraEngine`."""
        try:
            await self._llm.add_lora(_lora_request(lora))
        except Exception as error:
            if self.dead:
                raise EngineUnavailable("the engine died") from error
            with suppress(Exception):
                await self._llm.remove_lora(lora.id)  # it can be listed all the same
            raise

    async def remove_lora(self, lora: Lora) -> None:
        """See :class:`engine.adapters.residency.LoraEngine`."""
        try:
            await self._llm.remove_lora(lora.id)
        except Exception as error:
            raise as_engine_error(error) from error

    async def loras(self) -> set[int]:
        """The ids of those in the engine: the oracle of residency."""
        return set(await self._llm.list_loras())

    async def run(self, request: GenerationRequest, sink: DeltaSink, lora: Lora | None = None) -> None:
        """See :meth:`engine.types.Engine.run`. ``lora`` is held by the caller."""
        await self._generate(request, sink, lora)

    async def prefill(self, request: GenerationRequest, sink: DeltaSink) -> Mapping[str, object] | None:
        """See :meth:`engine.types.Engine.prefill`."""
        if self.transfer_facts is None:
            raise RequestRejected("this engine hands no KV cache on", param="model")
        alone = replace(request, sampling=Sampling(max_tokens=1, temperature=0.0), transfer=PREFILL_ONLY, stream=False)
        return (await self._generate(alone, sink, None)).transfer

    async def _generate(self, request: GenerationRequest, sink: DeltaSink, lora: Lora | None) -> Generation:
        self.check(request)
        params = to_vllm(request.sampling, stream=request.stream)
        if request.transfer is not None:
            params.extra_args = {"kv_transfer_params": dict(request.transfer)}
        if (plan := self.plan(request.constraint, request.parsing)) is not None:
            params.structured_outputs = plan.to_vllm()
            sink = UncutSink(sink, json=request.constraint is not None and plan.kind == "json")
        reading = self.parsers.reading(request.parsing, request.prompt.token_ids)
        if reading is not None:
            sink = ParsingSink(sink, reading.splitter)
            params.skip_special_tokens = not reading.keeps_special_tokens
        counter = None if reading is None else reading.counter
        generation = Generation(sink, self._tokenizer, request.sampling.logprobs, asyncio.get_running_loop(), counter)
        self._generations.add(generation)
        internal_id = None
        clocks: list[Any] = []
        try:
            internal_id = await self._submit(request, params, generation, sink, lora)
            if request.times is not None:
                clocks = self._clocks(internal_id, request.sampling.n)
            await generation.done
            self._finishes.append(time.monotonic())
        except BaseException:
            await self._abort(request.request_id)
            raise
        finally:
            self._generations.discard(generation)
            if internal_id is not None:
                self._hotpath.remove(internal_id)
            if request.times is not None:
                note_times(request.times, clocks)
        return generation

    async def pool(self, request: PoolingRequest) -> Sequence[Any]:
        """vLLM's tensor for each prompt of ``request``. Cancelling aborts all of them."""
        pooler = self._pooling()
        pooler.check(request, self.prompts.check_ids)
        batch = Batch(len(request.prompts), asyncio.get_running_loop())
        self._generations.add(batch)
        try:
            with self._refusals():
                await pooler.submit(request, batch)
            await batch.done
            self._finishes.append(time.monotonic())
        except BaseException:
            await self._abort([prompt_id(request.request_id, index) for index in range(len(request.prompts))])
            raise
        finally:
            self._generations.discard(batch)
        return batch.rows

    def _pooling(self) -> Pooler:
        if self.pooler is None:
            raise RequestRejected("this model generates", param="model", code="model_kind_mismatch")
        return self.pooler

    def check_prompts(self, request: PoolingRequest) -> None:
        """See :meth:`engine.types.Engine.check_prompts`."""
        self._pooling().check(request, self.prompts.check_ids)

    async def _submit(
        self,
        request: GenerationRequest,
        params: SamplingParams,
        generation: Generation,
        sink: DeltaSink,
        lora: Lora | None,
    ) -> str:
        with self._refusals():
            queue = await self._llm.add_request(
                request.request_id,
                engine_input(request.prompt, request.cache_salt),
                params,
                arrival_time=time.time(),
                lora_request=None if lora is None else _lora_request(lora),
                priority=request.priority,
            )
        if request.sampling.n > 1 and not request.stream:
            # The name that vllm/v1/engine/parallel_sampling.py gives it.
            generation.count_cached_of(self._llm.output_processor.request_states.get(f"0_{queue.request_id}"))
        queue.put = generation.put
        if (early := queue.output) is not None:
            generation.put(early)
        if request.stream and not generation.counts:
            self._hotpath.add(queue.request_id, generation, sink, request.sampling)
        return str(queue.request_id)

    def _clocks(self, internal_id: str, choices: int) -> list[Any]:
        """vLLM's ``RequestStateStats`` of a request's choices, which note its phases; it forgets them at the end.

        Choices of one prompt have the names that vllm/v1/engine/parallel_sampling.py gives them.
        """
        names = [internal_id] if choices == 1 else [f"{index}_{internal_id}" for index in range(choices)]
        known = self._llm.output_processor.request_states
        return [state.stats for name in names if (state := known.get(name)) is not None and state.stats is not None]

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """vLLM's own refusals of a new request as the facade's."""
        try:
            yield
        except VLLMClientError as error:
            raise RequestRejected(str(error), param=getattr(error, "parameter", None)) from error
        except GracefulHTTPError as error:
            raise EngineOverloaded(str(error), retry_after=self._wait_estimate()) from error
        except Exception as error:
            raise as_engine_error(error) from error

    def _wait_estimate(self) -> float:
        """Seconds until the queue as it is now has been served, at the rate of the last finishes; 1 to 60."""
        elapsed = time.monotonic() - self._finishes[0]
        return min(60.0, max(1.0, self.unfinished * elapsed / len(self._finishes)))

    async def _abort(self, request_id: str | list[str]) -> None:
        """Free the engine's slot even if our own task is cancelled a second time meanwhile."""
        if self.dead:
            return
        task = asyncio.ensure_future(self._llm.abort(request_id))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        await asyncio.shield(task)

    def fail_all(self, reason: str, *, only_waiting: bool = False) -> None:
        """End running generations (or only those without a token yet) with :class:`EngineUnavailable`."""
        for generation in list(self._generations):
            if not (only_waiting and generation.started):
                generation.fail(EngineUnavailable(reason))

    def probe(self) -> None:
        """Ask the core for a sign of life, unless one question is still open."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.ensure_future(self._ask())

    async def _ask(self) -> None:
        try:
            await self._llm.engine_core.call_utility_async("is_sleeping")
        except Exception:  # noqa: BLE001 - a dead engine is seen by `dead`; this only feeds the watchdog
            return
        self.watchdog.sign_of_life()

    async def cache_is_free(self) -> bool:
        """True only if every KV block is free: the leak oracle (vllm/v1/core/block_pool.py)."""
        return bool(await self._llm.reset_prefix_cache())

    async def close(self, thread: ThreadPoolExecutor) -> None:
        """Shut down and leave no process behind. Idempotent."""
        self.fail_all("the engine is stopping")
        if self._probe is not None:
            self._probe.cancel()
        shutdown = asyncio.get_running_loop().run_in_executor(thread, self._shutdown)
        await shutdown

    def _shutdown(self) -> None:
        if self._lost is not None:
            self._llm.shutdown()
            return
        if self.dead or self.watchdog.hangs():
            self.processes.kill()  # it would not listen
        self._llm.shutdown(timeout=SHUTDOWN_SECONDS)
        self.processes.kill()
