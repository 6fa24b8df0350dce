"""Redis slow, lossy, cut off, demoted, refusing: limits stay exact, every answer is a decision or an honest refusal."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.access.principal import ALL_SCOPES, Principal
from gateway.errors import ApiError
from gateway.limits.build import build_limits
from gateway.limits.limiter import RateLimits
from gateway.limits.plan import Kind, LimitPlan
from gateway.limits.quota import UNLIMITED, Quota
from gateway.limits.reserve import Demand, Lease, LimitClass
from gateway.observability.metrics import Metrics
from gateway.settings import load
from tests.support.fake_redis import FakeRedis
from tests.support.gateways import eventually
from tests.support.redis_server import RedisServer, free_port
from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.slow

DAY = Quota(tokens_per_day=1_000_000)
NUMBERS = itertools.count()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path).start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
async def proxy(redis: RedisServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(redis.port, seed=3) as proxy:
        yield proxy


class Replica:
    """One replica's limits, and what they were heard to say."""

    def __init__(self, url: str, **limits: object) -> None:
        self.metrics = Metrics()
        self.limits: RateLimits = build_limits(load(flags={"redis_url": url, "limits": limits}), self.metrics)

    async def __aenter__(self) -> Replica:
        await self.limits.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.limits.stop()

    async def ask(self, quota: Quota, tokens: int = 1, who: str = "shared") -> Lease | ApiError:
        principal = Principal(who, ALL_SCOPES, quota=quota)
        wanted = Demand(f"r{next(NUMBERS)}", principal, "203.0.113.1", LimitClass.GENERATION, "m", tokens, "messages")
        try:
            return await self.limits.reserve(wanted)
        except ApiError as refused:
            return refused

    async def granted(self, quota: Quota, times: int, tokens: int = 1) -> int:
        count = 0
        for _ in range(times):
            answer = await self.ask(quota, tokens)
            if isinstance(answer, ApiError):
                assert answer.status == 429
            else:
                answer.settle(tokens)
                count += 1
        return count

    async def used_today(self, quota: Quota = DAY) -> int:
        """What the store says is used, without adding to it; -1 while it refuses."""
        lease = await self.ask(quota, 1)
        if isinstance(lease, ApiError):
            return -1
        lease.settle(0)
        left = int(dict(lease.headers)[b"x-ratelimit-remaining-tokens"])
        return (quota.tokens_per_day or 0) - left - 1

    def decided(self, by: str, outcome: str) -> float:
        labels = {"by": by, "outcome": outcome}
        return self.metrics.registry.get_sample_value("sluice_limit_decisions_total", labels) or 0.0

    def errors(self, reason: str) -> float:
        return self.metrics.registry.get_sample_value("sluice_limit_store_errors_total", {"reason": reason}) or 0.0

    async def well(self) -> None:
        await eventually(lambda: not self.limits.degraded(), 30)


def lease_key(quota: Quota, who: str = "shared") -> str:
    principal = Principal(who, ALL_SCOPES, quota=quota)
    charges = LimitPlan("sluice", UNLIMITED, {}, None).charges(Demand("r", principal, "", LimitClass.GENERATION))
    return next(charge.key for charge in charges if charge.kind is Kind.CONCURRENT)


async def all_given_back(observer: Replica, expected: int, quota: Quota = DAY) -> None:
    """The store's account of the day comes to exactly ``expected``."""
    seen: list[int] = []

    async def so() -> bool:
        seen.append(await observer.used_today(quota))
        return seen[-1] == expected

    try:
        await eventually(so, 20)
    except AssertionError as error:
        raise AssertionError(f"expected {expected}, saw {seen[-5:]}") from error


# -- slow, lossy, cut off ----------------------------------------------------------------------------------------------


