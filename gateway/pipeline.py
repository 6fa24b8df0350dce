"""The request's way, for every endpoint that runs a model. Read :meth:`Pipeline.generate` from top to bottom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from msgspec import structs

from engine.types import Engine, EngineError, GenerationRequest, ModelInfo, Prompt, PromptTooLong, Sampling
from gateway.access.identify import Identity, require_scope
from gateway.access.principal import Principal
from gateway.admission import Admission
from gateway.errors import SERVER, ApiError, from_engine, model_not_found, queue_timeout
from gateway.exchange import Exchange
from gateway.guardian.check import Guard
from gateway.limits.reserve import Lease, Limits
from gateway.observability.metrics import Metrics
from gateway.protocol.encode import Encoder, Usage, new_id
from gateway.protocol.sampling import GenerationFields, RequestBounds
from gateway.sinks import Meter, OffsetSink, StreamSink, WholeSink
from gateway.usage.ledger import Ledger
from gateway.usage.life import Life

#: Bodies above this many bytes are decoded off the event loop.
INLINE_BYTES = 32 * 1024

T = TypeVar("T", bound=GenerationFields)


class Surface(Protocol, Generic[T]):
    """What differs between endpoints that generate text."""

    id_prefix: str
    prompt_param: str

    def parse(self, body: bytes, bounds: RequestBounds) -> T:
        """The checked request. Raises :class:`ApiError` 400."""

    def texts(self, request: T) -> Sequence[str]:
        """Everything in the request that a guard must see."""

    async def prompts(self, request: T, engine: Engine) -> Sequence[Prompt]:
        """The prompts as tokens."""

    def encoder(self, request: T, response_id: str, prompts: Sequence[Prompt]) -> Encoder:
        """The writer of this request's answer."""


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """A request that is ready for admission."""

    request: T
    response_id: str
    prompts: Sequence[Prompt]
    samplings: Sequence[Sampling]
    encoder: Encoder
    prompt_param: str

    @property
    def prompt_tokens(self) -> int:
        """Over all prompts."""
        return sum(len(prompt.token_ids) for prompt in self.prompts)

    @property
    def max_tokens(self) -> int:
        """Most completion tokens of one choice."""
        return max(sampling.max_tokens for sampling in self.samplings)

    @property
    def choices(self) -> int:
        """Over all prompts."""
        return len(self.prompts) * self.request.n


@dataclass(frozen=True, slots=True)
class Policy:
    """What the deployment allows. Times in seconds."""

    bounds: RequestBounds
    max_body_bytes: int
    request_timeout: float


