"""What the registry exports. An arm is a version of a name; administrators make both, and their number is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gateway.observability.metrics import OTHER, BoundedLabels
from gateway.registry.endings import Ending
from gateway.registry.names import Name, arm_id, split_id

#: Arms with series of their own; those that come later share one.
MAX_ARM_LABELS: Final = 256
_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class RegistryMetrics:
    """Times in seconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._bounded = BoundedLabels(MAX_ARM_LABELS)
        self._names = Gauge("sluice_registry_names", "Public names that are known.", registry=registry)
        self._share = Gauge(
            "sluice_registry_canary_share_ratio", "Part of the traffic that a canary gets.", ["name", "arm"],
            registry=registry,
        )  # fmt: skip
        self._turns = Counter(
            "sluice_registry_canary_turns", "What this process did with canaries: stepped, promoted, rolled_back.",
            ["name", "outcome"], registry=registry,
        )  # fmt: skip
        self._shadows = Counter(
            "sluice_registry_shadows", "Shadow requests: completed, failed, or dropped: crowded, cold, images.",
            ["name", "arm", "outcome"], registry=registry,
        )  # fmt: skip
        self._requests = Counter(
            "sluice_registry_requests", "Requests of public names, by how they ended.", ["name", "arm", "outcome"],
            registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "sluice_registry_request_seconds", "Time of requests that succeeded.", ["name", "arm"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip

    def known(self, names: Sequence[Name]) -> None:
        """Set the gauges: these are all."""
        self._names.set(len(names))
        self._share.clear()
        for name in names:
            if name.canary is not None:
                self._share.labels(name.name, arm_id(name.name, name.canary.version)).set(name.canary.share)

    def turned(self, name: str, turn: str) -> None:
        """This process moved a canary."""
        self._turns.labels(name, turn).inc()

    def shadowed(self, arm: str, outcome: str) -> None:
        """A shadow ended, or was dropped."""
        name, label = self._labels(arm)
        self._shadows.labels(name, label, outcome).inc()

    def ended(self, arm: str, ending: Ending, seconds: float) -> None:
        """A request of ``arm`` is over."""
        name, label = self._labels(arm)
        self._requests.labels(name, label, ending).inc()
        if ending == "succeeded":
            self._seconds.labels(name, label).observe(seconds)

    def _labels(self, arm: str) -> tuple[str, str]:
        label = self._bounded(arm)
        return (OTHER, OTHER) if label == OTHER else (split_id(arm)[0], label)
