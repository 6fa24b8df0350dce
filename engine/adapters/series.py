"""A bound on ``vllm:lora_requests_info``: one series per combination of adapters that ever ran together is too many.

Fence around vLLM's Prometheus logger (vllm/v1/metrics/loggers.py, checked against 0.32.0), which sets the series of the
present combination to the present time; readers want the latest.
"""

from __future__ import annotations

from typing import Any, Final

CHECKED_VERSION: Final = "0.32.0"
MAX_SERIES: Final = 64


class BoundedSeries:
    """Stands in for a prometheus_client metric with labels; forgets all series when there are too many."""

    def __init__(self, metric: Any, limit: int = MAX_SERIES) -> None:
        self._metric = metric
        self._limit = limit
        self._known: set[tuple[tuple[str, str], ...]] = set()

    def labels(self, **labels: Any) -> Any:
        """The child of these labels."""
        key = tuple(sorted((name, str(value)) for name, value in labels.items()))
        if key not in self._known:
            if len(self._known) >= self._limit:
                self._metric.clear()
                self._known.clear()
            self._known.add(key)
        return self._metric.labels(**labels)


def bound_lora_series(llm: Any) -> None:
    """Put :class:`BoundedSeries` in front of the gauge; does nothing where there is none."""
    for logger in llm.logger_manager.stat_loggers if llm.logger_manager else ():
        if getattr(logger, "gauge_lora_info", None) is not None:
            logger.gauge_lora_info = BoundedSeries(logger.gauge_lora_info)
