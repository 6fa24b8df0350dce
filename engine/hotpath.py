"""The token hot path: plain deltas go from vLLM's output handler to the sink without a ``RequestOutput``.

Fence around vLLM's private ``OutputProcessor.process_outputs`` (vllm/v1/engine/output_processor.py, checked
against 0.32.0). An output is *plain* if its request streams one choice without stop strings or logprobs, is past
prefill and does not finish with it; everything else takes vLLM's own way, so both give the same text
(``tests/engine/test_hotpath.py``). Also batches the one histogram that vLLM observes once per token.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.output_processor import OutputProcessorOutput

from engine.output import Generation
from engine.types import DeltaSink, Sampling

CHECKED_VERSION = "0.32.0"


class HotPath:
    """Installed on one ``AsyncLLM``; requests are added once vLLM knows them and removed when they end."""

    def __init__(self, llm: AsyncLLM, on_output: Callable[[], None]) -> None:
        self._requests: dict[str, _Plain] = {}
        self._on_output = on_output
        self._states = llm.output_processor.request_states
        self._vllm_process: Callable[..., OutputProcessorOutput] = llm.output_processor.process_outputs
        llm.output_processor.process_outputs = self._process

    def add(self, internal_id: str, generation: Generation, sink: DeltaSink, sampling: Sampling) -> None:
        """Let ``internal_id`` take the short way if its kind of request can."""
        state = self._states.get(internal_id)
        if state is None or sampling.n != 1 or sampling.stop or sampling.logprobs is not None:
            return
        self._requests[internal_id] = _Plain(state, generation, sink)

    def remove(self, internal_id: str) -> None:
        """Forget a request. Idempotent."""
        self._requests.pop(internal_id, None)

    def __len__(self) -> int:
        return len(self._requests)

    def _process(
        self, outputs: list[Any], timestamp: float | None = None, stats: Any = None, **kwargs: Any
    ) -> OutputProcessorOutput:
        self._on_output()
        get = self._requests.get
        other = []
        for output in outputs:
            plain = get(output.request_id)
            if (
                plain is None
                or output.finish_reason is not None
                or output.events is not None
                or plain.state.is_prefilling
            ):
                other.append(output)
                continue
            token_ids = output.new_token_ids
            if stats is not None:
                count = len(token_ids)
                stats.num_generation_tokens += count
                stats.inter_token_latencies_iter.append(timestamp - plain.stats.last_token_ts)
                plain.stats.num_generation_tokens += count
                plain.stats.last_token_ts = timestamp
            try:
                plain.push(token_ids)
            except Exception as error:  # noqa: BLE001 - one request's failure must not end everyone's output handler
                plain.generation.fail(error)
        if not other:
            return OutputProcessorOutput([], [])
        return self._vllm_process(other, timestamp, stats, **kwargs)


class _Plain:
    __slots__ = ("_decode", "_token_ids", "generation", "sink", "state", "stats")

    def __init__(self, state: Any, generation: Generation, sink: DeltaSink) -> None:
        self.state = state
        self.stats = state.stats
        self.generation = generation
        self.sink = sink
        self._decode = state.detokenizer.decode_next
        self._token_ids = state.detokenizer.token_ids

    def push(self, token_ids: list[int]) -> None:
        self._token_ids.extend(token_ids)
        if len(token_ids) == 1:
            self.sink.text(self._decode(token_ids[0]), 1)
        else:
            self.sink.text("".join(map(self._decode, token_ids)), len(token_ids))


class BatchedHistogram:
    """Stands in for a prometheus_client histogram child that is observed once per token.

    ``observe`` counts into plain integers; ``flush`` (before a scrape) adds them to the real child.
    """

    def __init__(self, child: Any) -> None:
        self._child = child
        self._bounds = child._upper_bounds
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value in seconds."""
        self._sum += value
        self._counts[bisect_left(self._bounds, value)] += 1

    def flush(self) -> None:
        """Move what was counted to the exported histogram."""
        counts, self._counts = self._counts, [0] * len(self._bounds)
        total, self._sum = self._sum, 0.0
        for bucket, count in zip(self._child._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        if total:
            self._child._sum.inc(total)


def batch_token_histograms(llm: AsyncLLM) -> list[BatchedHistogram]:
    """Put :class:`BatchedHistogram` in front of ``vllm:inter_token_latency_seconds``; empty if stats are off."""
    batched = []
    for logger in llm.logger_manager.stat_loggers if llm.logger_manager else ():
        children = getattr(logger, "histogram_inter_token_latency", None)
        if children is None:
            continue
        for index, child in list(children.items()):
            children[index] = BatchedHistogram(child)
            batched.append(children[index])
    return batched
