from __future__ import annotations

import hmac
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access import keyring as module
from gateway.access.keyring import Freshness, Keyring, build
from gateway.access.keys import KeyParts, key_digest, new_key, new_secret
from gateway.access.principal import Principal, Scope
from gateway.errors import ApiError
from gateway.limits.quota import Quota
from gateway.store.keys import KeyChanges, KeyGrant, KeyRecord

PEPPER = b"p" * 32
FRESHNESS = Freshness(recent=5.0, max_stale=100.0, retry_after=2.0)


class Times:
    """Both clocks, as the test wants them."""

    def __init__(self) -> None:
        self.monotonic = 50.0
        self.wall = 1_000_000.0

    def pass_by(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
def ring(times: Times) -> Keyring:
    ring = Keyring(PEPPER, FRESHNESS, clock=lambda: times.monotonic, wall=lambda: times.wall)
    ring.synced(times.monotonic)
    return ring


def record(key: KeyParts, grant: KeyGrant | None = None, **changes: object) -> KeyRecord:
    made = KeyRecord(
        id=key.public_id,
        grant=grant or KeyGrant(name="x"),
        created_at=1.0,
        created_by="me",
        rotated_at=None,
        revoked_at=None,
        previous_until=None,
        revision=1,
        digest=key_digest(PEPPER, key),
        previous_digest=None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def tell(ring: Keyring, *records: KeyRecord, complete: bool = False) -> set[str]:
    return ring.apply(build(KeyChanges((ring.revision or 0) + 1, list(records), complete)))


def ask(ring: Keyring, key: KeyParts) -> Principal | None:
    return ring.identify_token(key.text().encode())


def refusal(ring: Keyring, key: KeyParts) -> ApiError:
    with pytest.raises(ApiError) as caught:
        ask(ring, key)
    return caught.value


# -- who it is --------------------------------------------------------------------------------------------------------


def test_a_key_is_its_principal(ring: Keyring) -> None:
    key = new_key()
    grant = KeyGrant(
        name="x",
        tenant="team",
        scopes=frozenset((Scope.TRAINING,)),
        models=frozenset(("m",)),
        adapters=frozenset(),
        quota=Quota(concurrent=3),
        weight=2.0,
        labels={"a": "b"},
        guard_policy="strict",
        expires_at=2_000_000.0,
    )
    tell(ring, record(key, grant))
    assert ask(ring, key) == Principal(
        key.public_id,
        grant.scopes,
        "team",
        grant.models,
        grant.adapters,
        grant.quota,
        2.0,
        2_000_000.0,
        "strict",
        {"a": "b"},
    )
    assert ring.identify([(b"authorization", b"Bearer " + key.text().encode())]) == ask(ring, key)


def test_other_tokens_are_for_others_to_judge(ring: Keyring) -> None:
    assert ring.identify_token(b"eyJhbGciOi.eyJzdWIi.c2ln") is None
    with pytest.raises(ApiError) as caught:
        ring.identify([(b"authorization", b"Bearer x")])
    assert caught.value.code == "invalid_api_key"


def test_every_refusal_is_the_same(ring: Keyring, times: Times) -> None:
    good, revoked, expired = new_key(), new_key(), new_key()
    ended = KeyGrant(name="x", expires_at=times.wall)
    tell(ring, record(good), record(revoked, revoked_at=1.0), record(expired, ended))
    refusals = [refusal(ring, each) for each in (new_key(), good._replace(secret=new_secret()), revoked, expired)]
    assert {(each.status, each.code, each.payload(), tuple(each.headers())) for each in refusals} == {
        (401, "invalid_api_key", refusals[0].payload(), tuple(refusals[0].headers()))
    }


def test_every_refusal_is_the_same_work(ring: Keyring, times: Times, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not measured, but counted: one hash and two comparisons of whole digests, whatever is wrong."""
    good, revoked, expired, overlapping = (new_key() for _ in range(4))
    ended = KeyGrant(name="x", expires_at=times.wall)
    previous = key_digest(PEPPER, overlapping)
    tell(
        ring,
        record(good),
        record(revoked, revoked_at=1.0),
        record(expired, ended),
        record(overlapping, digest=b"n" * 32, previous_digest=previous, previous_until=times.wall + 10),
    )
    work: list[tuple[str, int, int]] = []

    class Spy:
        @staticmethod
        def compare_digest(a: bytes, b: bytes) -> bool:
            work.append(("compare", len(a), len(b)))
            return hmac.compare_digest(a, b)

    def digest(pepper: bytes, key: KeyParts) -> bytes:
        work.append(("hash", len(pepper), len(key.text())))
        return key_digest(pepper, key)

    monkeypatch.setattr(module, "hmac", Spy)
    monkeypatch.setattr(module, "key_digest", digest)
    wrong = good._replace(secret=new_secret())
    for each in (good, overlapping, wrong, new_key(), revoked, expired):
        work.clear()
        try:
            ask(ring, each)
        except ApiError as error:
            assert error.status == 401  # noqa: PT017 - some of them are let in
        assert work == [("hash", 32, 63), ("compare", 32, 32), ("compare", 32, 32)]


# -- changes ----------------------------------------------------------------------------------------------------------


def test_rotation_with_overlap(ring: Keyring, times: Times) -> None:
    old = new_key()
    tell(ring, record(old))
    new = old._replace(secret=new_secret())
    until = times.wall + 10
    assert tell(ring, record(new, previous_digest=key_digest(PEPPER, old), previous_until=until)) == set()
    assert ask(ring, old) == ask(ring, new)
    times.pass_by(10)
    ring.synced(times.monotonic)
    assert ask(ring, new) is not None
    assert refusal(ring, old).status == 401


def test_rotation_without_overlap(ring: Keyring) -> None:
    old = new_key()
    tell(ring, record(old))
    new = old._replace(secret=new_secret())
    tell(ring, record(new))
    assert ask(ring, new) is not None
    assert refusal(ring, old).status == 401


def test_those_who_are_gone_are_named_once(ring: Keyring) -> None:
    a, b, c = new_key(), new_key(), new_key()
    assert tell(ring, record(a), record(b), record(c, revoked_at=1.0), complete=True) == set()
    assert tell(ring, record(a, revoked_at=1.0)) == {a.public_id}
    assert tell(ring, record(a, revoked_at=1.0)) == set()
    # A store put back to an earlier state may not know a key any more.
    assert tell(ring, record(a), complete=True) == {b.public_id}
    assert ask(ring, a) is not None
    assert refusal(ring, b).status == 401


def test_expiry_is_noticed_at_use_and_told_once(ring: Keyring, times: Times) -> None:
    soon, later, prolonged = new_key(), new_key(), new_key()
    ends = KeyGrant(name="x", expires_at=times.wall + 2)
    tell(ring, record(soon, ends), record(prolonged, ends), complete=True)
    tell(ring, record(later, replace(ends, expires_at=times.wall + 4)))
    tell(ring, record(prolonged, replace(ends, expires_at=times.wall + 4)))
    assert ring.expire() == set()
    times.pass_by(2)
    assert refusal(ring, soon).status == 401
    assert ask(ring, prolonged) is not None
    assert ring.expire() == {soon.public_id}
    assert ring.expire() == set()
    times.pass_by(2)
    assert ring.expire() == {later.public_id, prolonged.public_id}


def test_a_key_that_cannot_be_read_any_more_does_not_work(ring: Keyring) -> None:
    key = new_key()
    tell(ring, record(key))
    assert ring.apply(build(KeyChanges(2, [], False, (key.public_id,)))) == {key.public_id}
    assert refusal(ring, key).status == 401


# -- age --------------------------------------------------------------------------------------------------------------


def test_an_old_ring_never_says_401(ring: Keyring, times: Times) -> None:
    good, revoked = new_key(), new_key()
    tell(ring, record(good), record(revoked, revoked_at=1.0))
    times.pass_by(FRESHNESS.recent)
    assert refusal(ring, new_key()).status == 401
    times.pass_by(0.001)
    for key in (new_key(), good._replace(secret=new_secret()), revoked):
        error = refusal(ring, key)
        assert (error.status, error.code) == (503, "auth_unavailable")
        assert dict(error.headers())[b"retry-after"]
    assert ask(ring, good) is not None
    ring.synced(times.monotonic)
    assert refusal(ring, revoked).status == 401


def test_a_known_key_works_for_a_bounded_time(ring: Keyring, times: Times) -> None:
    key = new_key()
    tell(ring, record(key))
    times.pass_by(FRESHNESS.max_stale)
    assert ask(ring, key) is not None
    times.pass_by(0.001)
    assert refusal(ring, key).code == "auth_unavailable"
    ring.synced(times.monotonic)
    assert ask(ring, key) is not None


def test_a_ring_that_never_saw_the_store_knows_nobody_and_denies_nobody(times: Times) -> None:
    ring = Keyring(PEPPER, FRESHNESS)
    assert refusal(ring, new_key()).code == "auth_unavailable"


def test_age_does_not_depend_on_the_wall_clock(ring: Keyring, times: Times) -> None:
    key = new_key()
    tell(ring, record(key))
    times.wall -= 1e6
    assert ask(ring, key) is not None
    times.wall += 2e6
    assert ask(ring, key) is not None
    assert refusal(ring, new_key()).status == 401


def test_freshness_follows_the_polling() -> None:
    assert Freshness.of_polling(1.0, 3600.0) == Freshness(5.0, 3600.0, 2.0)
    assert Freshness.of_polling(0.1, 60.0).recent == 3.0


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["make", "rotate", "revoke", "restore"]))))
def test_the_ring_says_what_the_last_news_said(acts: list[tuple[int, str]]) -> None:
    ring = Keyring(PEPPER, FRESHNESS, clock=lambda: 0.0, wall=lambda: 0.0)
    ring.synced(0.0)
    known: dict[int, KeyParts] = {}
    alive: dict[int, KeyParts] = {}
    old: list[KeyParts] = []
    for slot, act in acts:
        if act == "make" and slot not in known:
            known[slot] = alive[slot] = new_key()
            assert tell(ring, record(alive[slot])) == set()
        elif act == "rotate" and slot in alive:
            old.append(alive[slot])
            known[slot] = alive[slot] = alive[slot]._replace(secret=new_secret())
            assert tell(ring, record(alive[slot])) == set()
        elif act == "revoke" and slot in known:
            gone = {alive.pop(slot).public_id} if slot in alive else set()
            old.append(known[slot])
            assert tell(ring, record(known[slot], revoked_at=1.0)) == gone
        elif act == "restore":
            assert tell(ring, *map(record, alive.values()), complete=True) == set()
    for key in alive.values():
        assert ask(ring, key) is not None
    for key in old:
        assert refusal(ring, key).status == 401


# -- many keys --------------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_keys_are_light() -> None:
    """Counted, not timed: what a key costs in memory beyond its digest and id, and that equal values are shared."""
    parts = [KeyParts(f"{i:016d}", "x") for i in range(100_000)]
    grant = KeyGrant(name="x", models=frozenset(("m",)))
    news = build(KeyChanges(1, [replace(record(parts[0], grant), id=each.public_id) for each in parts], True))
    ring = Keyring(PEPPER, FRESHNESS)
    ring.apply(news)
    assert len(ring) == 100_000
    entry = next(iter(news.entries.values()))
    assert not hasattr(entry, "__dict__")
    assert not hasattr(entry.principal, "__dict__")
    assert sys.getsizeof(entry) + sys.getsizeof(entry.principal) < 300
    assert len({id(each.principal.models) for each in news.entries.values() if each.principal}) == 1
