"""The span of a model at work, by OpenTelemetry's conventions for generative AI, with the engine's phases within it.

Names are those of the semantic conventions for GenAI (https://github.com/open-telemetry/semantic-conventions-genai);
their copies in OpenTelemetry's Python package are deprecated, so they are spelled out here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from engine.types import EngineTimes, ModelKind
from gateway.observability.tracing.span import Attributes, Span
from gateway.work import Job, Work

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.sinks import Meter

J = TypeVar("J", bound=Job[Any])

PROVIDER: Final = "vllm"
_OPERATIONS: Final[Mapping[ModelKind, str]] = {
    "generate": "chat",
    "embed": "embeddings",
    "classify": "classify",
    "score": "score",
    "transcribe": "transcribe",
}
#: Prompts that are continued, not conversations.
_COMPLETIONS: Final = "/v1/completions"


def timed(job: J, span: Span) -> J:
    """``job``, so that the engine notes its times if ``span`` is recorded."""
    return replace(job, times=EngineTimes()) if span.recording else job


@contextmanager
def inference(exchange: Exchange, work: Work, meter: Meter) -> Iterator[None]:
    """The span of ``work`` from its admission to its end; ``meter`` knows at the end what was generated."""
    if not exchange.span.recording:
        yield
        return
    operation = _operation(exchange, work)
    with exchange.span.child(f"{operation} {work.model.id}", _asked(exchange, operation, work)) as span:
        try:
            yield
        finally:
            span.set(_came_of(exchange, work, meter))
            if isinstance(work, Job) and work.times is not None:
                _show_phases(span, work.times)


def _operation(exchange: Exchange, work: Work) -> str:
    if exchange.route is not None and exchange.route.path == _COMPLETIONS:
        return "text_completion"
    return _OPERATIONS[work.model.kind]


def _asked(exchange: Exchange, operation: str, work: Work) -> Attributes:
    asked: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": work.model.id,
        "gen_ai.response.model": work.model.id,
        "gen_ai.response.id": work.response_id,
        "sluice.adapter": work.model.adapter,
    }
    if not isinstance(work, Job):
        return asked
    asked["gen_ai.request.max_tokens"] = work.max_tokens
    asked["gen_ai.request.stream"] = exchange.streaming
    asked["gen_ai.request.choice.count"] = work.choices if work.choices > 1 else None
    if work.samplings:
        sampling = work.samplings[0]
        asked["gen_ai.request.temperature"] = sampling.temperature
        asked["gen_ai.request.top_p"] = sampling.top_p
        asked["gen_ai.request.top_k"] = sampling.top_k or None
        asked["gen_ai.request.frequency_penalty"] = sampling.frequency_penalty
        asked["gen_ai.request.presence_penalty"] = sampling.presence_penalty
        asked["gen_ai.request.seed"] = sampling.seed
    return asked


def _came_of(exchange: Exchange, work: Work, meter: Meter) -> Attributes:
    life = exchange.life
    return {
        "gen_ai.usage.input_tokens": work.prompt_tokens,
        "gen_ai.usage.output_tokens": meter.tokens if isinstance(work, Job) else None,
        "gen_ai.usage.cache_read.input_tokens": meter.cached or None,
        "gen_ai.usage.reasoning.output_tokens": meter.reasoning or None,
        "gen_ai.response.finish_reasons": tuple(meter.finish_reasons) or None,
        "gen_ai.response.time_to_first_chunk": life.ttft() if life is not None and exchange.streaming else None,
    }


def _show_phases(span: Span, times: EngineTimes) -> None:
    """Where the engine had the request: waiting for a place in its batch, reading the prompt, writing the answer."""
    marks = (times.queued_at, times.scheduled_at, times.first_token_at, times.last_token_at)
    for name, begin, end in zip(("queued", "prefill", "decode"), marks, marks[1:], strict=False):
        if begin is not None and end is not None:
            span.took(name, begin, end)
