"""The request's way, for every endpoint that runs a model: text is generated, or evaluated in one pass.

Read :meth:`Pipeline.generate` and :meth:`Pipeline.evaluate` from top to bottom: they are made of the same stages.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

from engine.types import (
    AdapterHold,
    AdapterNotFound,
    DeltaSink,
    Engine,
    EngineError,
    ModelInfo,
    ModelKind,
    ModelState,
    Prompt,
)
from gateway.access.door import Door
from gateway.access.isolation import CacheSalts
from gateway.access.principal import Principal
from gateway.adapters.catalog import Adapter, AdapterCatalog
from gateway.admission import Gates, Slot
from gateway.disaggregation.remote import Prefills
from gateway.errors import (
    PERMISSION,
    SERVER,
    ApiError,
    adapter_unavailable,
    from_engine,
    model_not_found,
    not_configured,
    queue_timeout,
    store_unavailable,
    unsupported_modality,
    version_unavailable,
    wrong_kind,
)
from gateway.exchange import Exchange
from gateway.guardian.check import Guard, Outlet, Passages, Subject, Watch
from gateway.limits.reserve import Demand, Lease, LimitClass, Limits
from gateway.media import Media
from gateway.observability.metrics import Metrics
from gateway.observability.tracing.inference import inference, timed
from gateway.observability.tracing.span import LEAST_WAIT, NO_SPAN, Span
from gateway.protocol.encode import new_id
from gateway.protocol.images import ImageReference, Images
from gateway.protocol.sampling import RequestBounds
from gateway.registry.shadows import Shadows
from gateway.registry.table import Arm, Asker, RoutingTable
from gateway.sinks import Meter, StreamSink, WholeSink
from gateway.usage.ledger import Ledger
from gateway.usage.life import Life
from gateway.work import (
    Evaluation,
    Job,
    Keep,
    N,
    Recall,
    Surface,
    T,
    Task,
    W,
    Work,
    end_user,
    fit,
    generation_of,
    ticket_of,
    usage_of,
)

#: Bodies above this many bytes are decoded off the event loop.
INLINE_BYTES = 32 * 1024
GENERATING: Final[frozenset[ModelKind]] = frozenset[ModelKind]({"generate"})
#: Says that the guard flagged something which its policy lets through.
FLAGGED: Final = (b"x-guardian-flagged", b"true")
#: When to ask again for an adapter that this process has yet to fetch.
ADAPTER_RETRY_SECONDS = 5.0

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Policy:
    """What the deployment allows. Times in seconds."""

    bounds: RequestBounds
    max_body_bytes: int
    request_timeout: float
    hide_denied_models: bool = True
    hide_unloaded_models: bool = False


class Pipeline:
    """Holds every stage; knows their order."""

    def __init__(
        self,
        *,
        engine: Engine,
        adapters: AdapterCatalog,
        registry: RoutingTable,
        shadows: Shadows,
        door: Door,
        gate: Gates,
        limits: Limits,
        guard: Guard,
        media: Media,
        salts: CacheSalts | None,
        ledger: Ledger,
        metrics: Metrics,
        policy: Callable[[], Policy],
        decoder: Executor,
        prefills: Prefills,
    ) -> None:
        self._engine = engine
        self._adapters = adapters
        self._registry = registry
        self._shadows = shadows
        self._door = door
        self._gate = gate
        self._limits = limits
        self._guard = guard
        self._media = media
        self._salts = salts
        self._ledger = ledger
        self._metrics = metrics
        self._policy_of_request = policy
        self._decoder = decoder
        self._prefills = prefills
        self.streams: set[StreamSink] = set()

    @property
    def _policy(self) -> Policy:
        """What the running request keeps to, whatever is reloaded meanwhile."""
        return self._policy_of_request()

    async def enter(self, exchange: Exchange) -> Principal:
        """The way of a request that runs no model: identify, check the scope, count it. Raises :class:`ApiError`."""
        principal = self._authorize(exchange)
        if exchange.route is not None and exchange.route.limit_class is not LimitClass.NONE:
            lease = await self._reserve(exchange, principal, None)
            lease.settle(0)
        return principal

    def identify(self, exchange: Exchange) -> Principal:
        """Who calls, if they may call this route; nothing is counted yet. Raises :class:`ApiError`."""
        return self._authorize(exchange)

    def visible(self, principal: Principal) -> list[ModelInfo]:
        """What ``principal`` may name: models, their adapters by their full names, public names of the registry."""
        models = [model for model in self._engine.models() if principal.may_use(model.id) and not self._hides(model)]
        by_id = {model.id: model for model in models}
        adapters = [
            replace(by_id[each.model], id=each.id, created=each.created, adapter=each.name)
            for each in self._adapters.all()
            if each.model in by_id and each.open_to(principal)
        ]
        return models + adapters + self._public_names(principal)

    def _public_names(self, principal: Principal) -> list[ModelInfo]:
        """The names that answer, as the first of their arms whose model is there."""
        names = []
        for name in self._registry.all():
            found = [self._known(arm.model) for arm in self._registry.arms(name.name)]
            model = next((each for each in found if each is not None), None)
            if model is not None and principal.may_use(name.name) and self._known(name.name) is None:
                names.append(replace(model, id=name.name, created=int(name.created_at)))
        return names

    async def generate(
        self,
        exchange: Exchange,
        surface: Surface[T],
        keep: Keep | None = None,
        *,
        recall: Recall[T] | None = None,
        principal: Principal | None = None,
    ) -> None:
        """One generation, from its headers to the settled account; ``keep`` is told of it before its last bytes.
        ``recall`` completes the request. ``principal``: who is identified already.
        """
        principal, deadline = self.begin(exchange, surface.id_prefix, principal)
        request = await self.read(exchange, surface.parse)
        exchange.streaming = request.stream
        exchange.labels = request.labels()
        model = self.resolve(exchange, request.model, principal, GENERATING)
        watch = self.watch(exchange, principal, model, surface.prompt_param)
        async with self.until(deadline, exchange), self.holding(model, exchange.span) as model:
            if recall is not None:
                request = await recall(request)
            request = await watch.screen(request, surface.texts)
            async with self.pictures(exchange, surface.images(request), model, principal) as images:
                with exchange.span.child("render"):
                    prompts = await self._render(surface, request, model, images)
            job = self._plan(surface, request, prompts, model, principal, _life_of(exchange).request_id, keep)
            exchange.on_admitted = self._shadow(exchange, surface, request, job)
            await self.serve(exchange, principal, job, watch, partial(surface.texts, request), deadline)

    async def evaluate(self, exchange: Exchange, task: Task[N]) -> None:
        """One run of a model that does not generate, from its headers to the settled account."""
        principal, deadline = self.begin(exchange, task.id_prefix)
        request = await task.read(exchange, self)
        if task.optional and not any(model.kind in task.kinds for model in self.visible(principal)):
            raise not_configured(task.kinds)
        model = self.resolve(exchange, request.model, principal, task.kinds)
        watch = self.watch(exchange, principal, model, task.prompt_param)
        async with self.until(deadline, exchange), self.holding(model, exchange.span) as model:
            request = await watch.screen(request, task.texts)
            with exchange.span.child("render"):
                work = await self._prepare(task, request, model, _life_of(exchange).request_id)
            async with (
                self._reserved(exchange, principal, work),
                watch.over(partial(task.texts, request)),
                self._turn(exchange, principal, work, deadline) as slot,
            ):
                await self._admitted(exchange, principal, work, slot, partial(self._run_once, watch=watch))

    # -- the steps of it, for surfaces that read and plan in another way --------------------------------------------

    def begin(self, exchange: Exchange, id_prefix: str, principal: Principal | None = None) -> tuple[Principal, float]:
        """Who asks (``principal`` if that is known), and until when (as ``time.monotonic``) it may take.

        Raises :class:`ApiError`.
        """
        exchange.life = Life(self._ledger, new_id(id_prefix), received_at=exchange.received)
        principal = principal or self._authorize(exchange)
        self._gate.require_open(principal.tenant)
        return principal, exchange.received + exchange.deadline(self._policy.request_timeout)

    def watch(self, exchange: Exchange, principal: Principal, model: ModelInfo, prompt_param: str) -> Watch:
        """The guard's watch over the request."""
        return self._guard.watch(_subject(exchange, principal, model, prompt_param))

    async def judge(self, exchange: Exchange, principal: Principal, model: str, passages: Passages, param: str) -> None:
        """Have the guard see texts that are answered though no model reads them any more. Raises :class:`ApiError`."""
        resolved = self.resolve(exchange, model, principal, GENERATING)
        if await self._guard.check_input(_subject(exchange, principal, resolved, param), passages):
            exchange.rate_headers = [*exchange.rate_headers, FLAGGED]

    @asynccontextmanager
    async def until(self, deadline: float, exchange: Exchange) -> AsyncIterator[None]:
        """Bound a block by ``deadline``. Raises :class:`ApiError` 503 or 504 when it passes."""
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                yield
        except TimeoutError:
            raise self._too_late(exchange) from None

    async def serve(
        self,
        exchange: Exchange,
        principal: Principal,
        job: Job[Any],
        watch: Watch,
        passages: Callable[[], Passages],
        deadline: float,
    ) -> None:
        """Reserve, admit, run and settle ``job``: whatever it asks of a model. Raises :class:`ApiError`."""
        job = timed(job, exchange.span)
        async with self._reserved(exchange, principal, job), watch.over(passages):
            await self._constrain(job, principal.tenant, exchange.span)
            async with (
                self._holding_adapter(job, exchange.span) as held,
                self._turn(exchange, principal, held, deadline) as slot,
            ):
                await self._admitted(exchange, principal, held, slot, partial(self._run, watch=watch))

    # -- who ----------------------------------------------------------------------------------------------------

    def _authorize(self, exchange: Exchange) -> Principal:
        route = exchange.route
        assert route is not None
        assert route.scope is not None
        principal = self._door.enter(exchange, route.scope)
        exchange.rate_headers = self._limits.known(principal, exchange.address)
        return principal

    # -- before admission ---------------------------------------------------------------------------------------

    async def read(self, exchange: Exchange, parse: Callable[[bytes, RequestBounds], R]) -> R:
        """The checked request in the body; large ones are taken apart off the event loop."""
        with exchange.span.child("read"):
            body = await exchange.json_body(self._policy.max_body_bytes)
            if len(body) <= INLINE_BYTES:
                return parse(body, self._policy.bounds)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._decoder, parse, body, self._policy.bounds)

    def resolve(
        self,
        exchange: Exchange,
        name: str,
        principal: Principal,
        kinds: Collection[ModelKind] | None = None,
    ) -> ModelInfo:
        """What ``name`` means to ``principal``: a model, or one with its ``adapter``; noted on ``exchange``. Ids of
        models come first, then public names of the registry, which choose an arm by who asks, then adapters.

        ``kinds``: what the model must be, None for any. Raises :class:`ApiError` 404, the same for what does not exist
        and what must not be known of; 403 for a model where the policy says so; 400 for one of another kind.
        """
        arm = None if self._known(name) else self._registry.arm(name, self._asker(exchange, principal))
        if arm is None:
            model = self._named(name, principal)
        else:
            self._require_allowed(name, principal)
            exchange.arm = arm.id
            model = self._meant(arm)
        if kinds is not None and model.kind not in kinds:
            raise wrong_kind(name, model.kind, kinds)
        exchange.model, exchange.adapter = model.id, model.adapter
        return model

    def _named(self, name: str, principal: Principal) -> ModelInfo:
        if (model := self._known(name)) is not None:
            self._require_allowed(name, principal)
            return model
        adapter = self._adapters.named(name)
        if adapter is None or not adapter.open_to(principal) or (model := self._known(adapter.model)) is None:
            raise model_not_found() if self._registry.loaded else store_unavailable(ADAPTER_RETRY_SECONDS)
        return _with_adapter(model, adapter)

    def _asker(self, exchange: Exchange, principal: Principal) -> Asker:
        return Asker(principal, end_user(exchange.labels), exchange.request_id)

    def _meant(self, arm: Arm) -> ModelInfo:
        """What a version of a public name stands for, whoever asks: its name is what keys are held to."""
        model = self._known(arm.model)
        adapter = None if arm.adapter is None else self._adapters.get(arm.adapter)
        if model is None or not arm.fits(adapter):
            raise version_unavailable(ADAPTER_RETRY_SECONDS)
        return model if adapter is None else _with_adapter(model, adapter)

    def _require_allowed(self, name: str, principal: Principal) -> None:
        if not principal.may_use(name):
            raise model_not_found() if self._policy.hide_denied_models else _model_denied()

    def _known(self, name: str) -> ModelInfo | None:
        model = self._engine.model(name)
        return None if model is None or self._hides(model) else model

    def _hides(self, model: ModelInfo) -> bool:
        return self._policy.hide_unloaded_models and model.state in (ModelState.UNLOADED, ModelState.UNLOADING)

    @asynccontextmanager
    async def holding(self, model: ModelInfo, span: Span = NO_SPAN) -> AsyncIterator[ModelInfo]:
        """``model`` in memory for the length of a block, with all that is known of it then.

        ``span``: whoever waits for a load. Raises :class:`ApiError` 503.
        """
        try:
            with NO_SPAN if model.state is ModelState.READY else span.child("load model"):
                hold = await self._engine.hold(model.id)
        except EngineError as error:
            raise from_engine(error, prompt_param="model") from error
        try:
            loaded = self._engine.model(model.id) or model
            yield loaded if model.adapter is None else replace(loaded, adapter=model.adapter)
        finally:
            hold.release()

    async def _prepare(self, task: Task[N], request: N, model: ModelInfo, response_id: str) -> Evaluation:
        try:
            return await task.prepare(request, model, self._engine, response_id)
        except EngineError as error:
            raise from_engine(error, prompt_param=task.prompt_param) from error

    @asynccontextmanager
    async def pictures(
        self, exchange: Exchange, references: Sequence[ImageReference], model: ModelInfo, principal: Principal
    ) -> AsyncIterator[Images]:
        """The pictures that a request names, for as long as the block; nothing is fetched for a model that is blind.

        Raises :class:`ApiError` 400 that names the image, or the content it is in; 429 where limits are known to be
        reached by the time that it is this request's turn to fetch.
        """
        if not references:
            yield {}
            return
        if not model.images:
            raise unsupported_modality(references[0].param.rpartition("[")[0])
        async with self._media.place(principal.tenant):
            self._limits.known(principal, exchange.address)
            with exchange.span.child("fetch images", {"sluice.images": len(references)}):
                images = await self._media.fetch(references)
            yield images

    async def _render(self, surface: Surface[T], request: T, model: ModelInfo, images: Images) -> Sequence[Prompt]:
        try:
            return await surface.prompts(request, model.id, self._engine, images)
        except EngineError as error:
            raise from_engine(error, prompt_param=surface.prompt_param) from error

    def _shadow(self, exchange: Exchange, surface: Surface[T], request: T, job: Job[T]) -> Callable[[], None] | None:
        def render(model: str) -> Awaitable[Sequence[Prompt]]:
            return surface.prompts(request, model, self._engine, {})

        return self._shadows.of(exchange.arm, job, render, images=bool(surface.images(request)))

    def _plan(
        self,
        surface: Surface[T],
        request: T,
        prompts: Sequence[Prompt],
        model: ModelInfo,
        principal: Principal,
        response_id: str,
        keep: Keep | None,
    ) -> Job[T]:
        sampling = request.to_sampling(self._policy.bounds)
        # A wish above the server's bound was clamped, so what is left of it is not the caller's own number any more.
        explicit = (
            request.requested_max_tokens or self._policy.bounds.max_tokens + 1
        ) <= self._policy.bounds.max_tokens
        try:
            samplings = [fit(sampling, len(prompt.token_ids), model.context_length, explicit) for prompt in prompts]
            encoder = surface.encoder(request, response_id, prompts)
            salt = self._salts.salt(principal.tenant) if self._salts else None
            job = Job(request, model, response_id, prompts, samplings, encoder, surface.prompt_param, salt, keep)
            for index in range(len(prompts)):
                self._engine.check(generation_of(job, index))
        except EngineError as error:
            raise from_engine(error, prompt_param=surface.prompt_param, limit_param=surface.limit_param) from error
        return job

    async def _reserve(self, exchange: Exchange, principal: Principal, work: Work | None) -> Lease:
        assert exchange.route is not None
        demand = Demand(
            request_id=work.response_id if work else new_id("req-"),
            principal=principal,
            address=exchange.address,
            limit_class=exchange.route.limit_class,
            model=work.model.id if work else None,
            tokens=work.prompt_tokens + work.max_tokens * work.choices if work else 0,
            prompt_param=work.prompt_param if work else None,
        )
        with exchange.span.child("reserve"):
            lease = await self._limits.reserve(demand)
        exchange.rate_headers = lease.headers
        return lease

    @asynccontextmanager
    async def _reserved(self, exchange: Exchange, principal: Principal, work: Work) -> AsyncIterator[None]:
        lease = await self._reserve(exchange, principal, work)
        try:
            yield
        finally:
            # Nothing was used by a request that was not admitted.
            lease.settle(sum(exchange.tokens))

    @asynccontextmanager
    async def _turn(self, exchange: Exchange, principal: Principal, work: Work, deadline: float) -> AsyncIterator[Slot]:
        with exchange.span.child("queue"):
            slot = await self._gate.enter(ticket_of(work, principal, deadline))
        try:
            yield slot
        finally:
            slot.leave(sum(exchange.tokens))

    async def _constrain(self, job: Job[Any], tenant: str, span: Span) -> None:
        constraint, parsing = job.request.constraint(), job.request.parsing()
        if constraint is None and (parsing is None or parsing.tools is None):
            return
        try:
            with span.child("constrain"):
                await self._engine.constrain(job.model.id, constraint, parsing, tenant=tenant)
        except EngineError as error:
            raise from_engine(error, prompt_param=job.prompt_param) from error

    async def _hold_adapter(self, model: str, adapter: str) -> AdapterHold:
        try:
            return await self._engine.hold_adapter(model, adapter)
        except AdapterNotFound:
            # A model that was not in memory a moment ago does not know its adapters yet.
            await self._adapters.bring(adapter)
            return await self._engine.hold_adapter(model, adapter)

    @asynccontextmanager
    async def _holding_adapter(self, job: Job[Any], span: Span) -> AsyncIterator[Job[Any]]:
        """``job`` with its adapter in the engine: whoever waits for one that is cold takes no slot meanwhile."""
        if job.model.adapter is None:
            yield job
            return
        try:
            with span.child("load adapter", {"sluice.adapter": job.model.adapter}, least=LEAST_WAIT):
                hold = await self._hold_adapter(job.model.id, job.model.adapter)
        except EngineError as error:
            raise from_engine(error, prompt_param=job.prompt_param) from error
        try:
            yield replace(job, hold=hold)
        finally:
            hold.release()

    # -- admitted: from here on the request is accounted for ------------------------------------------------------

    async def _admitted(
        self,
        exchange: Exchange,
        principal: Principal,
        work: W,
        slot: Slot,
        run: Callable[[Exchange, W, Meter, int], Awaitable[None]],
    ) -> None:
        life = _life_of(exchange)
        meter = Meter(lambda: self._first_token(exchange, life, slot))
        completed = False
        self._metrics.in_flight.inc()
        life.admitted(
            principal=principal.id,
            tenant=principal.tenant,
            route=exchange.route.path if exchange.route else "",
            model=work.model.id,
            adapter=work.model.adapter,
            prompt_tokens=work.prompt_tokens,
            max_tokens=work.max_tokens,
            n=work.choices,
            http_request_id=exchange.request_id,
            arm=exchange.arm,
        )
        try:
            life.dispatched()
            if exchange.on_admitted is not None:
                exchange.on_admitted()
            with inference(exchange, work, meter):
                try:
                    await run(exchange, work, meter, slot.priority)
                except EngineError as error:
                    raise from_engine(error, prompt_param=work.prompt_param) from error
            completed = True
        finally:
            exchange.tokens = (work.prompt_tokens, meter.tokens)
            life.cached_tokens = meter.cached
            life.reasoning_tokens = meter.reasoning
            self._metrics.in_flight.dec()
            self._metrics.request_settled(
                work.model.id, work.prompt_tokens, meter.tokens, meter.cached, work.model.adapter
            )
            if completed:
                self._paced(exchange, life, work, meter.tokens)
                life.completed(completion_tokens=meter.tokens, finish_reasons=tuple(meter.finish_reasons))

    def _first_token(self, exchange: Exchange, life: Life, slot: Slot) -> None:
        life.first_token()
        if not exchange.streaming:
            return  # its first token is its last: no latency that anybody waits for
        slot.first_token()
        assert exchange.route is not None
        self._metrics.first_token(exchange.route.path, exchange.model or "", life.ttft() or 0.0, exchange.span.exemplar)

    def _paced(self, exchange: Exchange, life: Life, job: Work, tokens: int) -> None:
        if not exchange.streaming or life.first_token_at is None:
            return
        assert exchange.route is not None
        seconds = time.monotonic() - life.first_token_at
        self._metrics.stream_completed(exchange.route.path, job.model.id, seconds, tokens / job.choices - 1)

    async def _run_once(
        self,
        exchange: Exchange,
        evaluation: Evaluation,
        meter: Meter,  # noqa: ARG002 - nothing is generated
        priority: int,
        *,
        watch: Watch,
    ) -> None:
        answer = b""

        async def run() -> None:
            nonlocal answer
            answer = await evaluation.run(priority)

        await watch.run(run())
        _annotate(exchange, watch)
        exchange.respond(200, answer)

    async def _run(self, exchange: Exchange, job: Job[Any], meter: Meter, priority: int, *, watch: Watch) -> None:
        if not job.request.stream:
            whole = WholeSink(job.choices, meter)
            guarded = watch.sink(Outlet(whole, meter, job.choices, job.max_tokens))
            await watch.run(self._generate(exchange, job, guarded, priority, stream=watch.streams))
            _annotate(exchange, watch)
            choices, usage = whole.choices(), usage_of(job, meter)
            if job.keep is not None:
                await job.keep(choices, usage)
            exchange.respond(200, job.encoder.whole(choices, usage), [(b"content-type", job.media_type)])
            return
        exchange.failed = job.encoder.failed
        sink = StreamSink(exchange.stream, job.encoder, meter, partial(_begin_stream, exchange, watch))
        guarded = watch.sink(Outlet(sink, meter, job.choices, job.max_tokens))
        self.streams.add(sink)
        try:
            await watch.run(self._generate(exchange, job, guarded, priority, stream=True))
        finally:
            self.streams.discard(sink)
        if job.keep is not None:
            sink.flush()
            await job.keep((), usage_of(job, meter))
        sink.finish(usage_of(job, meter))

    async def _generate(
        self, exchange: Exchange, job: Job[Any], sink: DeltaSink, priority: int, *, stream: bool
    ) -> None:
        job = await self._prefills.prefilled(job, exchange.principal, exchange.span)
        await job.run(self._engine, sink, priority, stream=stream)

    def _too_late(self, exchange: Exchange) -> ApiError:
        if exchange.life is None or exchange.life.first_token_at is None:
            return queue_timeout(self._gate.retry_after(exchange.model))
        return ApiError(
            504, "The request's deadline passed during the generation.", code="deadline_exceeded", type=SERVER
        )


def _life_of(exchange: Exchange) -> Life:
    assert exchange.life is not None
    return exchange.life


def _with_adapter(model: ModelInfo, adapter: Adapter) -> ModelInfo:
    if not adapter.ready and (adapter.broken or model.state is ModelState.READY):
        raise adapter_unavailable(ADAPTER_RETRY_SECONDS, broken=adapter.broken)
    return replace(model, adapter=adapter.name)


def _model_denied() -> ApiError:
    return ApiError(403, "This key may not use that model.", code="model_not_allowed", param="model", type=PERMISSION)


def _subject(exchange: Exchange, principal: Principal, model: ModelInfo, param: str) -> Subject:
    route = exchange.route
    assert route is not None
    return Subject(
        principal,
        route.path,
        route.guard,
        model.id,
        param,
        exchange.request_id,
        exchange.address,
        model.adapter,
        exchange.span,
    )


def _annotate(exchange: Exchange, watch: Watch) -> None:
    if watch.flagged:
        exchange.rate_headers = [*exchange.rate_headers, FLAGGED]


def _begin_stream(exchange: Exchange, watch: Watch) -> None:
    if not exchange.started:
        _annotate(exchange, watch)
        exchange.begin_stream()
