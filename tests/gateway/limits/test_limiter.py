"""The limiter over both kinds of decider: answers, headers, what is remembered, and the failures of Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.access.principal import ALL_SCOPES, Principal
from gateway.errors import ApiError
from gateway.limits.build import build_limits
from gateway.limits.headers import duration
from gateway.limits.limiter import RateLimits
from gateway.limits.quota import Quota
from gateway.limits.reserve import Demand, LimitClass
from gateway.observability.metrics import Metrics
from gateway.settings import SettingsError, load
from tests.support.gateways import eventually
from tests.support.redis_server import RedisServer, debian_binary, free_port

NUMBERS = iter(range(10_000_000))


def principal(name: str = "p", **quota: int) -> Principal:
    return Principal(name, ALL_SCOPES, quota=Quota(**quota))


def demand(who: Principal, tokens: int = 10, **changed: Any) -> Demand:
    values: dict[str, Any] = {
        "request_id": f"r{next(NUMBERS)}",
        "principal": who,
        "address": "203.0.113.1",
        "limit_class": LimitClass.GENERATION,
        "model": "m",
        "tokens": tokens,
        "prompt_param": "messages",
    }
    return Demand(**{**values, **changed})


def limits_on(redis: str | None, **limits: Any) -> tuple[RateLimits, Metrics]:
    metrics = Metrics()
    return build_limits(
        load(flags={"redis_url": redis, "limits": limits} if redis else {"limits": limits}), metrics
    ), metrics


Build = Callable[..., Any]


@pytest.fixture(params=["memory", "redis"])
async def build(request: pytest.FixtureRequest, redis: RedisServer) -> AsyncIterator[Build]:
    made: list[RateLimits] = []

    async def start(**limits: Any) -> RateLimits:
        url = redis.url if request.param == "redis" else None
        limiter, _ = limits_on(url, **{"redis_timeout": 2.0, **limits})
        made.append(limiter)
        await limiter.start()
        return limiter

    yield start
    for limiter in made:
        await limiter.stop()


async def refusal(limits: RateLimits, wanted: Demand) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await limits.reserve(wanted)
    return caught.value


async def test_nothing_configured_is_nothing_asked(build: Build) -> None:
    limits = await build()
    lease = await limits.reserve(demand(principal()))
    assert lease.headers == ()
    lease.settle(0)


async def test_openais_headers_and_what_comes_back(build: Build) -> None:
    limits = await build()
    who = principal(requests_per_minute=10, tokens_per_minute=100)
    lease = await limits.reserve(demand(who, 60))
    headers = dict(lease.headers)
    assert headers[b"x-ratelimit-limit-requests"] == b"10"
    assert headers[b"x-ratelimit-remaining-requests"] == b"9"
    assert headers[b"x-ratelimit-limit-tokens"] == b"100"
    assert headers[b"x-ratelimit-remaining-tokens"] == b"40"
    assert headers[b"x-ratelimit-reset-tokens"].startswith((b"1m0", b"1m1", b"59", b"60"))
    refused = await refusal(limits, demand(who, 50))
    assert (refused.status, refused.code, refused.body.type) == (429, "rate_limit_exceeded", "tokens")
    assert refused.extra_headers["x-ratelimit-remaining-tokens"] == "40"
    assert 55 < (refused.retry_after or 0) <= 61
    lease.settle(20)

    async def room() -> bool:
        try:
            (await limits.reserve(demand(who, 80))).settle(80)
        except ApiError:
            return False
        return True

    await eventually(room)


@pytest.mark.parametrize(
    ("quota", "tokens", "expected"),
    [
        ({"requests_per_minute": 1}, 1, (429, "rate_limit_exceeded", "requests")),
        ({"tokens_per_minute": 15}, 10, (429, "rate_limit_exceeded", "tokens")),
        ({"concurrent": 1}, 1, (429, "concurrency_limit_exceeded", "requests")),
        ({"tokens_per_day": 15}, 10, (429, "insufficient_quota", "insufficient_quota")),
    ],
)
async def test_every_kind_of_limit_has_its_answer(
    build: Build, quota: dict[str, int], tokens: int, expected: tuple[int, str, str]
) -> None:
    limits = await build()
    who = principal("p", **quota)
    await limits.reserve(demand(who, tokens))
    refused = await refusal(limits, demand(who, tokens))
    assert (refused.status, refused.code, refused.body.type) == expected
    assert refused.retry_after is not None
    headers = dict(refused.headers())
    assert int(headers[b"retry-after"]) >= 1
    assert (headers.get(b"x-should-retry") == b"false") is (expected[1] == "insufficient_quota")
    await limits.reserve(demand(principal("other", **quota), tokens))


async def test_what_can_never_fit_is_400(build: Build) -> None:
    limits = await build()
    refused = await refusal(limits, demand(principal(tokens_per_minute=100), 101))
    assert (refused.status, refused.code, refused.body.param) == (400, "request_exceeds_limit", "messages")


async def test_limits_of_models_and_addresses_hold_across_callers(build: Build) -> None:
    limits = await build(model={"m": {"requests_per_minute": 2}}, address={"burst": 3, "per_second": 0})
    for name in "ab":
        await limits.reserve(demand(principal(name)))
    assert (await refusal(limits, demand(principal("c")))).code == "rate_limit_exceeded"
    await limits.reserve(demand(principal("c"), model="other"))
    assert (await refusal(limits, demand(principal("d"), model="other"))).body.type == "requests"
    await limits.reserve(demand(principal("d"), model="other", address="203.0.113.2"))


async def test_burst_two_and_rate_zero_refuse_the_third(build: Build) -> None:
    limits = await build(address={"burst": 2, "per_second": 0})
    for _ in range(2):
        await limits.reserve(demand(principal(), limit_class=LimitClass.REQUEST))
    assert (await refusal(limits, demand(principal(), limit_class=LimitClass.REQUEST))).status == 429


async def test_a_bucket_is_not_forgotten_before_it_is_full_again(redis: RedisServer) -> None:
    for per_second, least in ((0.0, 80_000_000), (0.01, 150_000)):
        limits, _ = await started(redis, redis_timeout=2.0, address={"burst": 2, "per_second": per_second})
        await limits.reserve(demand(principal(), limit_class=LimitClass.REQUEST, address=f"198.51.100.{least % 97}"))
        lives = [int(redis.command("PTTL", key)[1:]) for key in keys_of(redis, "{sluice}:b:")]
        assert max(lives) > least
        await limits.stop()
        redis.command("FLUSHALL")


async def test_a_refusal_of_requests_is_known_until_it_is_over(build: Build) -> None:
    limits = await build()
    who = principal(requests_per_minute=1)
    assert limits.known(who, "203.0.113.1") == ()
    await limits.reserve(demand(who))
    assert dict(limits.known(who, "203.0.113.1"))[b"x-ratelimit-remaining-requests"] == b"0"
    await refusal(limits, demand(who))
    with pytest.raises(ApiError) as known:
        limits.known(who, "203.0.113.1")
    assert known.value.code == "rate_limit_exceeded"
    limits.known(principal("p", requests_per_minute=2), "203.0.113.1")


async def test_requests_only_count_as_requests(build: Build) -> None:
    limits = await build()
    who = principal(requests_per_minute=5, tokens_per_minute=1, concurrent=1)
    for _ in range(3):
        lease = await limits.reserve(demand(who, 0, limit_class=LimitClass.REQUEST, model=None))
        lease.settle(0)
    assert (await limits.reserve(demand(who, 1, limit_class=LimitClass.NONE))).headers == ()


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0s"), (-5, "0s"), (120, "120ms"), (1000, "1s"), (1500, "1.5s"), (60_000, "1m0s"), (360_000, "6m0s"),
     (3_723_000, "1h2m3s")],
)  # fmt: skip
def test_durations_look_like_openais(ms: int, text: str) -> None:
    assert duration(ms) == text


# -- Redis is the one that fails --------------------------------------------------------------------------------------


async def started(server: RedisServer, **limits: Any) -> tuple[RateLimits, Metrics]:
    limiter, metrics = limits_on(server.url, **limits)
    await limiter.start()
    return limiter, metrics


def keys_of(server: RedisServer, prefix: str) -> list[str]:
    words = server.command("KEYS", f"{prefix}*").decode().split("\r\n")
    return [word for word in words if word.startswith(prefix)]


async def test_every_key_of_the_store_has_an_end(redis: RedisServer) -> None:
    limits, _ = await started(redis, redis_timeout=2.0, address={"burst": 5, "per_second": 1})
    await limits.reserve(demand(principal("p", **dict.fromkeys(Quota.__slots__, 50)), 5))
    keys = keys_of(redis, "{sluice}:")
    assert {key.split(":")[1] for key in keys} == set("rtdcbg")
    assert all(0 < int(redis.command("PTTL", key)[1:]) <= 88_000_000 for key in keys)
    await limits.stop()


async def granted(limits: RateLimits, who: Principal, times: int, tokens: int = 1) -> int:
    count = 0
    for _ in range(times):
        try:
            (await limits.reserve(demand(who, tokens))).settle(tokens)
            count += 1
        except ApiError as error:
            assert error.status == 429  # noqa: PT017
    return count


async def test_two_replicas_are_one_limit(redis: RedisServer) -> None:
    first, _ = await started(redis, redis_timeout=2.0)
    second, _ = await started(redis, redis_timeout=2.0)
    who = principal(requests_per_minute=50)
    counts = await asyncio.gather(*(granted(each, who, 40) for each in (first, second)))
    assert sum(counts) == 50
    for each in (first, second):
        await each.stop()


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_without_redis_a_replica_admits_its_share_and_no_more(own_redis: RedisServer, how: str) -> None:
    limits, metrics = await started(own_redis, replicas=2)
    who = principal(requests_per_minute=20)
    assert await granted(limits, who, 4) == 4
    own_redis.kill() if how == "kill" else own_redis.freeze()
    # What Redis granted before the cut counts: its share is 10.
    assert await granted(limits, who, 30) == 6
    assert limits.degraded() == ("limits",)
    sample = metrics.registry.get_sample_value
    assert sample("sluice_limit_decisions_total", {"by": "local", "outcome": "granted"}) == 6
    assert sample("sluice_limit_store_available") == 0
    own_redis.thaw() if how == "freeze" else own_redis.start()
    await eventually(lambda: not limits.degraded(), 15)
    # A server that was frozen knows of the 4 grants; what was admitted without it has been charged to both.
    left = await granted(limits, who, 30)
    assert left <= (10 if how == "freeze" else 14)
    await limits.stop()


async def test_closed_means_closed(own_redis: RedisServer) -> None:
    limits, _ = await started(own_redis, redis_failure="closed")
    own_redis.kill()
    refused = await refusal(limits, demand(principal(requests_per_minute=5)))
    assert (refused.status, refused.code) == (503, "limits_unavailable")
    assert refused.retry_after
    (await limits.reserve(demand(principal()))).settle(0)
    own_redis.start()
    await eventually(lambda: not limits.degraded(), 15)
    await limits.reserve(demand(principal(requests_per_minute=5)))
    await limits.stop()


async def test_a_share_that_is_used_up_is_no_reason_to_give_up(own_redis: RedisServer) -> None:
    limits, _ = await started(own_redis, replicas=4)
    own_redis.kill()
    # The whole limit has room for it, the share never has.
    refused = await refusal(limits, demand(principal(tokens_per_minute=100), 60))
    assert (refused.status, refused.retry_after) == (429, 2.0)
    assert "x-should-retry" not in refused.extra_headers
    who = principal("q", requests_per_minute=4)
    await limits.reserve(demand(who))
    assert (await refusal(limits, demand(who))).extra_headers["x-ratelimit-limit-requests"] == "1"
    # It is a refusal of the share: nothing is known of the limit.
    limits.known(who, "203.0.113.1")
    await limits.stop()


async def test_a_start_without_redis(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, port=free_port())
    limits, _ = await started(server)
    assert limits.degraded() == ("limits",)
    assert await granted(limits, principal(requests_per_minute=3), 5) == 3
    server.start()
    try:
        await eventually(lambda: not limits.degraded(), 15)
        # Debts are paid before Redis decides again.
        assert await granted(limits, principal(requests_per_minute=3), 5) == 0
        await limits.stop()
    finally:
        server.kill()


async def test_scripts_are_loaded_again(own_redis: RedisServer) -> None:
    limits, _ = await started(own_redis, redis_timeout=2.0)
    who = principal(requests_per_minute=10, tokens_per_minute=1000)
    assert await granted(limits, who, 2) == 2
    own_redis.command("SCRIPT", "FLUSH")
    assert await granted(limits, who, 2) == 2
    assert limits.degraded() == ()
    own_redis.command("FLUSHALL")
    assert await granted(limits, who, 20) == 10
    await limits.stop()


async def test_an_old_connection_is_replaced_without_a_word(own_redis: RedisServer) -> None:
    limits, metrics = await started(own_redis, redis_timeout=2.0)
    who = principal(requests_per_minute=100)
    assert await granted(limits, who, 1) == 1
    own_redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert await granted(limits, who, 5) == 5
    assert metrics.registry.get_sample_value("sluice_limit_decisions_total", {"by": "redis", "outcome": "granted"}) == 6
    await limits.stop()


@pytest.mark.parametrize(
    ("commands", "reason"),
    [
        ([("REPLICAOF", "127.0.0.1", "1")], "readonly"),
        ([("CONFIG", "SET", "maxmemory", "1")], "oom"),
        ([("ACL", "SETUSER", "default", "-evalsha"), ("ACL", "SETUSER", "default", "-script")], "denied"),
    ],
)
async def test_a_redis_that_refuses_is_a_redis_that_is_away(
    own_redis: RedisServer, commands: list[tuple[str, ...]], reason: str
) -> None:
    limits, metrics = await started(own_redis, redis_timeout=2.0)
    who = principal(tokens_per_minute=100)
    assert await granted(limits, who, 1) == 1
    for command in commands:
        own_redis.command(*command)
    assert await granted(limits, who, 3) == 3
    assert limits.degraded() == ("limits",)
    errors = metrics.registry.get_sample_value("sluice_limit_store_errors_total", {"reason": reason})
    assert errors is not None
    assert errors >= 1
    await limits.stop()


async def test_callers_who_leave_while_redis_thinks_leave_nothing_behind(own_redis: RedisServer) -> None:
    limits, _ = await started(own_redis, redis_timeout=5.0)
    who = principal("leaver", tokens_per_minute=1_000_000, concurrent=10_000)
    others = principal("other", requests_per_minute=1_000_000)
    for _ in range(20):
        leaving = [asyncio.ensure_future(limits.reserve(demand(who, 7))) for _ in range(100)]
        staying = [asyncio.ensure_future(limits.reserve(demand(others))) for _ in range(10)]
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        for lease in await asyncio.gather(*staying):
            # Each answer is of the one who asked: the others' limit, not the leavers'.
            assert dict(lease.headers)[b"x-ratelimit-limit-requests"] == b"1000000"

    async def all_back() -> bool:
        lease = await limits.reserve(demand(who, 1))
        left = int(dict(lease.headers)[b"x-ratelimit-remaining-tokens"])
        lease.settle(0)
        return left == 999_999

    await eventually(all_back)
    await limits.stop()


async def test_settlements_wait_for_redis_and_arrive(own_redis: RedisServer) -> None:
    limits, _ = await started(own_redis, redis_timeout=2.0)
    who = principal(tokens_per_day=1000)
    leases = [await limits.reserve(demand(who, 100)) for _ in range(10)]
    own_redis.freeze()
    for lease in leases:
        lease.settle(10)
    await asyncio.sleep(0.1)
    own_redis.thaw()

    async def given_back() -> bool:
        if limits.degraded():
            return False
        try:
            lease = await limits.reserve(demand(who, 900))
        except ApiError:
            return False
        lease.settle(0)
        return True

    await eventually(given_back, 20)
    await limits.stop()


async def test_the_last_settlements_leave_before_the_end(redis: RedisServer) -> None:
    limits, _ = await started(redis, redis_timeout=2.0)
    who = principal("last", tokens_per_day=1000)
    lease = await limits.reserve(demand(who, 1000))
    lease.settle(1)
    await limits.stop()
    again, _ = await started(redis, redis_timeout=2.0)
    (await again.reserve(demand(who, 999))).settle(0)
    await again.stop()


@pytest.mark.parametrize("url", ["http://x", "redis+sentinel://h1", "redis://h:port", "nonsense"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(SettingsError, match="redis_url") as caught:
        limits_on(url)
    assert url not in str(caught.value)


@pytest.mark.slow
async def test_with_a_password_and_a_user_of_few_rights(tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    try:
        rights = ["on", ">pass word", "~{sluice}:*", "&*", "-@all", "+evalsha", "+script|load", "+get", "+set", "+del"]
        rights += ["+hget", "+hset", "+hmget", "+hincrby", "+hdel", "+zadd", "+zrem", "+zcard", "+zrange"]
        rights += ["+zremrangebyscore", "+pexpire", "+time", "+client|setinfo", "+hello"]
        server.command("ACL", "SETUSER", "sluice", *rights)
        limits, _ = limits_on(f"redis://sluice:pass%20word@127.0.0.1:{server.port}", redis_timeout=2.0)
        await limits.start()
        assert limits.degraded() == ()
        everything = principal(requests_per_minute=2, tokens_per_minute=100, tokens_per_day=100, concurrent=5)
        assert await granted(limits, everything, 3) == 2
        assert limits.degraded() == ()
        await limits.stop()
        wrong, _ = limits_on(f"redis://sluice:wrong@127.0.0.1:{server.port}")
        await wrong.start()
        assert wrong.degraded() == ("limits",)
        await wrong.stop()
    finally:
        server.kill()


@pytest.mark.slow
async def test_over_tls(tmp_path: Path) -> None:
    from tests.support.certificates import self_signed

    certificate, key = self_signed(tmp_path, "127.0.0.1")
    options = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no"]
    server = RedisServer(tmp_path, binary=debian_binary(), options=options, plain=False).start()
    try:
        limits, _ = limits_on(f"rediss://127.0.0.1:{server.port}?ssl_ca_certs={certificate}", redis_timeout=2.0)
        await limits.start()
        assert limits.degraded() == ()
        assert await granted(limits, principal(requests_per_minute=2), 3) == 2
        await limits.stop()
        untrusted, _ = limits_on(f"rediss://127.0.0.1:{server.port}", redis_timeout=2.0)
        await untrusted.start()
        assert untrusted.degraded() == ("limits",)
        await untrusted.stop()
    finally:
        server.kill()
