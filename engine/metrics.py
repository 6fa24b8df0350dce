"""vLLM's own metrics, of several engines in one process.

vLLM keeps them in prometheus_client's default registry, under names that can be taken only once, and unregisters those
of any earlier engine when a new one is made (``PrometheusStatLogger`` and ``unregister_vllm_metrics`` in
vllm/v1/metrics, checked against 0.32.0). So each engine's collectors are taken out as soon as they are made, and shown
together: one family, the engines apart by the label ``model_name``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_PREFIX: Final = "vllm:"


class VllmMetrics(Collector):
    """Keeps the collectors of every engine, and is one itself."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self._kept: dict[str, list[Collector]] = {}

    def adopt(self, engine: str) -> None:
        """Take what the engine of that name has just put into the registry, in place of what it had before."""
        found = [each for each in list(self._registry._collector_to_names) if _is_vllms(each)]
        for collector in found:
            self._registry.unregister(collector)
        self._kept[engine] = found

    def forget(self, engine: str) -> None:
        """Show nothing more of an engine. Idempotent."""
        self._kept.pop(engine, None)

    def show(self) -> None:
        """Be seen by scrapes of the registry."""
        self._registry.register(self)

    def hide(self) -> None:
        """Undo :meth:`show`."""
        self._registry.unregister(self)

    def collect(self) -> Iterator[Metric]:
        """Every family once, with the samples of all engines."""
        families: dict[str, Metric] = {}
        for metric in self._each():
            family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            family.samples.extend(metric.samples)
        yield from families.values()

    def _each(self) -> Iterable[Metric]:
        for collectors in list(self._kept.values()):
            for collector in collectors:
                yield from collector.collect()


def _is_vllms(collector: Collector) -> bool:
    return str(getattr(collector, "_name", "")).startswith(_PREFIX)
