"""What the guard tells of itself: ``sluice_guard_*``."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10)


class GuardObserver(Protocol):
    """Told what the guard does. Names of evaluators and risks come from the configuration, so they are bounded."""

    def judged(self, risk: str, stage: str, outcome: str) -> None:
        """One verdict: ``safe`` or ``flagged``."""

    def acted(self, stage: str, action: str) -> None:
        """Something flagged had a consequence: ``block``, ``annotate``, ``redact`` or ``shadow``."""

    def took(self, evaluator: str, seconds: float) -> None:
        """An evaluator answered after ``seconds``."""

    def failed(self, evaluator: str, reason: str) -> None:
        """An evaluator did not answer, for one of a few fixed reasons."""

    def cached(self, hits: int, misses: int) -> None:
        """Findings that were known, and those that were not."""

    def saved(self, tokens: int) -> None:
        """A generation was cut ``tokens`` before its bound."""

    def available(self, evaluator: str, available: bool) -> None:
        """Whether an evaluator is asked at all."""


class GuardMetrics:
    """See :class:`GuardObserver`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._verdicts = Counter(
            "sluice_guard_verdicts", "Verdicts of the guard.", ["risk", "stage", "outcome"], registry=registry
        )
        self._actions = Counter(
            "sluice_guard_actions", "What followed from flagged content.", ["stage", "action"], registry=registry
        )
        self._seconds = Histogram(
            "sluice_guard_seconds", "How long evaluators took.", ["evaluator"], buckets=_SECONDS, registry=registry
        )
        self._failures = Counter(
            "sluice_guard_failures", "Looks that ended without a verdict.", ["evaluator", "reason"], registry=registry
        )
        self._cache = Counter("sluice_guard_cache", "Findings looked up by hash.", ["outcome"], registry=registry)
        self._saved = Counter(
            "sluice_guard_tokens_saved", "Tokens below their bound at which generations were cut.", registry=registry
        )
        self._available = Gauge(
            "sluice_guard_evaluator_available", "1 while an evaluator is asked.", ["evaluator"], registry=registry
        )
        self._bound_verdicts = lru_cache(512)(self._verdicts.labels)
        self._bound_seconds = lru_cache(64)(self._seconds.labels)

    def judged(self, risk: str, stage: str, outcome: str) -> None:
        """See :class:`GuardObserver`."""
        self._bound_verdicts(risk, stage, outcome).inc()

    def acted(self, stage: str, action: str) -> None:
        """See :class:`GuardObserver`."""
        self._actions.labels(stage, action).inc()

    def took(self, evaluator: str, seconds: float) -> None:
        """See :class:`GuardObserver`."""
        self._bound_seconds(evaluator).observe(seconds)

    def failed(self, evaluator: str, reason: str) -> None:
        """See :class:`GuardObserver`."""
        self._failures.labels(evaluator, reason).inc()

    def cached(self, hits: int, misses: int) -> None:
        """See :class:`GuardObserver`."""
        if hits:
            self._cache.labels("hit").inc(hits)
        if misses:
            self._cache.labels("miss").inc(misses)

    def saved(self, tokens: int) -> None:
        """See :class:`GuardObserver`."""
        self._saved.inc(tokens)

    def available(self, evaluator: str, available: bool) -> None:
        """See :class:`GuardObserver`."""
        self._available.labels(evaluator).set(available)
