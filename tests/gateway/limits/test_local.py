"""A replica by itself: never more than its share, counted from what it had at the cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.local import LocalShare
from gateway.limits.plan import Charge, Kind
from gateway.limits.store import NEVER

KINDS = (Kind.REQUESTS, Kind.TOKENS, Kind.DAY, Kind.CONCURRENT, Kind.BUCKET)


def charge(kind: Kind, limit: int, amount: int = 1) -> Charge:
    return Charge(f"{kind.value}:subject", kind, limit, amount)


@given(kind=st.sampled_from(KINDS), limit=st.integers(0, 30), replicas=st.integers(1, 5), own=st.integers(0, 30))
def test_what_is_admitted_after_a_cut_is_what_the_share_exceeds_ones_own_use_by(
    kind: Kind, limit: int, replicas: int, own: int
) -> None:
    share = LocalShare(replicas, 2000, clock=lambda: 1000.0)
    own = min(own, limit)
    for number in range(own):
        share.remember(f"before-{number}", [charge(kind, limit)])
    granted = sum(share.reserve(f"after-{number}", [charge(kind, limit)]).granted for number in range(limit + 1))
    assert granted == max(0, limit // replicas - own)


@given(limit=st.integers(1, 30), replicas=st.integers(1, 5), own=st.integers(0, 30), ended=st.integers(0, 30))
def test_what_was_given_back_is_room_again(limit: int, replicas: int, own: int, ended: int) -> None:
    share = LocalShare(replicas, 2000, clock=lambda: 1000.0)
    limits = [charge(Kind.CONCURRENT, limit), charge(Kind.TOKENS, limit)]
    own = min(own, limit)
    for number in range(own):
        share.remember(f"before-{number}", limits)
    for number in range(min(own, ended)):
        share.settle(f"before-{number}", limits, 0)
    running = own - min(own, ended)
    granted = sum(share.reserve(f"after-{number}", limits).granted for number in range(limit + 1))
    assert granted == max(0, limit // replicas - running)


def test_a_share_that_is_too_small_for_ever_is_worth_asking_again_soon() -> None:
    wanted = [charge(Kind.TOKENS, 100, 60)]
    refused = LocalShare(2, 2000).reserve("a", wanted)
    assert [level.wait_ms for level in refused.levels] == [2000]
    assert LocalShare(1, 2000).reserve("a", wanted).granted
    alone = LocalShare(1, 2000).reserve("a", [charge(Kind.BUCKET, 0)])
    assert [level.wait_ms for level in alone.levels] == [NEVER]
