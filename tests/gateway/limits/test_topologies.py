"""Limits on a cluster and behind sentinels: real servers of each kind, small ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.access.principal import ALL_SCOPES, Principal
from gateway.errors import ApiError
from gateway.limits.build import build_limits
from gateway.limits.limiter import RateLimits
from gateway.limits.quota import Quota
from gateway.limits.reserve import Demand, LimitClass
from gateway.observability.metrics import Metrics
from gateway.settings import load
from tests.support.gateways import eventually
from tests.support.redis_server import RedisServer, free_port

pytestmark = pytest.mark.slow

EVERY_KIND = Quota(3, 1000, 10_000, 5)


async def started(url: str) -> RateLimits:
    flags: dict[str, Any] = {"redis_url": url, "limits": {"redis_timeout": 5.0}}
    limits = build_limits(load(flags=flags), Metrics())
    await limits.start()
    return limits


async def granted(limits: RateLimits, times: int, name: str = "p") -> int:
    who, count = Principal(name, ALL_SCOPES, quota=EVERY_KIND), 0
    for number in range(times):
        demand = Demand(f"{name}-{number}", who, "203.0.113.1", LimitClass.GENERATION, "m", 10, "messages")
        try:
            (await limits.reserve(demand)).settle(1)
            count += 1
        except ApiError as error:
            assert error.status == 429, error  # noqa: PT017
    return count


async def test_on_a_cluster_all_limits_of_a_request_are_in_one_slot(tmp_path: Path) -> None:
    options = ["--cluster-enabled", "yes", "--cluster-config-file", str(tmp_path / "nodes.conf")]
    server = RedisServer(tmp_path, options=options).start()
    try:
        server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")

        async def formed() -> bool:
            return b"cluster_state:ok" in server.command("CLUSTER", "INFO")

        await eventually(formed)
        limits = await started(f"redis+cluster://127.0.0.1:{server.port}")
        assert limits.degraded() == ()
        assert await granted(limits, 5) == 3
        assert await granted(limits, 5, "q") == 3
        await limits.stop()
    finally:
        server.kill()


async def test_sentinels_say_who_is_primary(tmp_path: Path) -> None:
    (tmp_path / "primary").mkdir()
    primary = RedisServer(tmp_path / "primary").start()
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor limits 127.0.0.1 {primary.port} 1\n")
    port = free_port()
    sentinel = RedisServer(tmp_path, port=port, arguments=[str(config), "--sentinel"]).start()
    try:
        limits = await started(f"redis+sentinel://127.0.0.1:{port}/limits")
        assert limits.degraded() == ()
        assert await granted(limits, 5) == 3
        await limits.stop()
        unknown = await started(f"redis+sentinel://127.0.0.1:{port}/nobody")
        assert unknown.degraded() == ("limits",)
        await unknown.stop()
    finally:
        sentinel.kill()
        primary.kill()
