"""What Sluice exports as ``sluice_*``, beside vLLM's own ``vllm:*``. Children are bound once, labels are bounded."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib import metadata

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from engine.types import EngineState, Phase

_DURATION = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TTFT = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5, 10, 30)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536)
_BOUND_CHILDREN = 512


class Metrics:
    """One process's metrics. Times in seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter(
            "sluice_requests", "Finished requests.", ["route", "status", "outcome", "code"], registry=registry
        )
        self._duration = Histogram(
            "sluice_request_duration_seconds", "From receipt to the end of the answer.", ["route"],
            buckets=_DURATION, registry=registry,
        )  # fmt: skip
        self._ttft = Histogram(
            "sluice_time_to_first_token_seconds", "From receipt to the first token.", ["route", "model"],
            buckets=_TTFT, registry=registry,
        )  # fmt: skip
        self._tokens = Counter("sluice_tokens", "Tokens of settled requests.", ["model", "kind"], registry=registry)
        self._prompt_size = Histogram(
            "sluice_prompt_tokens", "Prompt tokens of admitted requests.", ["model"], buckets=_TOKENS, registry=registry
        )
        self.in_flight = Gauge("sluice_requests_in_flight", "Admitted and not settled.", registry=registry)
        self.connections = Gauge("sluice_connections", "Open client connections.", registry=registry)
        self._front = Counter(
            "sluice_http_rejections", "Connections and requests refused by the HTTP front.", ["code"], registry=registry
        )
        self._phase = Gauge("sluice_engine_phase", "1 for the engine's phase now.", ["phase"], registry=registry)
        self._running = Gauge("sluice_engine_running", "Sequences in the batch.", registry=registry)
        self._waiting = Gauge("sluice_engine_waiting", "Sequences waiting for a slot.", registry=registry)
        self._kv = Gauge("sluice_engine_kv_usage_ratio", "Share of the KV cache in use.", registry=registry)
        self._restarts = Gauge("sluice_engine_restarts", "Engine restarts since start.", registry=registry)
        self.loop_lag = Histogram(
            "sluice_event_loop_lag_seconds", "How late the event loop ran a timer.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1), registry=registry,
        )  # fmt: skip
        self.loop_lag_max = Gauge("sluice_event_loop_lag_max_seconds", "Worst lag of the last 30 s.", registry=registry)
        self.log_dropped = Counter(
            "sluice_log_records_dropped", "Log records lost to a blocked sink.", registry=registry
        )
        self.ledger_lost = Counter("sluice_ledger_rows_lost", "Ledger rows lost for good.", registry=registry)
        self.ledger_degraded = Gauge(
            "sluice_ledger_degraded", "1 while the ledger cannot be written.", registry=registry
        )
        info = Gauge("sluice_build_info", "Version of this process.", ["version"], registry=registry)
        info.labels(metadata.version("sluice")).set(1)
        # Bound once per label set: a labels() call costs more than the count itself.
        self._bound_requests = lru_cache(_BOUND_CHILDREN)(self._requests.labels)
        self._bound_duration = lru_cache(_BOUND_CHILDREN)(self._duration.labels)
        self._bound_ttft = lru_cache(_BOUND_CHILDREN)(self._ttft.labels)
        self._bound_tokens = lru_cache(_BOUND_CHILDREN)(self._tokens.labels)
        self._bound_prompt_size = lru_cache(_BOUND_CHILDREN)(self._prompt_size.labels)

    def request_finished(self, route: str, status: int, outcome: str, code: str | None, seconds: float) -> None:
        """Count one answered request; ``code`` is the error code or None."""
        self._bound_requests(route, str(status), outcome, code or "").inc()
        self._bound_duration(route).observe(seconds)

    def request_settled(self, model: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Count the tokens of one admitted request, once."""
        self._bound_tokens(model, "prompt").inc(prompt_tokens)
        self._bound_tokens(model, "completion").inc(completion_tokens)
        self._bound_prompt_size(model).observe(prompt_tokens)

    def first_token(self, route: str, model: str, seconds: float) -> None:
        """Observe one request's time to first token."""
        self._bound_ttft(route, model).observe(seconds)

    def front_rejected(self, code: str) -> None:
        """Count a refusal of the HTTP front; codes come from our own code, so they are bounded."""
        self._front.labels(code).inc()

    def engine_state(self, state: EngineState) -> None:
        """Set the engine's gauges."""
        for phase in Phase:
            self._phase.labels(phase.value).set(phase is state.phase)
        self._running.set(state.running)
        self._waiting.set(state.waiting)
        self._kv.set(state.kv_usage)
        self._restarts.set(state.restarts)

    def exposition(self) -> tuple[bytes, bytes]:
        """Content type and text of everything: ours, then the default registry with ``vllm:*`` and ``process_*``."""
        return CONTENT_TYPE_LATEST.encode(), b"".join(generate_latest(each) for each in _registries(self.registry))


def _registries(own: CollectorRegistry) -> Iterable[CollectorRegistry]:
    return (own, REGISTRY)
