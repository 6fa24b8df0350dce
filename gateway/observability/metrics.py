"""What Sluice exports as ``sluice_*``, beside vLLM's own ``vllm:*``. Children are bound once, labels are bounded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib import metadata
from itertools import chain

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from engine.types import AdapterInfo, EngineState, ModelInfo, ModelState, Phase, PoolState
from gateway.observability.adapters import AdapterMetrics
from gateway.observability.recent import LastMinute
from gateway.observability.tenants import TenantMetrics

_DURATION = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TTFT = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5, 10, 30)
_INTER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536)
_BOUND_CHILDREN = 512
_OPENMETRICS = "application/openmetrics-text"
#: Adapters with series of their own; those that come later share one.
MAX_ADAPTER_LABELS = 256
OTHER = "other"


class BoundedLabels:
    """The first ``limit`` values are labels of their own, all later ones are ``other``."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        """The label for ``value``."""
        if value in self._known:
            return value
        if len(self._known) >= self._limit:
            return OTHER
        self._known.add(value)
        return value


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
        self._spans_exported = Counter(
            "sluice_trace_spans_exported", "Spans that the collector took.", registry=registry
        )
        self._spans_dropped = Counter(
            "sluice_trace_spans_dropped", "Spans that no collector has, by why.", ["reason"], registry=registry
        )
        self._ttft = Histogram(
            "sluice_time_to_first_token_seconds", "From receipt to the first token.", ["route", "model"],
            buckets=_TTFT, registry=registry,
        )  # fmt: skip
        self._inter_token = Histogram(
            "sluice_inter_token_seconds", "Mean time between the tokens of one completed stream.", ["route", "model"],
            buckets=_INTER_TOKEN, registry=registry,
        )  # fmt: skip
        self._tokens = Counter("sluice_tokens", "Tokens of settled requests.", ["model", "kind"], registry=registry)
        self._prompt_size = Histogram(
            "sluice_prompt_tokens", "Prompt tokens of admitted requests.", ["model"], buckets=_TOKENS, registry=registry
        )
        self._completion_size = Histogram(
            "sluice_completion_tokens", "Completion tokens of settled requests.", ["model"],
            buckets=_TOKENS, registry=registry,
        )  # fmt: skip
        self.recent = LastMinute()
        self.tenants = TenantMetrics()
        registry.register(self.tenants)
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
        self._model_state = Gauge(
            "sluice_model_state", "1 for a model's state now.", ["model", "state"], registry=registry
        )
        self._model_bytes = Gauge(
            "sluice_model_memory_bytes", "Resident memory of a model's processes.", ["model"], registry=registry
        )
        self._model_users = Gauge(
            "sluice_model_users", "Requests that hold a model or wait for it.", ["model"], registry=registry
        )
        self._model_load = Gauge(
            "sluice_model_load_seconds", "How long a model's last load took.", ["model"], registry=registry
        )
        self._model_loads = Counter(
            "sluice_model_loads", "Loads of a model, by how they ended.", ["model", "outcome"], registry=registry
        )
        self._model_evictions = Counter(
            "sluice_model_evictions", "Times that a model left to make room.", ["model"], registry=registry
        )
        self._told: dict[tuple[str, ...], int] = {}
        self._pool_budget = Gauge("sluice_models_budget_bytes", "Memory that models may take.", registry=registry)
        self._pool_used = Gauge(
            "sluice_models_reserved_bytes", "Memory that models count as taking.", registry=registry
        )
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
        self._queue_wait = Histogram(
            "sluice_queue_seconds", "Wait of admitted requests for their turn.", buckets=_DURATION, registry=registry
        )
        self._shed = Counter(
            "sluice_requests_shed", "Requests that the queue sent away.", ["reason"], registry=registry
        )
        self._queued = Gauge("sluice_requests_queued", "Requests waiting for their turn.", registry=registry)
        self._running_bound = Gauge(
            "sluice_running_bound", "Sequences that may run at once; 0: no bound.", registry=registry
        )
        self._limit_decisions = Counter(
            "sluice_limit_decisions", "Decisions on limits.", ["by", "outcome"], registry=registry
        )
        self._limit_latency = Histogram(
            "sluice_limit_store_seconds", "Decisions of the limits' shared store.",
            buckets=(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1), registry=registry,
        )  # fmt: skip
        self._limit_errors = Counter(
            "sluice_limit_store_errors", "Failures of the limits' shared store.", ["reason"], registry=registry
        )
        self._limit_store = Gauge(
            "sluice_limit_store_available", "1 while the limits' shared store decides.", registry=registry
        )
        self._limit_pending = Gauge(
            "sluice_limit_settles_pending", "Settlements on their way to the shared store.", registry=registry
        )
        self._store = Gauge("sluice_store_available", "1 while the database of keys answers.", registry=registry)
        self._keys = Gauge("sluice_keys_known", "Keys of the store in memory.", registry=registry)
        self._usage_rows = Counter("sluice_usage_rows_shipped", "Usage rows in the database.", registry=registry)
        self._usage_skipped = Counter(
            "sluice_usage_lines_skipped", "Lines of the ledger that are not rows.", registry=registry
        )
        self._usage_looked = Gauge(
            "sluice_usage_looked_timestamp_seconds", "When usage was last copied, or found to be.", registry=registry
        )
        self._usage_behind = Gauge(
            "sluice_usage_behind_bytes", "Bytes of the ledger that are not in the database yet.", registry=registry
        )
        self._usage_database = Gauge(
            "sluice_usage_database_available", "1 while the database takes usage rows.", registry=registry
        )
        self._jwks = Counter("sluice_jwks_fetches", "Fetches of issuers' keys.", ["outcome"], registry=registry)
        self._jwks_keys = Gauge(
            "sluice_jwks_keys", "Keys of an issuer that tokens are verified with.", ["issuer"], registry=registry
        )
        self._images = Counter(
            "sluice_images", "Images of requests, by where they were and what came of them.", ["source", "outcome"],
            registry=registry,
        )  # fmt: skip
        self._image_bytes = Counter("sluice_image_bytes", "Bytes of images.", ["source"], registry=registry)
        self._image_seconds = Histogram(
            "sluice_image_seconds", "Fetching and decoding of one image.", ["source"], buckets=_DURATION,
            registry=registry,
        )  # fmt: skip
        self._jwt_refused = Counter("sluice_jwt_refusals", "JWTs refused, and why.", ["reason"], registry=registry)
        self._adapter_requests = Counter(
            "sluice_adapter_requests", "Settled requests of an adapter.", ["model", "adapter"], registry=registry
        )
        self._adapter_tokens = Counter(
            "sluice_adapter_tokens", "Tokens of settled requests.", ["model", "adapter", "kind"], registry=registry
        )
        self.loras = AdapterMetrics(registry)
        self._adapters = Gauge("sluice_adapters", "Adapters that may be named.", ["state"], registry=registry)
        self._adapter_bytes = Gauge(
            "sluice_adapters_resident_bytes", "Bytes of weights of adapters in the engine.", registry=registry
        )
        self._adapter_labels = BoundedLabels(MAX_ADAPTER_LABELS)
        self.responses_lost = Counter(
            "sluice_responses_lost", "Responses that were to be kept and could not be.", registry=registry
        )
        self.audit_lost = Counter("sluice_audit_entries_lost", "Audit entries lost for good.", registry=registry)
        info = Gauge("sluice_build_info", "Version of this process.", ["version"], registry=registry)
        info.labels(metadata.version("sluice")).set(1)
        # Bound once per label set: a labels() call costs more than the count itself.
        self._bound_decisions = lru_cache(_BOUND_CHILDREN)(self._limit_decisions.labels)
        self._bound_requests = lru_cache(_BOUND_CHILDREN)(self._requests.labels)
        self._bound_duration = lru_cache(_BOUND_CHILDREN)(self._duration.labels)
        self._bound_ttft = lru_cache(_BOUND_CHILDREN)(self._ttft.labels)
        self._bound_inter_token = lru_cache(_BOUND_CHILDREN)(self._inter_token.labels)
        self._bound_completion_size = lru_cache(_BOUND_CHILDREN)(self._completion_size.labels)
        self._bound_tokens = lru_cache(_BOUND_CHILDREN)(self._tokens.labels)
        self._bound_prompt_size = lru_cache(_BOUND_CHILDREN)(self._prompt_size.labels)
        self._bound_adapter_requests = lru_cache(_BOUND_CHILDREN)(self._adapter_requests.labels)
        self._bound_adapter_tokens = lru_cache(_BOUND_CHILDREN)(self._adapter_tokens.labels)
        self._bound_jwt_refused = lru_cache(_BOUND_CHILDREN)(self._jwt_refused.labels)

    def request_finished(
        self,
        route: str,
        status: int,
        outcome: str,
        code: str | None,
        seconds: float,
        exemplar: dict[str, str] | None = None,
    ) -> None:
        """Count one answered request; ``code`` is the error code or None, ``exemplar`` leads to its trace."""
        self._bound_requests(route, str(status), outcome, code or "").inc()
        self._bound_duration(route).observe(seconds, exemplar)

    def request_settled(
        self, model: str, prompt_tokens: int, completion_tokens: int, cached_tokens: int, adapter: str | None = None
    ) -> None:
        """Count the tokens of one admitted request, once. ``cached_tokens`` are among ``prompt_tokens``.

        ``adapter`` has series of its own beside those of its model.
        """
        if adapter is not None:
            label = self._adapter_labels(adapter)
            self._bound_adapter_requests(model, label).inc()
            self._bound_adapter_tokens(model, label, "prompt").inc(prompt_tokens)
            self._bound_adapter_tokens(model, label, "completion").inc(completion_tokens)
        self._bound_tokens(model, "prompt").inc(prompt_tokens)
        self._bound_tokens(model, "completion").inc(completion_tokens)
        self._bound_tokens(model, "cached").inc(cached_tokens)
        self._bound_prompt_size(model).observe(prompt_tokens)
        self._bound_completion_size(model).observe(completion_tokens)

    def first_token(self, route: str, model: str, seconds: float, exemplar: dict[str, str] | None = None) -> None:
        """Observe one request's time to first token; ``exemplar`` leads to its trace."""
        self._bound_ttft(route, model).observe(seconds, exemplar)
        self.recent.first_token(seconds)

    def stream_completed(self, route: str, model: str, seconds: float, intervals: float) -> None:
        """Observe a stream's pace: ``seconds`` from its first token to its last, which are ``intervals`` apart.

        Once per stream, so that a token costs nothing; vLLM's own ``vllm:inter_token_latency_seconds`` has each token.
        """
        if intervals > 0:
            self._bound_inter_token(route, model).observe(seconds / intervals)

    def front_rejected(self, code: str) -> None:
        """Count a refusal of the HTTP front; codes come from our own code, so they are bounded."""
        self._front.labels(code).inc()

    def spans_exported(self, count: int) -> None:
        """See :class:`gateway.observability.tracing.export.ExportObserver`."""
        self._spans_exported.inc(count)

    def spans_dropped(self, count: int, reason: str) -> None:
        """See :class:`gateway.observability.tracing.export.ExportObserver`."""
        self._spans_dropped.labels(reason).inc(count)

    def engine_state(self, state: EngineState) -> None:
        """Set the engine's gauges."""
        for phase in Phase:
            self._phase.labels(phase.value).set(phase is state.phase)
        self._running.set(state.running)
        self._waiting.set(state.waiting)
        self._kv.set(state.kv_usage)
        self._restarts.set(state.restarts)

    def models(self, models: Sequence[ModelInfo], pool: PoolState) -> None:
        """Set the gauges of the models and of the memory that they share; models come from the configuration."""
        for model in models:
            for state in ModelState:
                self._model_state.labels(model.id, state.value).set(state is model.state)
            self._model_bytes.labels(model.id).set(model.size_bytes)
            self._model_users.labels(model.id).set(model.users)
            if model.load_seconds is not None:
                self._model_load.labels(model.id).set(model.load_seconds)
        self._pool_budget.set(pool.budget_bytes)
        self._pool_used.set(pool.used_bytes)
        for (name, outcome), count in pool.loads.items():
            self._model_loads.labels(name, outcome).inc(self._since((name, outcome), count))
        for name, count in pool.evictions.items():
            self._model_evictions.labels(name).inc(self._since((name,), count))

    def _since(self, key: tuple[str, ...], count: int) -> int:
        """What ``count`` gained since it was told before."""
        before = self._told.get(key, 0)
        self._told[key] = count
        return count - before

    def waited(self, seconds: float) -> None:
        """See :class:`gateway.admission.GateObserver`."""
        self._queue_wait.observe(seconds)
        self.recent.waited(seconds)

    def shed(self, reason: str) -> None:
        """See :class:`gateway.admission.GateObserver`."""
        self._shed.labels(reason).inc()

    def gate(self, *, queued: int, bound: int) -> None:
        """Set the gate's gauges."""
        self._queued.set(queued)
        self._running_bound.set(bound)

    def limit_decided(self, by: str, outcome: str) -> None:
        """See :class:`gateway.limits.decide.LimitObserver`."""
        self._bound_decisions(by, outcome).inc()

    def limit_latency(self, seconds: float) -> None:
        """See :class:`gateway.limits.decide.LimitObserver`."""
        self._limit_latency.observe(seconds)

    def limit_store_error(self, reason: str) -> None:
        """See :class:`gateway.limits.decide.LimitObserver`."""
        self._limit_errors.labels(reason).inc()

    def limit_store(self, *, available: bool, pending: int) -> None:
        """See :class:`gateway.limits.decide.LimitObserver`."""
        self._limit_store.set(available)
        self._limit_pending.set(pending)

    def adapters(self, infos: Sequence[AdapterInfo]) -> None:
        """Set the adapters' gauges."""
        for state in ("cold", "loading", "resident", "broken"):
            self._adapters.labels(state).set(sum(1 for info in infos if info.state == state))
        self._adapter_bytes.set(sum(info.size for info in infos if info.state == "resident"))

    def usage_shipped(self, rows: int, behind: int) -> None:
        """See :class:`gateway.usage.shipper.ShipperObserver`."""
        self._usage_rows.inc(rows)
        self._usage_behind.set(behind)

    def usage_skipped(self, lines: int) -> None:
        """See :class:`gateway.usage.shipper.ShipperObserver`."""
        self._usage_skipped.inc(lines)

    def usage_looked(self, moment: float) -> None:
        """See :class:`gateway.usage.shipper.ShipperObserver`."""
        self._usage_looked.set(moment)

    def usage_database(self, available: bool) -> None:
        """See :class:`gateway.usage.shipper.ShipperObserver`."""
        self._usage_database.set(available)

    def jwks_fetched(self, good: bool) -> None:
        """See :class:`gateway.access.tokens.JwtObserver`."""
        self._jwks.labels("good" if good else "failed").inc()

    def jwks_keys(self, issuer: str, count: int) -> None:
        """See :class:`gateway.access.tokens.JwtObserver`. Issuers come from the configuration, so they are bounded."""
        self._jwks_keys.labels(issuer).set(count)

    def jwt_refused(self, reason: str) -> None:
        """See :class:`gateway.access.tokens.JwtObserver`."""
        self._bound_jwt_refused(reason).inc()

    def image_fetched(self, source: str, outcome: str, size: int, seconds: float) -> None:
        """See :class:`gateway.media.stage.MediaObserver`. Sources and outcomes are our own words."""
        self._images.labels(source, outcome).inc()
        self._image_bytes.labels(source).inc(size)
        self._image_seconds.labels(source).observe(seconds)

    def store_available(self, available: bool) -> None:
        """Whether the database of keys answers."""
        self._store.set(available)

    def keys_known(self, count: int) -> None:
        """How many keys are in memory."""
        self._keys.set(count)

    def families(self) -> list[Metric]:
        """What :meth:`exposition` writes, for a sum over processes."""
        return list(_Joined(self.registry, REGISTRY).collect())

    def exposition(self, accept: str = "") -> tuple[bytes, bytes]:
        """Content type and text of everything: ours, then the default registry with ``vllm:*`` and ``process_*``.

        Who accepts OpenMetrics is given it, with the exemplars that only it can carry.
        """
        joined = _Joined(self.registry, REGISTRY)
        if _takes_openmetrics(accept):
            # Any other escaping writes `vllm:` as `vllm_`; as it is, no name of ours needs any.
            text: bytes = openmetrics.generate_latest(joined, openmetrics.ALLOWUTF8)  # type: ignore[no-untyped-call]
            return openmetrics.CONTENT_TYPE_LATEST.encode(), text
        return CONTENT_TYPE_LATEST.encode(), generate_latest(joined)


def _takes_openmetrics(accept: str) -> bool:
    return any(part.partition(";")[0].strip().lower() == _OPENMETRICS for part in accept.split(","))


class _Joined:
    """Several registries as one: OpenMetrics is one document with one end."""

    def __init__(self, *registries: CollectorRegistry) -> None:
        self._registries = registries

    def collect(self) -> Iterable[Metric]:
        """Every registry's metrics, in order."""
        return chain.from_iterable(registry.collect() for registry in self._registries)
