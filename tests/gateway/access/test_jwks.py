from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.jwks import FetchSchedule, KeySet, KeySetHooks, Pace
from gateway.access.jwks_source import FetchFailed, KeySource
from gateway.errors import ApiError
from tests.support.issuer import ISSUER, Answer, KeyServer, endless, http, jwk, key_server, key_set, silence
from tests.support.stores import until

ALL = ("RS256", "ES256", "EdDSA")
#: Never by itself within a test.
NEVER = 3600.0
LOGGER = "sluice.jwt"


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Watched:
    """A key set and what its hooks were told."""

    keys: KeySet
    clock: Clock
    fetches: list[bool] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


class Scripted:
    """A source that gives one document after another, the last one for ever."""

    def __init__(self, *documents: bytes | Exception) -> None:
        self._documents = list(documents)
        self.asked = 0

    async def fetch(self) -> bytes:
        self.asked += 1
        document = self._documents.pop(0) if len(self._documents) > 1 else self._documents[0]
        if isinstance(document, Exception):
            raise document
        return document


Begin = Callable[..., Awaitable[Watched]]


@pytest.fixture
async def begin() -> AsyncIterator[Begin]:
    """Starts key sets, and stops them after the test."""
    begun: list[KeySet] = []

    async def one(
        source: Any,
        *,
        refresh: float = NEVER,
        max_stale: float = NEVER,
        cooldown: float = NEVER,
        first_retry: float = NEVER,
    ) -> Watched:
        fetches: list[bool] = []
        counts: list[int] = []
        clock = Clock()
        hooks = KeySetHooks(fetches.append, lambda _issuer, count: counts.append(count))
        pace = Pace(refresh, max_stale, cooldown, first_retry)
        keys = KeySet(ISSUER, source, ALL, pace, hooks, clock=clock)
        begun.append(keys)
        await keys.start()
        return Watched(keys, clock, fetches, counts)

    yield one
    for keys in begun:
        await keys.stop()


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    async with key_server() as server:
        yield server


def unavailable(keys: KeySet, kid: str | None = "one") -> ApiError:
    with pytest.raises(ApiError) as refused:
        keys.find(kid, "RS256")
    assert (refused.value.status, refused.value.code) == (503, "auth_unavailable")
    return refused.value


# -- when to fetch ----------------------------------------------------------------------------------------------------

PACE = Pace(refresh_interval=300, max_stale=86_400, cooldown=30, first_retry=1)


def test_regularly() -> None:
    schedule = FetchSchedule(PACE)
    schedule.began(1000)
    schedule.ended(1002, good=True, usable=True)
    assert schedule.due_at(wanted=False) == 1300


def test_a_wish_waits_for_the_cooldown_and_is_kept() -> None:
    schedule = FetchSchedule(PACE)
    schedule.began(1000)
    schedule.ended(1002, good=True, usable=True)
    assert schedule.due_at(wanted=True) == 1030


def test_failures_without_keys_are_tried_again_ever_more_slowly() -> None:
    schedule = FetchSchedule(PACE)
    waits = []
    for _ in range(8):
        schedule.began(1000)
        schedule.ended(1000, good=False, usable=False)
        waits.append(schedule.due_at(wanted=False) - 1000)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    schedule.ended(1000, good=True, usable=True)
    schedule.began(1000)
    schedule.ended(1000, good=False, usable=False)
    assert schedule.due_at(wanted=False) == 1001


def test_failures_with_keys_are_in_no_hurry() -> None:
    schedule = FetchSchedule(PACE)
    schedule.began(1000)
    schedule.ended(1005, good=False, usable=True)
    assert schedule.due_at(wanted=False) == 1035


@given(
    # Whole seconds: sums of them are exact.
    st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.booleans()), min_size=2, max_size=40),
    st.sampled_from([1, 10, 30, 300]),
)
def test_tokens_cannot_have_more_than_one_fetch_per_cooldown(
    rounds: list[tuple[bool, int, bool]], refresh: int
) -> None:
    """With keys at hand, two fetches are a cooldown apart, or what the operator asked for if that is shorter."""
    schedule = FetchSchedule(Pace(refresh, 86_400, 30, 1))
    now: float = 1000
    for wanted, lasted, good in rounds:
        schedule.began(now)
        schedule.ended(now + lasted, good=good, usable=True)
        due = schedule.due_at(wanted=wanted)
        assert due - now >= min(30, refresh)
        assert due - now <= max(30 + lasted, refresh)
        now = max(due, now + lasted)


# -- what tokens find -------------------------------------------------------------------------------------------------


async def test_keys_are_there_after_the_start(server: KeyServer, begin: Begin) -> None:
    server.publish(jwk("RS256", "one"), jwk("ES256", "two"))
    watched = await begin(KeySource(ISSUER, server.url()))
    assert watched.keys.find("one", "RS256") is not None
    assert watched.keys.find("one", "ES256") is None
    assert watched.keys.find("two", "ES256") is not None
    assert watched.keys.fresh
    assert (watched.fetches, watched.counts) == ([True], [2])


