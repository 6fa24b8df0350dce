from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.claims import ClaimRules, Lifetime
from gateway.access.jws import Reason, TokenRefused
from gateway.access.principal import Principal, Scope
from gateway.limits.quota import UNLIMITED, Quota
from gateway.settings import JwtSettings
from tests.support.issuer import AUDIENCE, ISSUER, claims


def rules(**changes: Any) -> ClaimRules:
    return ClaimRules(JwtSettings(**{"issuer": ISSUER, "audience": AUDIENCE, **changes}))


def principal(given_claims: dict[str, Any], **changes: Any) -> Principal:
    return rules(**changes).principal(given_claims)


def refusal(given_claims: dict[str, Any], **changes: Any) -> Reason:
    with pytest.raises(TokenRefused) as refused:
        principal(given_claims, **changes)
    return refused.value.reason


# -- whom a token names -----------------------------------------------------------------------------------------------


def test_issuer_and_subject_make_the_id() -> None:
    digest = hashlib.sha256(f"{ISSUER}\0someone".encode()).hexdigest()
    assert principal(claims()).id == f"jwt-{digest[:24]}"
    assert principal(claims(sub="someone else")).id != principal(claims()).id
    assert principal(claims(), issuer=ISSUER + "/").id != principal(claims()).id
    assert principal(claims(sub="ü" * 255)).id.isascii()


@pytest.mark.parametrize("sub", [None, "", 7, ["someone"], {"a": 1}, True, "x" * 256])
def test_subjects_that_are_none(sub: object) -> None:
    assert refusal(claims(sub=sub)) is Reason.SUBJECT


def test_without_configuration_claims_say_nothing() -> None:
    unasked = {"tenant": "evil", "models": ["m"], "adapters": ["a"], "quota": {"concurrent": 1}, "weight": 100}
    exp = claims()["exp"]
    assert principal(claims(exp=exp, **unasked)) == Principal(
        principal(claims()).id, frozenset({Scope.INFERENCE}), expires_at=float(exp)
    )


# -- scopes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("inference", {"inference"}),
        ("openid inference read_only", {"inference", "read_only"}),
        (["training", "unknown"], {"training"}),
        (["admin"], {"admin"}),
        (None, set()),
        ("", set()),
        ([], set()),
        (7, set()),
        (True, set()),
        ({"admin": True}, set()),
        (["inference", 7], set()),
        ([["admin"]], set()),
        (["inference admin"], set()),
        ("inference\u00a0admin", set()),
        ("inference,admin", set()),
        ("inference\tadmin", set()),
        ("inference\nadmin", set()),
        ("Inference ADMIN", set()),
        ("аdmin", set()),
        ("ａｄｍｉｎ", set()),
        ("admin\0", set()),
        (" inference  ", {"inference"}),
    ],
)
def test_words_that_we_know(scope: object, expected: set[str]) -> None:
    assert {each.value for each in principal(claims(scope=scope)).scopes} == expected


def test_an_operator_s_own_words_and_paths() -> None:
    mapped = {"scopes": {"llm-user": "inference", "llm ops": "admin"}}
    assert principal(claims(scope="llm-user inference"), **mapped).scopes == {Scope.INFERENCE}
    assert principal(claims(scope=["llm ops"]), **mapped).scopes == {Scope.ADMIN}
    roles = claims(scope="admin", realm_access={"roles": ["read_only"]})
    assert principal(roles, scope_claim="realm_access.roles").scopes == {Scope.READ_ONLY}
    assert principal(claims(scope="admin"), scope_claim="realm_access.roles").scopes == frozenset()
    assert principal(claims(scope="admin", realm_access=["roles"]), scope_claim="realm_access.roles").scopes == set()


def test_a_claim_whose_name_has_dots() -> None:
    name = "https://issuer.example/roles"
    assert principal({**claims(), name: ["training"]}, scope_claim=name).scopes == {Scope.TRAINING}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)))
def test_nothing_but_our_words_gives_a_scope(scope: Any) -> None:
    words = scope.split(" ") if isinstance(scope, str) else scope if isinstance(scope, list) else []
    granted = principal({**claims(), "scope": scope}).scopes
    assert {each.value for each in granted} <= {word for word in words if isinstance(word, str)}


# -- what else a token may say ----------------------------------------------------------------------------------------


def test_tenant_models_adapters_quota_weight() -> None:
    found = principal(
        claims(org={"id": "acme"}, m=["a", "b"], ad=["tuned"], q={"requests_per_minute": 5}, w=2),
        tenant_claim="org.id", models_claim="m", adapters_claim="ad", quota_claim="q", weight_claim="w",
    )  # fmt: skip
    assert (found.tenant, found.models, found.adapters) == ("acme", frozenset({"a", "b"}), frozenset({"tuned"}))
    assert (found.quota, found.weight) == (Quota(requests_per_minute=5), 2.0)


