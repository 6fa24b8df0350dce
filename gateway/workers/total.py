"""The metrics of all workers as one: what a scrape of the one port shows.

What is counted is added up. What a worker that died had counted when it was last asked stays in the sum, so no counter
that somebody has seen falls. Gauges are added too, except those that all workers see of the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from gateway.workers.messages import Counted

#: The engine tells one of its clients per step how it is: the last word counts.
_LATEST: Final = frozenset({"sluice_engine_running", "sluice_engine_waiting", "sluice_engine_kv_usage_ratio"})
_ENGINE_PREFIX: Final = "vllm:"
#: What every worker sees alike, or of which the worst matters.
_HIGHEST: Final = frozenset(
    {
        "sluice_engine_phase",
        "sluice_engine_restarts",
        "sluice_model_state",
        "sluice_model_memory_bytes",
        "sluice_model_load_seconds",
        "sluice_models_budget_bytes",
        "sluice_models_reserved_bytes",
        "sluice_event_loop_lag_max_seconds",
        "sluice_ledger_degraded",
        "sluice_keys_known",
        "sluice_adapters",
        "sluice_adapters_resident_bytes",
        "sluice_jwks_keys",
        "sluice_build_info",
        "python_info",
    }
)
_LOWEST: Final = frozenset(
    {
        "sluice_limit_store_available",
        "sluice_store_available",
        "sluice_usage_database_available",
        "sluice_usage_looked_timestamp_seconds",
        "process_start_time_seconds",
    }
)
_COUNTED: Final = frozenset({"counter", "histogram", "summary"})

_Key = tuple[str, tuple[tuple[str, str], ...]]


class Total:
    """Sums over workers by their numbers; those of the dead are kept as far as they grow only."""

    def __init__(self) -> None:
        self._last: dict[int, Counted] = {}
        self._buried: list[Metric] = []

    def told(self, worker: int, counted: Counted) -> None:
        """The newest word of a worker."""
        self._last[worker] = counted

    def died(self, worker: int) -> None:
        """Keep what it had counted when it was last asked."""
        counted = self._last.pop(worker, None)
        if counted is not None:
            grown = [family for family in counted.families if family.type in _COUNTED]
            self._buried = list(_summed([*self._buried, *grown]).values())

    def text(self, more: Iterable[Metric] = ()) -> bytes:
        """The exposition of the sum, and of what the parent itself counts."""
        registry = CollectorRegistry()
        registry.register(_Shown(list(_summed([*self.families(), *more]).values())))
        return generate_latest(registry)

    def families(self) -> list[Metric]:
        """Every family once."""
        newest = max(self._last.values(), key=lambda counted: counted.told_at, default=None)
        families = list(self._buried)
        for counted in self._last.values():
            families += [each for each in counted.families if counted is newest or not _is_latest(each)]
        return list(_summed(families).values())


class _Shown(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _is_latest(family: Metric) -> bool:
    return family.type not in _COUNTED and (family.name in _LATEST or family.name.startswith(_ENGINE_PREFIX))


def _summed(families: Iterable[Metric]) -> dict[str, Metric]:
    summed: dict[str, Metric] = {}
    values: dict[str, dict[_Key, float]] = {}
    for family in families:
        if family.name not in summed:
            summed[family.name] = Metric(family.name, family.documentation, family.type)
            values[family.name] = {}
        _add(values[family.name], family)
    for name, found in values.items():
        summed[name].samples = [Sample(sample, dict(labels), value) for (sample, labels), value in found.items()]
    return summed


def _add(values: dict[_Key, float], family: Metric) -> None:
    join = _joining(family)
    for sample in family.samples:
        key = sample.name, tuple(_labels(sample.labels))
        joined = min if sample.name.endswith("_created") else join
        values[key] = joined(values[key], sample.value) if key in values else sample.value


def _labels(labels: Mapping[str, str]) -> list[tuple[str, str]]:
    # In their own order: a histogram's buckets are told apart by the last one.
    return list(labels.items())


def _joining(family: Metric) -> Callable[[float, float], float]:
    if family.type in _COUNTED:
        return _plus
    if family.name in _HIGHEST:
        return max
    return min if family.name in _LOWEST else _plus


def _plus(one: float, other: float) -> float:
    return one + other