class Pipeline:
    """Holds every stage; knows their order."""

    def __init__(
        self,
        *,
        engine: Engine,
        identity: Identity,
        admission: Admission,
        limits: Limits,
        guard: Guard,
        ledger: Ledger,
        metrics: Metrics,
        policy: Policy,
        decoder: Executor,
    ) -> None:
        self._engine = engine
        self._identity = identity
        self._admission = admission
        self._limits = limits
        self._guard = guard
        self._ledger = ledger
        self._metrics = metrics
        self._policy = policy
        self._decoder = decoder
        self.streams: set[StreamSink] = set()

    def authorize(self, exchange: Exchange) -> Principal:
        """Identify the caller and check the route's scope. Raises :class:`ApiError` 401 or 403."""
        route = exchange.route
        assert route is not None
        assert route.scope is not None
        exchange.principal = self._identity.identify(exchange.scope["headers"])
        require_scope(exchange.principal, route.scope)
        return exchange.principal

    async def generate(self, exchange: Exchange, surface: Surface[T]) -> None:
        """One generation, from its headers to the settled account."""
        exchange.life = Life(self._ledger, new_id(surface.id_prefix), received_at=exchange.received)
        principal = self.authorize(exchange)
        self._admission.require_open()
        deadline = exchange.deadline(self._policy.request_timeout)
        body = await exchange.json_body(self._policy.max_body_bytes)
        request = await self._decode(surface, body)
        model = self._resolve(request.model, principal)
        exchange.model = model.id
        exchange.streaming = request.stream
        exchange.labels = request.labels()
        try:
            async with asyncio.timeout(deadline - (time.monotonic() - exchange.received)):
                prompts = await self._render(surface, request)
                job = self._plan(surface, request, prompts, model, exchange.life.request_id)
                lease = await self._reserve(exchange, principal, job)
                try:
                    await self._guard_input(exchange, principal, surface, request)
                    await self._admitted(exchange, exchange.life, principal, job)
                finally:
                    # Nothing was used by a request that was not admitted.
                    lease.settle(prompt_tokens=exchange.tokens[0], completion_tokens=exchange.tokens[1])
        except TimeoutError:
            raise self._too_late(exchange) from None

    # -- before admission ---------------------------------------------------------------------------------------

    async def _decode(self, surface: Surface[T], body: bytes) -> T:
        if len(body) <= INLINE_BYTES:
            return surface.parse(body, self._policy.bounds)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._decoder, surface.parse, body, self._policy.bounds)

    def _resolve(self, name: str, principal: Principal) -> ModelInfo:  # noqa: ARG002 - allow-lists follow
        for model in self._engine.models():
            if model.id == name:
                return model
        raise model_not_found()

    async def _render(self, surface: Surface[T], request: T) -> Sequence[Prompt]:
        try:
            return await surface.prompts(request, self._engine)
        except EngineError as error:
            raise from_engine(error, prompt_param=surface.prompt_param) from error

    def _plan(
        self, surface: Surface[T], request: T, prompts: Sequence[Prompt], model: ModelInfo, response_id: str
    ) -> Job[T]:
        sampling = request.to_sampling(self._policy.bounds)
        # A wish above the server's bound was clamped, so what is left of it is not the caller's own number any more.
        explicit = (
            request.requested_max_tokens or self._policy.bounds.max_tokens + 1
        ) <= self._policy.bounds.max_tokens
        try:
            samplings = [_fit(sampling, len(prompt.token_ids), model.context_length, explicit) for prompt in prompts]
            encoder = surface.encoder(request, response_id, prompts)
            job = Job(request, response_id, prompts, samplings, encoder, surface.prompt_param)
            for index in range(len(prompts)):
                self._engine.check(_generation(job, index))
        except EngineError as error:
            raise from_engine(error, prompt_param=surface.prompt_param) from error
        return job

    async def _reserve(self, exchange: Exchange, principal: Principal, job: Job[Any]) -> Lease:
        assert exchange.route is not None
        return await self._limits.reserve(
            principal,
            exchange.route.limit_class,
            prompt_tokens=job.prompt_tokens,
            max_tokens=job.max_tokens * job.choices,
        )

    async def _guard_input(self, exchange: Exchange, principal: Principal, surface: Surface[T], request: T) -> None:
        assert exchange.route is not None
        await self._guard.check_input(principal, exchange.route.guard, surface.texts(request))

    # -- admitted: from here on the request is accounted for ------------------------------------------------------

    async def _admitted(self, exchange: Exchange, life: Life, principal: Principal, job: Job[Any]) -> None:
        meter = Meter(lambda: self._first_token(exchange, life))
        completed = False
        self._admission.enter()
        self._metrics.in_flight.inc()
        life.admitted(
            principal=principal.id,
            route=exchange.route.path if exchange.route else "",
            model=job.request.model,
            prompt_tokens=job.prompt_tokens,
            max_tokens=job.max_tokens,
            n=job.choices,
            http_request_id=exchange.request_id,
        )
        try:
            life.dispatched()
            await self._run(exchange, job, meter)
            completed = True
        except EngineError as error:
            raise from_engine(error, prompt_param=job.prompt_param) from error
        finally:
            exchange.tokens = (job.prompt_tokens, meter.tokens)
            self._admission.leave()
            self._metrics.in_flight.dec()
            self._metrics.request_settled(job.request.model, job.prompt_tokens, meter.tokens)
            if completed:
                life.completed(completion_tokens=meter.tokens, finish_reasons=tuple(meter.finish_reasons))

    def _first_token(self, exchange: Exchange, life: Life) -> None:
        life.first_token()
        assert exchange.route is not None
        self._metrics.first_token(exchange.route.path, exchange.model or "", life.ttft() or 0.0)

    async def _run(self, exchange: Exchange, job: Job[Any], meter: Meter) -> None:
        if not job.request.stream:
            whole = WholeSink(job.choices, meter)
            await self._run_prompts(job, whole)
            exchange.respond(200, job.encoder.whole(whole.choices(), Usage(job.prompt_tokens, meter.tokens)))
            return
        sink = StreamSink(exchange.stream, job.encoder, meter, exchange.begin_stream)
        self.streams.add(sink)
        try:
            await self._run_prompts(job, sink)
        finally:
            self.streams.discard(sink)
        sink.finish(Usage(job.prompt_tokens, meter.tokens) if job.request.include_usage else None)

    async def _run_prompts(self, job: Job[Any], sink: StreamSink | WholeSink) -> None:
        if len(job.prompts) == 1:
            await self._engine.run(_generation(job, 0), sink)
            return
        n = job.request.n
        await _all([self._engine.run(_generation(job, i), OffsetSink(sink, i * n)) for i in range(len(job.prompts))])

    def _too_late(self, exchange: Exchange) -> ApiError:
        if exchange.life is None or exchange.life.first_token_at is None:
            return queue_timeout(retry_after=2)
        return ApiError(
            504, "The request's deadline passed during the generation.", code="deadline_exceeded", type=SERVER
        )


def _fit(sampling: Sampling, prompt_tokens: int, context: int, explicit: bool) -> Sampling:
    """``sampling`` with its max_tokens inside the context. Raises PromptTooLong if the caller's own do not fit."""
    room = context - prompt_tokens
    if room < 1:
        raise PromptTooLong(prompt_tokens=prompt_tokens, limit=context)
    if sampling.max_tokens <= room:
        return sampling
    if explicit:
        raise PromptTooLong(prompt_tokens=prompt_tokens, limit=context, max_tokens=sampling.max_tokens)
    return structs.replace(sampling, max_tokens=room)


def _generation(job: Job[Any], index: int) -> GenerationRequest:
    return GenerationRequest(
        request_id=f"{job.response_id}-{index}",
        model=job.request.model,
        prompt=job.prompts[index],
        sampling=job.samplings[index],
        stream=job.request.stream,
    )


async def _all(runs: Sequence[Awaitable[None]]) -> None:
    """Wait for all; the first failure cancels the rest, waits for them, and is raised."""
    tasks = [asyncio.ensure_future(run) for run in runs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