async def test_half_a_second_too_slow_is_away_and_the_account_is_exact_afterwards(
    redis: RedisServer, proxy: TcpProxy
) -> None:
    async with Replica(redis.url, redis_timeout=5.0) as near, Replica(proxy.url, redis_timeout=0.25) as far:
        await far.well()
        assert await far.granted(DAY, 5, 10) == 5
        proxy.delay = 0.5
        # Some wait for their deadline, then nobody asks any more; nobody is refused, as the share is the whole limit.
        assert await far.granted(DAY, 40, 10) == 40
        assert far.limits.degraded() == ("limits",)
        assert far.errors("timeout") >= 1
        proxy.delay = 0.0
        await far.well()
        # Reservations that reached Redis too late to count are not charged beside what was admitted without it.
        await all_given_back(near, 450)


async def test_a_lost_reply_is_charged_once(redis: RedisServer, proxy: TcpProxy) -> None:
    async with Replica(proxy.url, redis_timeout=5.0) as replica:
        assert await replica.granted(DAY, 1, 10) == 1
        await eventually(lambda: b":g:" not in redis.command("KEYS", "*"))
        proxy.lose_next_answer()
        lease = await replica.ask(DAY, 100)
        assert not isinstance(lease, ApiError)
        assert proxy.lost == 1
        assert replica.decided("local", "granted") == 0
        # The second copy was answered, and knew of the first.
        assert dict(lease.headers)[b"x-ratelimit-remaining-tokens"] == b"%d" % (1_000_000 - 110)
        lease.settle(40)
        await all_given_back(replica, 50)


async def test_with_one_answer_in_a_hundred_lost_the_account_is_exact(redis: RedisServer, proxy: TcpProxy) -> None:
    async with (
        Replica(redis.url, redis_timeout=5.0) as near,
        Replica(proxy.url, redis_timeout=5.0) as first,
        Replica(proxy.url, redis_timeout=5.0) as second,
    ):
        proxy.loss = 0.01
        dice = random.Random(7)
        taken = 0

        async def work(replica: Replica) -> None:
            nonlocal taken
            for _ in range(100):
                lease = await replica.ask(DAY, 20)
                assert not isinstance(lease, ApiError), lease
                await asyncio.sleep(0)
                used = dice.randint(0, 20)
                taken += used
                lease.settle(used)

        await asyncio.gather(*(work(replica) for replica in (first, second) for _ in range(10)))
        assert proxy.lost > 0
        proxy.loss = 0.0
        for replica in (first, second):
            await replica.well()
        await all_given_back(near, taken)


async def test_a_partition_of_one_of_two_admits_at_most_its_share_more(redis: RedisServer, proxy: TcpProxy) -> None:
    quota = Quota(tokens_per_day=100)
    async with (
        Replica(redis.url, replicas=2, redis_timeout=5.0) as near,
        Replica(proxy.url, replicas=2, redis_timeout=0.25) as far,
    ):
        await far.well()
        assert await far.granted(quota, 20) == 20
        proxy.partition()
        # Its share is 50, of which it has used 20.
        assert await far.granted(quota, 100) == 30
        assert far.limits.degraded() == ("limits",)
        # The other one knows nothing of the partition, and has what is left of the limit.
        assert await near.granted(quota, 200) == 80
        proxy.heal()
        await far.well()
        assert await far.granted(quota, 10) == 0
        assert await near.granted(quota, 10) == 0


async def test_what_was_admitted_in_a_partition_and_runs_on_is_the_stores_afterwards(
    redis: RedisServer, proxy: TcpProxy
) -> None:
    quota = Quota(concurrent=10, tokens_per_day=1000)
    async with (
        Replica(redis.url, replicas=2, redis_timeout=5.0) as near,
        Replica(proxy.url, replicas=2, redis_timeout=0.25) as far,
    ):
        proxy.partition()
        held = [await far.ask(quota, 50) for _ in range(5)]
        leases = [lease for lease in held if not isinstance(lease, ApiError)]
        assert len(leases) == 5
        over = await far.ask(quota, 50)
        assert isinstance(over, ApiError)
        assert over.code == "concurrency_limit_exceeded"
        leases.pop().settle(30)
        proxy.heal()
        await far.well()
        # Four run on, with fifty tokens each, and one has ended. Late copies of what was given up are withdrawn.
        await eventually(lambda: redis.command("ZCARD", lease_key(quota)) == b":4\r\n", 20)
        others = [await near.ask(quota, 10) for _ in range(7)]
        assert [isinstance(each, ApiError) for each in others] == [False] * 6 + [True]
        for each in (*others, *leases):
            if not isinstance(each, ApiError):
                each.settle(1)
        await all_given_back(near, 30 + 6 + 4, quota)


