"""What is counted where the account of adapters is kept: of several workers, in their parent."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

_DURATION = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class AdapterMetrics:
    """See :class:`engine.adapters.residency.LoraObserver`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._loads = Counter(
            "sluice_adapter_loads", "Adapters brought into the engine.", ["outcome"], registry=registry
        )
        self._load = Histogram(
            "sluice_adapter_load_seconds", "Bringing one adapter into the engine.", buckets=_DURATION, registry=registry
        )
        self._wait = Histogram(
            "sluice_adapter_wait_seconds", "Wait of requests for an adapter that was not in the engine.",
            buckets=_DURATION, registry=registry,
        )  # fmt: skip
        self._evictions = Counter("sluice_adapter_evictions", "Adapters that made room for others.", registry=registry)

    def adapter_loaded(self, seconds: float, *, good: bool) -> None:
        """See :class:`engine.adapters.residency.LoraObserver`."""
        self._loads.labels("good" if good else "failed").inc()
        self._load.observe(seconds)

    def adapter_evicted(self) -> None:
        """See :class:`engine.adapters.residency.LoraObserver`."""
        self._evictions.inc()

    def adapter_waited(self, seconds: float) -> None:
        """See :class:`engine.adapters.residency.LoraObserver`."""
        self._wait.observe(seconds)
