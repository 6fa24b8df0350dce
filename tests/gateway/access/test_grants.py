from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.access.grants import POWERS, changed_fields, changed_grant, new_grant, require_within
from gateway.access.principal import ALL_SCOPES, Principal, Scope
from gateway.errors import ApiError
from gateway.limits.quota import Quota
from gateway.protocol.keys import KeyChange, KeyCreate, checked
from gateway.store.keys import KeyGrant

NOW = 1000.25


def grant_of(fields: Mapping[str, Any]) -> KeyGrant:
    return new_grant(checked(KeyCreate, {"name": "x", **fields}), tenant="ours", guard_policy=None, now=NOW)


def changed(before: KeyGrant, fields: Mapping[str, Any]) -> KeyGrant:
    return changed_grant(checked(KeyChange, fields), before, now=NOW)


FULL = {
    "tenant": "t",
    "scopes": ["training", "training"],
    "models": ["m"],
    "adapters": [],
    "quota": {"requests_per_minute": 1, "concurrent": 2},
    "weight": 2,
    "labels": {"a": "b", "c": ""},
    "expires_at": 2000,
}


# -- what is said -----------------------------------------------------------------------------------------------------


def test_defaults() -> None:
    assert grant_of({}) == KeyGrant(name="x", tenant="ours", scopes=frozenset((Scope.INFERENCE, Scope.READ_ONLY)))


def test_null_is_the_same_as_nothing_said() -> None:
    assert grant_of(dict.fromkeys(FULL)) == grant_of({})


def test_everything() -> None:
    assert grant_of(FULL) == KeyGrant(
        name="x",
        tenant="t",
        scopes=frozenset((Scope.TRAINING,)),
        models=frozenset(("m",)),
        adapters=frozenset(),
        quota=Quota(requests_per_minute=1, concurrent=2),
        weight=2.0,
        labels={"a": "b", "c": ""},
        expires_at=2000.0,
    )


def test_a_change_leaves_alone_what_it_does_not_name() -> None:
    before = grant_of(FULL)
    assert changed(before, {}) == before
    after = changed(before, {"quota": {"concurrent": None, "tokens_per_day": 5}, "labels": {"a": None, "d": "e"}})
    assert after.quota == Quota(requests_per_minute=1, tokens_per_day=5)
    assert after.labels == {"c": "", "d": "e"}
    assert (after.name, after.models, after.expires_at) == (before.name, before.models, before.expires_at)


def test_null_removes() -> None:
    removable = ["models", "adapters", "quota", "weight", "labels", "expires_at"]
    after = changed(grant_of(FULL), dict.fromkeys(removable))
    assert after == KeyGrant(name="x", tenant="t", scopes=frozenset((Scope.TRAINING,)))


@pytest.mark.parametrize("field", ["name", "tenant", "scopes"])
def test_what_every_key_has_cannot_be_removed(field: str) -> None:
    with pytest.raises(ApiError) as caught:
        changed(grant_of({}), {field: None})
    assert (caught.value.code, caught.value.body.param) == ("invalid_type", field)


def test_expiry_is_a_moment_to_come() -> None:
    assert grant_of({"ttl_seconds": 10}).expires_at == 1011.0
    assert grant_of({"expires_at": 1001}).expires_at == 1001.0
    for fields, param in (
        ({"expires_at": 1000}, "expires_at"),
        ({"expires_at": 2000, "ttl_seconds": 10}, "ttl_seconds"),
    ):
        with pytest.raises(ApiError) as caught:
            grant_of(fields)
        assert (caught.value.status, caught.value.body.param) == (400, param)


def test_labels_stay_bounded_over_many_changes() -> None:
    before = grant_of({"labels": {str(i): "x" for i in range(64)}})
    with pytest.raises(ApiError) as caught:
        changed(before, {"labels": {"one more": "x"}})
    assert caught.value.body.param == "labels"
    assert len(changed(before, {"labels": {"0": None, "one more": "x"}}).labels) == 64


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"surprise": 1}, "unknown_parameter", "surprise"),
        ({"id": "x"}, "unknown_parameter", "id"),
        ({"name": ""}, "empty_string", "name"),
        ({"name": " "}, "invalid_value", "name"),
        ({"name": "a\nb"}, "invalid_value", "name"),
        ({"name": "x" * 257}, "string_above_max_length", "name"),
        ({"name": 1}, "invalid_type", "name"),
        ({"tenant": "a b"}, "invalid_value", "tenant"),
        ({"tenant": ""}, "invalid_value", "tenant"),
        ({"tenant": "x" * 129}, "invalid_value", "tenant"),
        ({"tenant": "a\n"}, "invalid_value", "tenant"),
        ({"scopes": []}, "empty_array", "scopes"),
        ({"scopes": "admin"}, "invalid_type", "scopes"),
        ({"scopes": ["inference", "root"]}, "invalid_value", "scopes[1]"),
        ({"scopes": ["inference admin"]}, "invalid_value", "scopes[0]"),
        ({"scopes": ["ａdmin"]}, "invalid_value", "scopes[0]"),
        ({"scopes": [["admin"]]}, "invalid_value", "scopes[0]"),
        ({"scopes": ["admin"] * 17}, "array_above_max_length", "scopes"),
        ({"models": []}, "empty_array", "models"),
        ({"models": ["m", 1]}, "invalid_type", "models[1]"),
        ({"models": ["m"] * 1025}, "array_above_max_length", "models"),
        ({"adapters": ["../x"]}, "invalid_value", "adapters[0]"),
        ({"quota": 5}, "invalid_type", "quota"),
        ({"quota": {"rpm": 5}}, "unknown_parameter", "quota.rpm"),
        ({"quota": {"concurrent": -1}}, "integer_below_min_value", "quota.concurrent"),
        ({"quota": {"concurrent": 2**53}}, "integer_above_max_value", "quota.concurrent"),
        ({"quota": {"concurrent": 1.0}}, "invalid_type", "quota.concurrent"),
        ({"quota": {"concurrent": True}}, "invalid_type", "quota.concurrent"),
        ({"quota": {"concurrent": "5"}}, "invalid_type", "quota.concurrent"),
        ({"weight": 0}, "decimal_below_min_value", "weight"),
        ({"weight": 100.5}, "decimal_above_max_value", "weight"),
        ({"weight": float("inf")}, "decimal_above_max_value", "weight"),
        ({"weight": "2"}, "invalid_type", "weight"),
        ({"labels": [1]}, "invalid_type", "labels"),
        ({"labels": {"a": 1}}, "invalid_type", "labels.a"),
        ({"labels": {"": "x"}}, "empty_string", "labels."),
        ({"labels": {"a": "\x00"}}, "invalid_value", "labels.a"),
        ({"labels": {"a": "x" * 257}}, "string_above_max_length", "labels.a"),
        ({"labels": {str(i): "x" for i in range(65)}}, "too_many_keys", "labels"),
        ({"expires_at": 2.5}, "invalid_type", "expires_at"),
        ({"expires_at": "2030-01-01"}, "invalid_type", "expires_at"),
        ({"expires_at": 10**12}, "integer_above_max_value", "expires_at"),
        ({"ttl_seconds": 0}, "integer_below_min_value", "ttl_seconds"),
        ({"ttl_seconds": 10**12}, "integer_above_max_value", "ttl_seconds"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], code: str, param: str) -> None:
    for model in (KeyCreate, KeyChange):
        with pytest.raises(ApiError) as caught:
            checked(model, {"name": "x", **fields})
        assert (caught.value.status, caught.value.code, caught.value.body.param) == (400, code, param)