# -- it answers, but not as it should ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason", "opens"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "loading", True),
        (b"-READONLY You can't write against a read only replica.\r\n", "readonly", True),
        (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", "oom", True),
        (b"-NOPERM User default has no permissions\r\n", "denied", True),
        (b"-NOAUTH Authentication required.\r\n", "denied", True),
        (b"-MISCONF Redis is configured to save RDB snapshots\r\n", "misconf", True),
        (b"-MOVED 1234 127.0.0.1:7001\r\n", "cluster", True),
        (b"-ASK 1234 127.0.0.1:7001\r\n", "cluster", True),
        (b"-CLUSTERDOWN Hash slot not served\r\n", "cluster", True),
        (b"-NOSCRIPT No matching script.\r\n", "noscript", True),
        (b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n", "wrongtype", True),
        (b"-BUSY Redis is busy running a script.\r\n", "busy", True),
        (b"-ERR something new\r\n", "error", True),
        (b"!7\r\nEXPLODE\r\n", "error", True),
        (b"nonsense\r\n", "error", True),
        (b":12\r\n", "error", True),
        (b"*2\r\n:1\r\n$1\r\nx\r\n", "error", True),
        (b"_\r\n", "error", True),
    ],
    ids=lambda value: value[:12].decode().strip() if isinstance(value, bytes) else None,
)
@pytest.mark.parametrize("policy", ["local", "closed"])
async def test_whatever_redis_says_it_is_a_decision_or_a_503(
    answer: bytes, reason: str, opens: bool, policy: str
) -> None:
    async with FakeRedis(answer) as server, Replica(server.url, redis_failure=policy, redis_timeout=5.0) as replica:
        assert (replica.limits.degraded() == ("limits",)) is opens
        assert replica.errors(reason) >= 1
        for _ in range(3):
            said = await replica.ask(DAY)
            if policy == "local":
                assert not isinstance(said, ApiError)
                said.settle(1)
            else:
                assert isinstance(said, ApiError)
                assert (said.status, said.code) == (503, "limits_unavailable")


async def test_a_key_of_the_wrong_type_concerns_one_limit_only(redis: RedisServer) -> None:
    async with Replica(redis.url, redis_timeout=5.0) as replica:
        name = LimitPlan("sluice", UNLIMITED, {}, None).requests_key("spoiled")
        redis.command("SET", name, "not a window")
        quota = Quota(requests_per_minute=2)
        answers = [await replica.ask(quota, who="spoiled") for _ in range(3)]
        assert [isinstance(each, ApiError) for each in answers] == [False, False, True]
        assert replica.errors("wrongtype") == 3
        assert replica.limits.degraded() == ()
        assert not isinstance(await replica.ask(quota, who="sound"), ApiError)
        assert replica.decided("redis", "granted") == 1


async def test_a_server_that_was_demoted_is_left_for_the_one_that_has_its_name_now(
    redis: RedisServer, proxy: TcpProxy, tmp_path: Path
) -> None:
    (tmp_path / "next").mkdir()
    successor = RedisServer(tmp_path / "next").start()
    try:
        async with Replica(proxy.url, redis_timeout=5.0) as replica:
            assert await replica.granted(DAY, 1) == 1
            redis.command("REPLICAOF", "127.0.0.1", str(successor.port))
            proxy.target_port = successor.port
            assert await replica.granted(DAY, 1) == 1
            await replica.well()
            before = replica.decided("redis", "granted")
            assert await replica.granted(DAY, 1) == 1
            assert replica.decided("redis", "granted") == before + 1
    finally:
        successor.kill()


