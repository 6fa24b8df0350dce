"""From settings to limits."""

from __future__ import annotations

from collections.abc import Callable

from gateway.limits.client import connector
from gateway.limits.decide import OPEN_SECONDS, AloneDecider, Decider, LimitObserver, SharedDecider
from gateway.limits.limiter import LimitRules, RateLimits
from gateway.limits.link import RedisLink
from gateway.limits.local import LocalShare
from gateway.limits.memory import OWN_LEASE_MS, MemoryStore
from gateway.limits.plan import Bucket, LimitPlan
from gateway.limits.redis import SCRIPTS, RedisStore
from gateway.settings import AddressLimitSettings, Settings


def build_limits(
    settings: Settings, observer: LimitObserver, rules: Callable[[], LimitRules] | None = None
) -> RateLimits:
    """Limits in Redis if there is one, else in memory; ``rules`` are those of the running request, if they change.

    Raises :class:`~gateway.settings.SettingsError`.
    """
    first = limit_rules(settings, settings.limits.namespace)
    # The shared store asks the plan for names only, and those depend on what never changes.
    return RateLimits(rules or (lambda: first), _decider(settings, first.plan, observer))


def limit_rules(settings: Settings, namespace: str) -> LimitRules:
    """The limits that ``settings`` ask for, counted in ``namespace``."""
    limits = settings.limits
    key, address = limits.key.quota(), _bucket(limits.address)
    plan = LimitPlan(namespace, key, {name: each.quota() for name, each in limits.model.items()}, address)
    return LimitRules(plan, key, address)


def _decider(settings: Settings, plan: LimitPlan, observer: LimitObserver) -> Decider:
    url, limits = settings.redis(), settings.limits
    if url is None:
        return AloneDecider(MemoryStore(OWN_LEASE_MS), observer)
    link = RedisLink(connector(url, timeout=None, connect_timeout=1.0), SCRIPTS, limits.redis_timeout)
    return SharedDecider(
        RedisStore(link, plan, int(limits.lease_seconds * 1000)),
        LocalShare(limits.replicas, int(OPEN_SECONDS * 1000)),
        policy=limits.redis_failure,
        timeout=limits.redis_timeout,
        lease_seconds=limits.lease_seconds,
        observer=observer,
    )


def _bucket(settings: AddressLimitSettings) -> Bucket | None:
    return None if settings.burst is None else Bucket(settings.burst, settings.per_second)
