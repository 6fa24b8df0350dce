"""What each tenant used: series of their own for the busiest ones, one series for everybody else.

Names of tenants come from keys and tokens, so their number has no bound; the number of series must have one. A tenant
is *shown* or not at any moment, and what it uses counts for its own series while it is, for ``other`` while it is not.
So every series only grows, and all of them together are the whole. Who is shown is decided anew once a minute, by the
tokens of the last hours.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

OTHER: Final = "other"
SHOWN: Final = 20
#: Tenants whose use is remembered, so that they can rise; the least busy are forgotten first.
REMEMBERED: Final = 4096
REVIEW_SECONDS: Final = 60.0
#: What was used so long ago counts half.
HALF_LIFE_SECONDS: Final = 3600.0

_KINDS: Final = ("prompt", "cached", "completion")


@dataclass(slots=True)
class _Counts:
    """Totals since the start of the process."""

    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    outcomes: dict[str, int] = field(default_factory=dict)
    cost_nanos: int = 0


class TenantMetrics(Collector):
    """``sluice_tenant_tokens``, ``sluice_tenant_requests`` and ``sluice_tenant_cost``, for at most ``shown`` tenants.

    For one event loop; :meth:`collect` may run in another thread: it only reads what it was given whole.
    """

    def __init__(
        self, shown: int = SHOWN, remembered: int = REMEMBERED, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most_shown = shown
        self._most_remembered = max(remembered, shown)
        self._clock = clock
        self._started = clock()
        self._reviewed = self._started
        self._scores: dict[str, float] = {}
        self._shown: dict[str, _Counts] = {}
        self._hidden: dict[str, _Counts] = {}
        self._other = _Counts()

    def finished(self, tenant: str, outcome: str) -> None:
        """Count one answered request."""
        outcomes = self._counts(tenant).outcomes
        outcomes[outcome] = outcomes.get(outcome, 0) + 1

    def used(self, tenant: str, prompt: int, cached: int, completion: int, cost_nanos: int | None) -> None:
        """Count what one settled request used. ``cached`` are among ``prompt``; the cost is in billionths."""
        counts = self._counts(tenant)
        tokens = counts.tokens
        tokens["prompt"] += prompt
        tokens["cached"] += cached
        tokens["completion"] += completion
        counts.cost_nanos += cost_nanos or 0
        # A later token weighs more: the same order as if all older ones were halved each half-life.
        weight = 2.0 ** ((self._clock() - self._started) / HALF_LIFE_SECONDS)
        self._scores[tenant] = self._scores.get(tenant, 0.0) + (prompt + completion) * weight

    def collect(self) -> Iterable[CounterMetricFamily]:
        """All series, for a scrape."""
        tokens = CounterMetricFamily("sluice_tenant_tokens", "Tokens by tenant.", labels=["tenant", "kind"])
        requests = CounterMetricFamily("sluice_tenant_requests", "Requests by tenant.", labels=["tenant", "outcome"])
        cost = CounterMetricFamily("sluice_tenant_cost", "Cost by tenant, in the prices' currency.", labels=["tenant"])
        for tenant, counts in [*list(self._shown.items()), (OTHER, self._other)]:
            for kind, count in counts.tokens.items():
                tokens.add_metric([tenant, kind], count)
            for outcome, count in list(counts.outcomes.items()):
                requests.add_metric([tenant, outcome], count)
            cost.add_metric([tenant], counts.cost_nanos / 1e9)
        return tokens, requests, cost

    def _counts(self, tenant: str) -> _Counts:
        """Where what ``tenant`` uses now is counted."""
        now = self._clock()
        if now - self._reviewed >= REVIEW_SECONDS:
            self._reviewed = now
            self._review()
        counts = self._shown.get(tenant)
        if counts is not None:
            return counts
        if tenant != OTHER and len(self._shown) < self._most_shown:
            return self._show(tenant)
        self._scores.setdefault(tenant, 0.0)
        return self._other

    def _show(self, tenant: str) -> _Counts:
        self._scores.setdefault(tenant, 0.0)
        counts = self._shown[tenant] = self._hidden.pop(tenant, _Counts())
        return counts

    def _review(self) -> None:
        """Show the busiest; keep the counts of those that are not any more, or their series would fall when back."""
        self._rebase()
        self._scores.pop(OTHER, None)
        if len(self._scores) > self._most_remembered:
            self._scores = dict(heapq.nlargest(self._most_remembered, self._scores.items(), key=lambda item: item[1]))
        busiest = set(heapq.nlargest(self._most_shown, self._scores, key=self._rank))
        for tenant in self._shown.keys() - busiest:
            self._hidden[tenant] = self._shown.pop(tenant)
        for tenant in busiest - self._shown.keys():
            self._show(tenant)
        # Forgotten for good: should it ever rise again, its series starts anew, as after a restart.
        for tenant in self._hidden.keys() - self._scores.keys():
            del self._hidden[tenant]

    def _rank(self, tenant: str) -> tuple[float, bool]:
        """Among equals, who is shown stays."""
        return self._scores[tenant], tenant in self._shown

    def _rebase(self) -> None:
        """Keep the weights small: they double each half-life."""
        now = self._clock()
        weight = 2.0 ** ((now - self._started) / HALF_LIFE_SECONDS)
        self._scores = {tenant: score / weight for tenant, score in self._scores.items()}
        self._started = now
