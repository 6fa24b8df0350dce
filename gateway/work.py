"""What the pipeline is given: requests, the surfaces and tasks that read them, and the work they come to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from msgspec import structs

from engine.types import (
    AdapterHold,
    Constraint,
    DeltaSink,
    Engine,
    EngineTimes,
    GenerationRequest,
    ModelInfo,
    ModelKind,
    Parsing,
    Prompt,
    PromptTooLong,
    Sampling,
)
from gateway.access.principal import Principal
from gateway.admission import Ticket
from gateway.guardian.check import Passages
from gateway.protocol.encode import Choice, Encoder, Usage
from gateway.protocol.images import ImageReference, Images
from gateway.protocol.sampling import RequestBounds
from gateway.sinks import Meter, OffsetSink

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.pipeline import Pipeline

T = TypeVar("T", bound="Generation")


#: Labels that name an end user, in the order in which they are believed.
END_USER: Final = ("safety_identifier", "user", "metadata.user_id")


#: Told of a generation that is over before its last bytes leave: what came of it (of a stream nothing, its encoder has
#: seen all) and what it used. Must not raise.
Keep = Callable[[Sequence[Choice], Usage], Awaitable[None]]


#: Completes a request by what it refers to, before anybody looks at it.
Recall = Callable[[T], Awaitable[T]]


class Generation(Protocol):
    """A checked request to generate text, of whatever endpoint."""

    @property
    def model(self) -> str:
        """The name of the model."""

    @property
    def stream(self) -> bool:
        """Whether the answer is a stream of events."""

    @property
    def n(self) -> int:
        """Choices per prompt."""

    @property
    def requested_max_tokens(self) -> int | None:
        """Tokens per choice that the caller asked for; None leaves it to the server."""

    def labels(self) -> Mapping[str, str]:
        """What the caller wants to find in the access log again."""

    def to_sampling(self, bounds: RequestBounds) -> Sampling:
        """What the engine needs. ``max_tokens`` is clamped to the server's bound, not yet to the context."""

    def constraint(self) -> Constraint | None:
        """What the output must be, if the caller asks for more than text."""

    def parsing(self) -> Parsing | None:
        """What the output is taken apart into besides content."""


class Surface(Protocol, Generic[T]):
    """What differs between endpoints that generate text."""

    id_prefix: str
    prompt_param: str
    limit_param: str

    def parse(self, body: bytes, bounds: RequestBounds) -> T:
        """The checked request. Raises :class:`ApiError` 400."""

    def texts(self, request: T) -> Passages:
        """Everything in the request that a guard must see: all that the model would read, and who wrote it."""

    def images(self, request: T) -> Sequence[ImageReference]:
        """Every image that the request names, in order."""

    async def prompts(self, request: T, model: str, engine: Engine, images: Images) -> Sequence[Prompt]:
        """The prompts as tokens of ``model``, which is the id of what the request may call by other names.

        ``images``: the pictures behind :meth:`images`.
        """

    def encoder(self, request: T, response_id: str, prompts: Sequence[Prompt]) -> Encoder:
        """The writer of this request's answer."""


class Work(Protocol):
    """A request that is ready for admission: what it can cost at most."""

    @property
    def response_id(self) -> str:
        """Its id, also in the ledger."""

    @property
    def model(self) -> ModelInfo:
        """The model that runs it."""

    @property
    def prompt_param(self) -> str:
        """The wire field to blame for its size."""

    @property
    def prompt_tokens(self) -> int:
        """Over all prompts."""

    @property
    def max_tokens(self) -> int:
        """Most completion tokens of one choice."""

    @property
    def choices(self) -> int:
        """Over all prompts."""

    @property
    def sequences(self) -> int:
        """What runs in the engine at once."""


W = TypeVar("W", bound=Work)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Texts that are ready to be run through a model once, without generating.

    ``run`` is given the priority and returns the body of the answer.
    """

    response_id: str
    model: ModelInfo
    prompt_param: str
    prompts: Sequence[Prompt]
    run: Callable[[int], Awaitable[bytes]]
    max_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Over all prompts."""
        return sum(len(prompt.token_ids) for prompt in self.prompts)

    @property
    def choices(self) -> int:
        """Over all prompts."""
        return len(self.prompts)

    @property
    def sequences(self) -> int:
        """What runs in the engine at once."""
        return len(self.prompts)


