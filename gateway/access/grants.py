"""What a request says of a key, as what the key may do; and whether its caller may give that much."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any, Final

from gateway.access.principal import Principal, Scope
from gateway.errors import beyond_own_powers
from gateway.limits.quota import Quota
from gateway.protocol.keys import LAST_MOMENT, MAX_LABELS, KeyChange, KeyCreate
from gateway.protocol.validation import bad_value, too_many_keys, wrong_type
from gateway.store.keys import KeyGrant

#: Fields that say how powerful a key is.
POWERS: Final = ("scopes", "models", "adapters", "quota", "weight", "expires_at", "guard_policy")
_WITHOUT_DEFAULT: Final = {"name": "a string", "tenant": "a string", "scopes": "an array"}


def new_grant(request: KeyCreate, *, tenant: str, guard_policy: str | None, now: float) -> KeyGrant:
    """The grant of a new key; ``tenant`` and ``guard_policy`` are the caller's.

    Raises :class:`~gateway.errors.ApiError` 400.
    """
    given = {name: value for name, value in _given(request).items() if value is not None}
    blank = KeyGrant(name=request.name, tenant=tenant, guard_policy=guard_policy)
    return _merged(blank, given, now)


def changed_grant(request: KeyChange, before: KeyGrant, *, now: float) -> KeyGrant:
    """``before`` with the change. Raises :class:`~gateway.errors.ApiError` 400."""
    given = _given(request)
    for name, expected in _WITHOUT_DEFAULT.items():
        if name in given and given[name] is None:
            raise wrong_type(expected, None).at(name)
    return _merged(before, given, now)


def changed_fields(request: KeyChange) -> frozenset[str]:
    """The fields of a grant that ``request`` speaks of."""
    given = request.model_fields_set
    return frozenset(given - {"ttl_seconds"} | ({"expires_at"} if "ttl_seconds" in given else set()))


def require_within(giver: Principal, grant: KeyGrant, powers: Collection[str], *, owner: bool) -> None:
    """Raise :class:`~gateway.errors.ApiError` 403 for the first of ``powers`` in which ``grant`` exceeds ``giver``.

    The ``owner`` of the deployment has no weight of its own that could bound what it gives.
    """
    beyond = {
        "scopes": not all(giver.may(scope) for scope in grant.scopes),
        "models": not _subset(grant.models, giver.models),
        "adapters": not _subset(grant.adapters, giver.adapters),
        "weight": not owner and grant.weight > giver.weight,
        # Whoever is guarded in one way hands out no other.
        "guard_policy": giver.guard_policy is not None and grant.guard_policy != giver.guard_policy,
        "expires_at": giver.expires_at is not None and not _ends_by(grant.expires_at, giver.expires_at),
    }
    for power in POWERS:
        if power not in powers:
            continue
        if power == "quota":
            _require_quota_within(giver.quota, grant.quota)
        elif beyond[power]:
            raise beyond_own_powers(power)


def _require_quota_within(own: Quota, given: Quota) -> None:
    for each in fields(Quota):
        bound, value = getattr(own, each.name), getattr(given, each.name)
        if bound is not None and (value is None or value > bound):
            raise beyond_own_powers(f"quota.{each.name}")


def _subset(names: frozenset[str] | None, of: frozenset[str] | None) -> bool:
    return of is None or (names is not None and names <= of)


def _ends_by(moment: float | None, latest: float) -> bool:
    return moment is not None and moment <= latest


def _given(request: KeyCreate | KeyChange) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.model_fields_set}


def _merged(before: KeyGrant, given: Mapping[str, Any], now: float) -> KeyGrant:
    """RFC 7396: objects are merged, null removes."""
    values: dict[str, Any] = {name: given[name] for name in ("name", "tenant") if name in given}
    if "scopes" in given:
        values["scopes"] = frozenset(map(Scope, given["scopes"]))
    for name in ("models", "adapters"):
        if name in given:
            values[name] = None if given[name] is None else frozenset(given[name])
    if "quota" in given:
        quota = given["quota"]
        values["quota"] = Quota() if quota is None else replace(before.quota, **_given(quota))
    if "weight" in given:
        values["weight"] = 1.0 if given["weight"] is None else float(given["weight"])
    if "guard_policy" in given:
        values["guard_policy"] = given["guard_policy"]
    if "labels" in given:
        values["labels"] = _merged_labels(before.labels, given["labels"])
    if "expires_at" in given or "ttl_seconds" in given:
        values["expires_at"] = _expiry(given, now)
    return replace(before, **values)


def _merged_labels(before: Mapping[str, str], given: Mapping[str, str | None] | None) -> dict[str, str]:
    if given is None:
        return {}
    labels = {name: text for name, text in {**before, **given}.items() if text is not None}
    if len(labels) > MAX_LABELS:
        raise too_many_keys(MAX_LABELS, len(labels)).at("labels")
    return labels


def _expiry(given: Mapping[str, Any], now: float) -> float | None:
    moment, ttl = given.get("expires_at"), given.get("ttl_seconds")
    if moment is not None and ttl is not None:
        raise bad_value("Give either this or 'expires_at'.").at("ttl_seconds")
    if ttl is not None:
        return float(min(math.ceil(now) + ttl, LAST_MOMENT))
    if moment is not None and moment <= now:
        raise bad_value("It must be in the future.").at("expires_at")
    return None if moment is None else float(moment)
