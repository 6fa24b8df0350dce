"""How a canary does, by Sluice's own series in Prometheus."""

from __future__ import annotations

import math
from typing import Final, Protocol

import httpx

from sluice_operator.canary import Seen
from sluice_operator.service import CANARY, STABLE, Service
from sluice_operator.spec import Canary, Rules

TIMEOUT: Final = 10.0
HISTOGRAMS: Final = {
    "timeToFirstToken": "sluice_time_to_first_token_seconds_bucket",
    "interToken": "sluice_inter_token_seconds_bucket",
    "request": "sluice_request_duration_seconds_bucket",
}
#: What says nothing about a version: the caller hung up, or was refused by a limit, a guard or its own mistake. A shed
#: request (503 `engine_overloaded`, `queue_timeout`) is load, which an autoscaler answers.
_LOAD: Final = 'code!~"engine_overloaded|queue_timeout|shutting_down"'
GOOD: Final = 'outcome="completed"'
BROKEN: Final = 'outcome="error"'
REFUSED: Final = f'outcome="rejected",status=~"5..",{_LOAD}'


class MetricsUnavailable(Exception):
    """Prometheus did not answer, or not with a number."""


class Metrics(Protocol):
    """Who judges a canary."""

    async def look(self, service: Service, canary: Canary) -> Seen:
        """What was seen in the window of its rules. Raises :class:`MetricsUnavailable`."""
        ...


def selector(service: Service, track: str, version: str) -> str:
    """Matchers of one track's series."""
    label = service.spec.metrics.version_label
    if label is not None:
        return f'namespace="{service.namespace}",{label}="{version}",pod=~"{service.name}-.*"'
    # Pods are named by Deployment, ReplicaSet and a suffix, so a stable pod has exactly two parts behind the name.
    middle = f"-{CANARY}" if track == CANARY else ""
    return f'namespace="{service.namespace}",pod=~"{service.name}{middle}-[a-z0-9]+-[a-z0-9]+"'


def counted(series: str, window: int) -> str:
    """How much counters grew in the window, those that were born in it included.

    ``increase`` does not know that a new series began at zero, and the first errors of a new pod make new series.
    """
    old = f"sum(increase({series}[{window}s]) and {series} offset {window}s) or vector(0)"
    new = f"sum({series} unless {series} offset {window}s) or vector(0)"
    return f"({old}) + ({new})"


def requests(matchers: str, kind: str, window: int) -> str:
    """Requests of one kind (:data:`GOOD`, :data:`BROKEN`, :data:`REFUSED`) in the window."""
    return counted(f"sluice_requests_total{{{matchers},{kind}}}", window)


def latency(matchers: str, rules: Rules) -> str:
    """The quantile of the chosen latency."""
    series = f"{HISTOGRAMS[rules.latency]}{{{matchers}}}"
    return f"histogram_quantile({rules.quantile}, sum by (le) (rate({series}[{rules.window_seconds}s])))"


class Prometheus:
    """A Prometheus by its HTTP API."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def look(self, service: Service, canary: Canary) -> Seen:
        """See :class:`Metrics`."""
        address, rules = service.spec.metrics.prometheus_url, canary.rules
        if address is None:
            raise MetricsUnavailable("metrics.prometheusURL is not set")
        ours = selector(service, CANARY, canary.version)
        good, *bad = [
            await self._value(address, requests(ours, kind, rules.window_seconds)) or 0.0
            for kind in (GOOD, BROKEN, REFUSED)
        ]
        total = good + sum(bad)
        ratio = None
        if rules.max_latency_ratio is not None:
            theirs = selector(service, STABLE, service.spec.model.version)
            slow = await self._value(address, latency(ours, rules))
            usual = await self._value(address, latency(theirs, rules))
            ratio = slow / usual if slow is not None and usual else None
        return Seen(total, good / total if total else None, ratio)

    async def _value(self, address: str, query: str) -> float | None:
        """One number; None for an empty answer and for NaN, which is what nothing divided by nothing gives."""
        try:
            response = await self._client.get(f"{address.rstrip('/')}/api/v1/query", params={"query": query})
            answer = response.json()
            if response.status_code != 200 or answer["status"] != "success":
                raise MetricsUnavailable(f"Prometheus answered {response.status_code}")
            result = answer["data"]["result"]
            value = float(result[0]["value"][1]) if result else math.nan
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, IndexError, TypeError) as error:
            raise MetricsUnavailable(f"{type(error).__name__}: {error}") from error
        return None if math.isnan(value) else value