def end_user(labels: Mapping[str, str]) -> str | None:
    """What a request says of its end user, by whichever of the fields for that."""
    return next((labels[name] for name in END_USER if name in labels), None)


class Named(Protocol):
    """A request that names its model."""

    @property
    def model(self) -> str:
        """The name of the model."""


N = TypeVar("N", bound=Named)


class Task(Protocol, Generic[N]):
    """What differs between endpoints that run a model without generating text.

    ``kinds``: of models that can do it. ``optional``: where no model can, the answer is 501.
    """

    id_prefix: str
    prompt_param: str
    kinds: Collection[ModelKind]
    optional: bool

    async def read(self, exchange: Exchange, pipeline: Pipeline) -> N:
        """The checked request. Raises :class:`ApiError` 400."""

    def texts(self, request: N) -> Passages:
        """Everything in the request that a guard must see."""

    async def prepare(self, request: N, model: ModelInfo, engine: Engine, response_id: str) -> Evaluation:
        """The request as tokens. Raises :class:`engine.types.EngineError` for what can never be run."""


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """A request that is ready for admission. ``model`` is what the name in the ``request`` stands for.

    ``transfer``: what another engine said that has computed the one prompt.
    """

    request: T
    model: ModelInfo
    response_id: str
    prompts: Sequence[Prompt]
    samplings: Sequence[Sampling]
    encoder: Encoder
    prompt_param: str
    cache_salt: str | None
    keep: Keep | None = None
    hold: AdapterHold | None = None
    transfer: Mapping[str, object] | None = None
    times: EngineTimes | None = None

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

    @property
    def sequences(self) -> int:
        """What runs in the engine at once."""
        return self.choices

    @property
    def media_type(self) -> bytes:
        """Of an answer that is no stream."""
        return b"application/json"

    async def run(self, engine: Engine, sink: DeltaSink, priority: int, *, stream: bool) -> None:
        """Have the engine generate all choices; returns when the last one has ended."""
        if len(self.prompts) == 1:
            await engine.run(generation_of(self, 0, priority, stream=stream), sink)
            return
        generations = [generation_of(self, index, priority, stream=stream) for index in range(len(self.prompts))]
        n = self.request.n
        await run_all([engine.run(each, OffsetSink(sink, i * n)) for i, each in enumerate(generations)])


def fit(sampling: Sampling, prompt_tokens: int, context: int, explicit: bool) -> Sampling:
    """``sampling`` with its max_tokens inside the context. Raises PromptTooLong if the caller's own do not fit."""
    room = context - prompt_tokens
    if room < 1:
        raise PromptTooLong(prompt_tokens=prompt_tokens, limit=context)
    if sampling.max_tokens <= room:
        return sampling
    if explicit:
        raise PromptTooLong(prompt_tokens=prompt_tokens, limit=context, max_tokens=sampling.max_tokens)
    return structs.replace(sampling, max_tokens=room)


def ticket_of(work: Work, principal: Principal, deadline: float) -> Ticket:
    """What the gate is asked for ``work``."""
    return Ticket(
        request_id=work.response_id,
        tenant=principal.tenant,
        weight=principal.weight,
        sequences=work.sequences,
        tokens=work.prompt_tokens + work.max_tokens * work.choices,
        deadline=deadline,
        model=work.model.id,
    )


def usage_of(job: Job[Any], meter: Meter) -> Usage:
    """What the answer to ``job`` says of its tokens."""
    return Usage(job.prompt_tokens, meter.tokens, meter.cached, meter.reasoning or None)


def generation_of(job: Job[Any], index: int, priority: int = 0, *, stream: bool = False) -> GenerationRequest:
    """What the engine is asked for one prompt of ``job``."""
    return GenerationRequest(
        request_id=f"{job.response_id}-{index}",
        model=job.model.id,
        prompt=job.prompts[index],
        sampling=job.samplings[index],
        stream=stream,
        priority=priority,
        cache_salt=job.cache_salt,
        constraint=job.request.constraint(),
        parsing=job.request.parsing(),
        adapter=job.model.adapter,
        hold=job.hold,
        transfer=job.transfer,
        times=job.times,
    )


async def run_all(runs: Sequence[Awaitable[None]]) -> None:
    """Wait for all; the first failure cancels the rest, waits for them, and is raised."""
    tasks = [asyncio.ensure_future(run) for run in runs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