def test_what_is_missing_gives_nothing() -> None:
    found = principal(
        claims(), tenant="theirs",
        tenant_claim="org", models_claim="m", adapters_claim="a", quota_claim="q", weight_claim="w",
    )  # fmt: skip
    assert (found.tenant, found.models, found.adapters) == ("theirs", frozenset(), frozenset())
    assert (found.quota, found.weight) == (UNLIMITED, 1.0)
    assert principal(claims(m=[]), models_claim="m").models == frozenset()


MALFORMED: dict[str, list[object]] = {
    "tenant_claim": ["", 7, ["acme"], "a b", "a/b", "a\0", "x" * 129, "аcme", {}, True],
    "models_claim": ["all", 7, {}, [7], [["m"]], [""], [None], True, ["m"] * 1025],
    "adapters_claim": ["all", 7, {}, [7], ["a/b"], [""], True],
    "quota_claim": [[], 7, "none", {"concurrent": -1}, {"concurrent": "5"}, {"rpm": 5}, {"concurrent": True},
                    {"concurrent": 1.5}, {"concurrent": 2**70}],
    "weight_claim": [0, -1, "2", 1000, True, [], float("inf")],
}  # fmt: skip


@pytest.mark.parametrize(("setting", "value"), [(name, each) for name, values in MALFORMED.items() for each in values])
def test_a_malformed_claim_never_means_all(setting: str, value: object) -> None:
    assert refusal(claims(it=value), **{setting: "it"}) is Reason.CLAIMS


@pytest.mark.parametrize("setting", MALFORMED)
def test_null_is_not_missing(setting: str) -> None:
    assert refusal({**claims(), "it": None}, **{setting: "it"}) is Reason.CLAIMS


def test_a_configured_tenant_that_is_none() -> None:
    with pytest.raises(ValueError):
        rules(tenant="a b")


# -- for whom and when ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aud", [AUDIENCE, [AUDIENCE], ["other", AUDIENCE]])
def test_for_us(aud: object) -> None:
    rules().check_audience(claims(aud=aud))


@pytest.mark.parametrize(
    "aud",
    [None, "", "other", AUDIENCE[:-1], AUDIENCE + "x", AUDIENCE.upper(), f"{AUDIENCE} other", [], ["other"],
     [[AUDIENCE]], {AUDIENCE: 1}, 7, [AUDIENCE, 7]],
)  # fmt: skip
def test_not_for_us(aud: object) -> None:
    with pytest.raises(TokenRefused) as refused:
        rules().check_audience(claims(aud=aud))
    assert refused.value.reason is Reason.AUDIENCE


def checked(now: float, **moments: object) -> Reason | None:
    try:
        rules(leeway=30).lifetime(moments).check(now)
    except TokenRefused as refused:
        return refused.reason
    return None


@pytest.mark.parametrize(
    ("moments", "expected"),
    [
        ({"exp": 1001}, None),
        ({"exp": 971}, None),
        ({"exp": 1000.5}, None),
        ({"exp": 970}, Reason.EXPIRED),
        ({"exp": 900}, Reason.EXPIRED),
        ({"exp": 2000, "nbf": 1030}, None),
        ({"exp": 2000, "nbf": 1031}, Reason.NOT_YET),
        ({"exp": 2000, "iat": 1031}, Reason.NOT_YET),
        ({"exp": 2000, "iat": 1, "nbf": 1031}, Reason.NOT_YET),
        ({}, Reason.TIME),
        ({"exp": "2000"}, Reason.TIME),
        ({"exp": True}, Reason.TIME),
        ({"exp": [2000]}, Reason.TIME),
        ({"exp": float("inf")}, Reason.TIME),
        ({"exp": 10**400}, Reason.TIME),
        ({"exp": -1}, Reason.TIME),
        ({"exp": 2000, "nbf": "0"}, Reason.TIME),
        ({"exp": 2000, "nbf": None}, Reason.TIME),
        ({"exp": 2000, "iat": {}}, Reason.TIME),
    ],
)
def test_at_one_thousand(moments: dict[str, object], expected: Reason | None) -> None:
    assert checked(1000, **moments) is expected


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 300))
def test_the_leeway_is_all_there_is(exp: int, now: int, leeway: int) -> None:
    lifetime = rules(leeway=leeway).lifetime({"exp": exp})
    assert lifetime == Lifetime(float("-inf"), exp + leeway)
    if now < exp + leeway:
        lifetime.check(now)
    else:
        with pytest.raises(TokenRefused):
            lifetime.check(now)