def test_a_name_is_needed() -> None:
    with pytest.raises(ApiError) as caught:
        checked(KeyCreate, {})
    assert (caught.value.code, caught.value.body.param) == ("missing_required_parameter", "name")


# -- who may give it --------------------------------------------------------------------------------------------------

ADMIN = Principal("a" * 16, frozenset((Scope.ADMIN,)))
BOUNDED = Principal(
    "b" * 16,
    frozenset((Scope.ADMIN,)),
    models=frozenset(("m", "n")),
    adapters=frozenset(("a",)),
    quota=Quota(requests_per_minute=10, tokens_per_day=100),
    weight=2.0,
    expires_at=2000.0,
)
WITHIN: dict[str, Any] = {
    "models": ["m"],
    "adapters": [],
    "quota": {"requests_per_minute": 10, "tokens_per_day": 0, "concurrent": 7},
    "weight": 2.0,
    "expires_at": 2000,
}


def denied(giver: Principal, fields: Mapping[str, Any], *, owner: bool = False) -> str | None:
    """The field that is refused."""
    try:
        require_within(giver, grant_of(fields), POWERS, owner=owner)
    except ApiError as error:
        return error.body.param
    return None


def test_one_may_give_what_one_has() -> None:
    assert denied(BOUNDED, WITHIN) is None
    assert denied(ADMIN, {"scopes": ["admin", "training", "inference", "read_only"]}) is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"models": ["m", "other"]}, "models"),
        ({"models": None}, "models"),
        ({"adapters": ["a", "b"]}, "adapters"),
        ({"adapters": None}, "adapters"),
        ({"quota": {"requests_per_minute": 11, "tokens_per_day": 100}}, "quota.requests_per_minute"),
        ({"quota": {"requests_per_minute": 10}}, "quota.tokens_per_day"),
        ({"quota": None}, "quota.requests_per_minute"),
        ({"weight": 2.01}, "weight"),
        ({"expires_at": 2001}, "expires_at"),
        ({"expires_at": None}, "expires_at"),
        ({"expires_at": None, "ttl_seconds": 10_000}, "expires_at"),
    ],
)
def test_nobody_gives_more_than_they_have(fields: dict[str, Any], param: str) -> None:
    assert denied(BOUNDED, {**WITHIN, **fields}) == param


def test_the_refusal_is_a_403_that_no_retry_mends() -> None:
    with pytest.raises(ApiError) as caught:
        require_within(BOUNDED, grant_of({}), POWERS, owner=False)
    error = caught.value
    assert (error.status, error.code, error.body.type) == (403, "insufficient_scope", "permission_error")
    assert dict(error.headers())[b"x-should-retry"] == b"false"


def test_scopes_are_bounded_by_ones_own() -> None:
    reader = Principal("c" * 16, frozenset((Scope.READ_ONLY,)))
    assert denied(reader, {"scopes": ["read_only"]}) is None
    assert denied(reader, {"scopes": ["read_only", "inference"]}) == "scopes"
    assert denied(reader, {"scopes": ["admin"]}) == "scopes"


def test_only_the_owner_has_no_weight_of_its_own() -> None:
    assert denied(ADMIN, {"weight": 5.0}) == "weight"
    assert denied(Principal("static", ALL_SCOPES), {"weight": 5.0}, owner=True) is None


def test_a_change_is_judged_by_what_it_changes() -> None:
    wide = grant_of({})
    request = checked(KeyChange, {"name": "renamed", "ttl_seconds": 5})
    assert changed_fields(request) == {"name", "expires_at"}
    require_within(BOUNDED, changed_grant(request, wide, now=NOW), changed_fields(request), owner=False)
