"""What is counted of prompts that move: ``sluice_disaggregation_*``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gateway.disaggregation.peers import Standing

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class DisaggregationMetrics:
    """Peers come from the configuration, reasons are a few fixed words: labels are bounded. Times in seconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._prompts = Counter(
            "sluice_disaggregation_prompts", "Prompts of this server by where they were computed.", ["where"],
            registry=registry,
        )  # fmt: skip
        self._fallbacks = Counter(
            "sluice_disaggregation_fallbacks", "Prompts computed here because no peer did.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self._failures = Counter(
            "sluice_disaggregation_failures", "Peers that did not compute a prompt.", ["peer", "reason"],
            registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "sluice_disaggregation_prefill_seconds", "Prompts that a peer computed, there and back.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._standing = Gauge(
            "sluice_disaggregation_peer", "1 for what is known of a peer now.", ["peer", "standing"], registry=registry
        )
        self._served = Counter(
            "sluice_disaggregation_served", "Prompts that peers had computed here.", ["outcome"], registry=registry
        )

    def computed(self, where: str) -> None:
        """A prompt was computed ``peer`` or ``here``, or is not of a kind that moves: ``unsuited``."""
        self._prompts.labels(where).inc()

    def fell_back(self, reason: str) -> None:
        """It should have been computed elsewhere."""
        self._fallbacks.labels(reason).inc()

    def failed(self, peer: str, reason: str) -> None:
        """One peer did not do it."""
        self._failures.labels(peer, reason).inc()

    def took(self, seconds: float) -> None:
        """A peer did it."""
        self._seconds.observe(seconds)

    def stands(self, peer: str, standing: Standing) -> None:
        """What is known of a peer now."""
        for each in Standing:
            self._standing.labels(peer, each.value).set(each is standing)

    def served(self, outcome: str) -> None:
        """A prompt of a peer ended: ``completed``, ``refused``, ``failed`` or ``cancelled``."""
        self._served.labels(outcome).inc()
