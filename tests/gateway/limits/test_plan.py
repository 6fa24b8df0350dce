from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.access.principal import ALL_SCOPES, Principal
from gateway.limits.plan import Bucket, Kind, LimitPlan
from gateway.limits.quota import UNLIMITED, Quota
from gateway.limits.reserve import Demand, LimitClass


def demand(name: str = "p", **changed: object) -> Demand:
    values = {
        "request_id": "r",
        "principal": Principal(name, ALL_SCOPES, quota=Quota(1, 2, 3, 4)),
        "address": "2001:db8::1",
        "limit_class": LimitClass.GENERATION,
        "model": "m",
        "tokens": 7,
    }
    return Demand(**{**values, **changed})  # type: ignore[arg-type]


def test_everything_a_request_is_counted_on() -> None:
    plan = LimitPlan("ns", Quota(concurrent=9), {"m": Quota(requests_per_minute=5)}, Bucket(6, 0.5))
    found = [(each.kind, each.capacity, each.amount) for each in plan.charges(demand())]
    own = [(Kind.REQUESTS, 1, 1), (Kind.TOKENS, 2, 7), (Kind.DAY, 3, 7), (Kind.CONCURRENT, 4, 1)]
    assert found == [*own, (Kind.REQUESTS, 5, 1), (Kind.BUCKET, 6, 1)]
    other = demand(model="other", principal=Principal("p", ALL_SCOPES))
    assert [(each.kind, each.capacity) for each in plan.charges(other)] == [(Kind.CONCURRENT, 9), (Kind.BUCKET, 6)]
    cheap = plan.charges(demand(limit_class=LimitClass.REQUEST, tokens=0))
    assert [each.kind for each in cheap] == [Kind.REQUESTS, Kind.REQUESTS, Kind.BUCKET]
    assert plan.charges(demand(limit_class=LimitClass.NONE)) == ()


def test_one_subscriber_is_one_address() -> None:
    plan = LimitPlan("ns", UNLIMITED, {}, Bucket(1, 1.0))
    assert plan.address_key("2001:db8::1") == plan.address_key("2001:db8:0:0:ffff::2")
    assert plan.address_key("2001:db8::1") != plan.address_key("2001:db8:0:1::1")
    assert plan.address_key("192.0.2.1") != plan.address_key("192.0.2.2")


@given(first=st.text(), second=st.text())
def test_keys_hold_nothing_of_what_callers_send_and_all_lie_in_one_slot(first: str, second: str) -> None:
    plan = LimitPlan("ns", UNLIMITED, {}, None)
    names = [each.key for name in (first, second) for each in plan.charges(demand(name))]
    for name in names:
        tag, kind, digest = name.split(":")
        assert tag == "{ns}"
        assert kind in "rtdc"
        assert len(digest) == 24
        assert set(digest) <= set("0123456789abcdef")
    assert (set(names[:4]) == set(names[4:])) is (first == second)


def test_a_key_and_a_model_of_the_same_name_are_two_subjects() -> None:
    plan = LimitPlan("ns", UNLIMITED, {"same": Quota(requests_per_minute=1)}, None)
    first, *_, second = plan.charges(demand("same", model="same"))
    assert first.key != second.key