async def test_down_at_the_start_is_503_until_it_is_up(
    server: KeyServer, begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    await server.stop()
    watched = await begin(KeySource(ISSUER, server.url()), first_retry=0.02, cooldown=0.02)
    assert (unavailable(watched.keys).retry_after or 0) >= 1
    assert not watched.keys.fresh
    await until(lambda: len(watched.fetches) > 3)
    server.publish(jwk("RS256", "one"))
    await server.start()
    watched.clock.now += 10
    await until(lambda: watched.keys.fresh)
    assert watched.keys.find("one", "RS256") is not None
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


async def test_unknown_kids_ask_for_one_fetch(server: KeyServer, begin: Begin) -> None:
    server.publish(jwk("RS256", "one"))
    watched = await begin(KeySource(ISSUER, server.url()))
    for number in range(1000):
        assert watched.keys.find(f"kid-{number}", "RS256") is None
        if number % 100 == 0:
            await asyncio.sleep(0.001)
    assert server.asked == ["/jwks"]
    assert watched.keys.find("one", "RS256") is not None


async def test_many_wishes_are_one_fetch_after_the_cooldown(begin: Begin) -> None:
    source = Scripted(key_set(jwk("RS256", "one")))
    watched = await begin(source, cooldown=0.05)
    for number in range(1000):
        watched.keys.find(f"kid-{number}", "RS256")
    await until(lambda: source.asked == 2)
    await asyncio.sleep(0.2)
    assert source.asked == 2


async def test_a_new_kid_is_found_and_the_old_one_is_gone(server: KeyServer, begin: Begin) -> None:
    server.publish(jwk("RS256", "one"))
    watched = await begin(KeySource(ISSUER, server.url()), cooldown=0.05)
    old = watched.keys.find("one", "RS256")
    assert old is not None
    server.publish(jwk("RS256", "two"))
    await until(lambda: watched.keys.find("two", "RS256"))
    assert watched.keys.find("one", "RS256") is None
    assert not watched.keys.holds(old)


async def test_a_retired_key_is_gone_without_anybody_asking(server: KeyServer, begin: Begin) -> None:
    server.publish(jwk("RS256", "one"), jwk("ES256", "two"))
    watched = await begin(KeySource(ISSUER, server.url()), refresh=0.05)
    key = watched.keys.find("one", "RS256")
    assert key is not None
    server.publish(jwk("ES256", "two"))
    await until(lambda: not watched.keys.holds(key))


async def test_the_same_key_stays_the_same(begin: Begin) -> None:
    watched = await begin(Scripted(key_set(jwk("RS256", "one"))), refresh=0.02)
    key = watched.keys.find("one", "RS256")
    assert key is not None
    await until(lambda: len(watched.fetches) > 2)
    assert watched.keys.holds(key)


BAD_DAYS: list[Answer] = [
    http(b"<html>down for maintenance</html>"),
    http(b"", "302 Found", "location: /elsewhere"),
    endless(),
    silence,
    http(key_set(jwk("RS256", "twin"), jwk("ES256", "twin"))),
    http(key_set({"kty": "oct", "kid": "one", "k": "c2VjcmV0"})),
    http(b'{"keys":[]}'),
]


@pytest.mark.parametrize("bad_day", BAD_DAYS)
async def test_the_last_good_keys_serve_on_a_bad_day(
    server: KeyServer,
    begin: Begin,
    bad_day: Answer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    server.publish(jwk("RS256", "one"))
    server.answers["/elsewhere"] = http(key_set(jwk("RS256", "two")))
    source = KeySource(ISSUER, server.url())
    watched = await begin(source, refresh=0.02, cooldown=0.02)
    assert watched.keys.fresh
    # Impatient while it matters, and not where a slow machine would be taken for a bad day.
    monkeypatch.setattr(source, "_seconds", 0.2)
    server.answers["/jwks"] = bad_day
    await until(lambda: watched.fetches.count(False) >= 2)
    assert not watched.keys.fresh
    assert watched.keys.find("one", "RS256") is not None
    assert watched.keys.find("two", "RS256") is None
    monkeypatch.undo()
    server.publish(jwk("RS256", "one"))
    await until(lambda: watched.keys.fresh)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "/elsewhere" not in server.asked


async def test_good_keys_do_not_serve_for_ever(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    watched = await begin(
        Scripted(key_set(jwk("RS256", "one")), FetchFailed("down")), refresh=0.02, max_stale=100, cooldown=0.02
    )
    key = watched.keys.find("one", "RS256")
    assert key is not None
    await until(lambda: False in watched.fetches)
    watched.clock.now += 100
    assert watched.keys.find("one", "RS256") is not None
    watched.clock.now += 0.1
    unavailable(watched.keys)
    unavailable(watched.keys, "new")
    with pytest.raises(ApiError):
        watched.keys.holds(key)
    await until(lambda: watched.counts[-1] == 0)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


async def test_a_refused_key_is_told_of_once(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    document = key_set(jwk("RS256", "one"), jwk("RS256", "leak", d="c2VjcmV0"))
    watched = await begin(Scripted(document), refresh=0.02)
    await until(lambda: len(watched.fetches) > 3)
    assert [record.getMessage() for record in caplog.records if "'leak'" in record.getMessage()] == [
        f"key 'leak' of {ISSUER} is not used: a secret or private key, which no issuer should publish"
    ]


async def test_an_error_of_ours_is_a_failed_fetch(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    good = key_set(jwk("RS256", "one"))
    watched = await begin(Scripted(good, RuntimeError("a bug"), good), refresh=0.02, cooldown=0.02)
    await until(lambda: watched.fetches[-2:] == [False, True])
    assert watched.keys.find("one", "RS256") is not None
    assert "a bug" in caplog.text


async def test_a_slow_issuer_holds_no_request(server: KeyServer, begin: Begin) -> None:
    server.publish(jwk("RS256", "one"))
    watched = await begin(KeySource(ISSUER, server.url()), cooldown=0.01)
    server.answers["/jwks"] = silence
    watched.keys.find("new", "RS256")
    await until(lambda: len(server.asked) == 2)
    assert watched.keys.find("one", "RS256") is not None
    assert watched.keys.find("new", "RS256") is None


async def test_stopping_twice_and_before_the_start() -> None:
    keys = KeySet(ISSUER, Scripted(key_set(jwk("RS256", "one"))), ALL, PACE)
    await keys.stop()
    await keys.start()
    await keys.stop()
    await keys.stop()
