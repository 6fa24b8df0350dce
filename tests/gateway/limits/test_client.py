from __future__ import annotations

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.sentinel import SentinelConnectionPool

from gateway.limits.client import connector
from gateway.settings import SettingsError


def test_one_server_by_any_of_its_urls() -> None:
    for url in ("redis://h:1/2", "rediss://u:p@h:1", "unix:///run/redis.sock"):
        assert type(connector(url)()) is Redis
    options = connector("redis://us%40er:pa%2Fss@h:7/3", timeout=0.05)().connection_pool.connection_kwargs
    assert (options["host"], options["port"], options["db"]) == ("h", 7, 3)
    assert (options["username"], options["password"]) == ("us@er", "pa/ss")
    assert options["socket_timeout"] == 0.05
    # Repeating is the business of who knows what may be repeated.
    assert options["retry"].get_retries() == 0


def test_a_cluster_with_and_without_tls() -> None:
    assert isinstance(connector("redis+cluster://h:1")(), RedisCluster)
    assert isinstance(connector("rediss+cluster://u:p@h:1")(), RedisCluster)


def test_sentinels_have_users_of_their_own() -> None:
    url = "redis+sentinel://app:one@h1:1,h2/front?db=2&sentinel_username=watch&sentinel_password=two"
    pool = connector(url)().connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert pool.service_name == "front"
    assert (pool.connection_kwargs["username"], pool.connection_kwargs["password"]) == ("app", "one")
    assert pool.connection_kwargs["db"] == 2
    nodes = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in nodes] == [("h1", 1), ("h2", 26379)]
    assert {(each["username"], each["password"]) for each in nodes} == {("watch", "two")}


def test_sentinels_over_tls() -> None:
    pool = connector("rediss+sentinel://h1:1/front")().connection_pool
    assert "SSL" in pool.connection_class.__name__


@pytest.mark.parametrize(
    "url",
    ["", "http://h", "redis+sentinel://h1", "redis+sentinel:///front", "redis://:secret@h:port", "redis+sentinel://h:x/f"],
)  # fmt: skip
def test_what_is_no_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(SettingsError, match="redis_url") as caught:
        connector(url)
    assert not url or url not in str(caught.value)
    assert "secret" not in str(caught.value)