async def test_a_user_without_one_of_the_commands_is_refused_at_the_probe(redis: RedisServer) -> None:
    redis.command("ACL", "SETUSER", "default", "-zadd")
    async with Replica(redis.url, redis_timeout=5.0) as replica:
        assert replica.limits.degraded() == ("limits",)
        assert replica.errors("denied") >= 1


# -- callers who leave -------------------------------------------------------------------------------------------------


@pytest.mark.timeout(400)
async def test_ten_thousand_callers_leave_while_redis_thinks(redis: RedisServer) -> None:
    dice = random.Random(11)
    async with Replica(redis.url, redis_timeout=30.0) as replica:
        taken = 0

        async def leaving(hops: int) -> None:
            asking = asyncio.ensure_future(replica.ask(DAY, 7, who="shared"))
            for _ in range(hops):
                await asyncio.sleep(0)
            asking.cancel()
            lease = (await asyncio.gather(asking, return_exceptions=True))[0]
            if not isinstance(lease, BaseException):
                lease.settle(0)

        async def staying() -> None:
            nonlocal taken
            lease = await replica.ask(DAY, 5)
            assert not isinstance(lease, ApiError)
            assert b"x-ratelimit-remaining-tokens" in dict(lease.headers)
            lease.settle(2)
            taken += 2

        for _ in range(100):
            await asyncio.gather(*(leaving(dice.randint(0, 12)) for _ in range(100)), *(staying() for _ in range(5)))
        assert replica.limits.degraded() == ()
        await all_given_back(replica, taken)


# -- another primary ---------------------------------------------------------------------------------------------------


def replicated(info: bytes) -> bool:
    """Whether the replica has everything that the primary has."""
    lines = info.decode().splitlines()
    (all_of_it,) = (line.split(":")[1] for line in lines if line.startswith("master_repl_offset:"))
    return any(line.startswith("slave0:") and f"offset={all_of_it}," in line for line in lines)


async def test_after_a_failover_the_account_goes_on(tmp_path: Path) -> None:
    for name in ("primary", "replica", "sentinel"):
        (tmp_path / name).mkdir()
    primary = RedisServer(tmp_path / "primary").start()
    replica_of = ["--replicaof", f"127.0.0.1 {primary.port}", "--repl-diskless-sync-delay", "0"]
    replica = RedisServer(tmp_path / "replica", options=replica_of).start()
    port = free_port()
    file = tmp_path / "sentinel" / "sentinel.conf"
    file.write_text(
        f"sentinel monitor front 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds front 500\nsentinel failover-timeout front 3000\n"
    )
    sentinel = RedisServer(tmp_path / "sentinel", port=port, arguments=[str(file), "--sentinel"]).start()
    try:
        await eventually(lambda: b"state=online" in primary.command("INFO", "replication"), 30)
        await eventually(lambda: str(replica.port).encode() in sentinel.command("SENTINEL", "REPLICAS", "front"), 30)
        async with Replica(f"redis+sentinel://127.0.0.1:{port}/front", redis_timeout=2.0) as limits:
            assert limits.limits.degraded() == ()
            assert await limits.granted(DAY, 3, 10) == 3
            await all_given_back(limits, 30)
            await eventually(lambda: replicated(primary.command("INFO", "replication")), 20)
            primary.kill()
            assert await limits.granted(DAY, 3, 10) == 3
            await eventually(lambda: b"role:master" in replica.command("INFO", "replication"), 60)
            await limits.well()
            # What was replicated is there, and what was admitted meanwhile was charged.
            await all_given_back(limits, 60)
            assert limits.decided("local", "granted") >= 1
    finally:
        for server in (sentinel, replica, primary):
            server.kill()
