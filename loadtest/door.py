"""What the front door costs by itself: a look-up among many keys, and a decision on limits, here and on Redis.

Redis runs on loopback beside it. Decisions are made ``--at-once`` at a time, as requests arrive; each is settled.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from typing import Any, Final

import uvloop

from gateway.access.keyring import Freshness, Keyring, build
from gateway.access.keys import KeyParts, key_digest, new_key
from gateway.access.principal import ALL_SCOPES, Principal
from gateway.limits.build import build_limits
from gateway.limits.quota import Quota
from gateway.limits.reserve import Demand, LimitClass
from gateway.observability.metrics import Metrics
from gateway.settings import load
from gateway.store.keys import KeyChanges, KeyGrant, KeyRecord
from loadtest.figures import percentile
from loadtest.machine import describe, machine_facts
from loadtest.processes import free_port
from loadtest.with_redis import binary, wait_for

PEPPER: Final = b"p" * 32
QUOTA: Final = Quota(10_000_000, 10_000_000_000, 10_000_000_000_000, 1_000_000)


def ring_of(count: int) -> tuple[Keyring, list[bytes]]:
    """A ring of ``count`` keys, and some of them as they are sent."""
    keys = [new_key() for _ in range(count)]
    ring = Keyring(PEPPER, Freshness(1e9, 1e9, 1.0))
    ring.apply(build(KeyChanges(1, [_record(key) for key in keys], complete=True)))
    ring.synced(time.monotonic())
    return ring, [key.text().encode() for key in keys[:: max(1, count // 1000)]]


def _record(key: KeyParts) -> KeyRecord:
    return KeyRecord(
        id=key.public_id,
        grant=KeyGrant("bench"),
        created_at=0.0,
        created_by="bench",
        rotated_at=None,
        revoked_at=None,
        previous_until=None,
        revision=1,
        digest=key_digest(PEPPER, key),
        previous_digest=None,
    )


def look_up(count: int, times: int = 50_000) -> float:
    """Microseconds of CPU per look-up among ``count`` keys."""
    ring, tokens = ring_of(count)
    began = time.process_time()
    for number in range(times):
        ring.identify_token(tokens[number % len(tokens)])
    return (time.process_time() - began) / times * 1e6


async def decide(redis: str | None, at_once: int, total: int) -> tuple[list[float], float]:
    """Seconds from asking to knowing of each of ``total`` decisions; microseconds of CPU for one and its settling."""
    flags: dict[str, Any] = {"limits": {"redis_timeout": 5.0}, **({"redis_url": redis} if redis else {})}
    limits = build_limits(load(flags=flags), Metrics())
    await limits.start()
    waits: list[float] = []
    numbers = iter(range(total))

    async def work(worker: int) -> None:
        who = Principal(f"tenant-{worker}", ALL_SCOPES, quota=QUOTA)
        for number in numbers:
            began = time.perf_counter()
            lease = await limits.reserve(
                Demand(f"r{number}", who, "127.0.0.1", LimitClass.GENERATION, "m", 100, "messages")
            )
            waits.append(time.perf_counter() - began)
            lease.settle(40)

    cpu = time.process_time()
    await asyncio.gather(*map(work, range(at_once)))
    await limits.stop()
    return waits, (time.process_time() - cpu) / total * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(prog="door.py", description=__doc__)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--total", type=int, default=20_000)
    parser.add_argument("--keys", type=int, nargs="+", default=[1, 1000, 100_000])
    options = parser.parse_args()
    print(describe(machine_facts()), "\n")
    for count in options.keys:
        print(f"look-up among {count:>7,} keys: {look_up(count):6.1f} us of CPU", flush=True)
    print("\nfour limits, reserve + settle         p50 ms    p99 ms   CPU us")
    with tempfile.TemporaryDirectory(prefix="sluice-door-") as scratch:
        port = free_port()
        command = [binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", scratch]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait_for(port)
            for name, url in (("memory", None), ("Redis", f"redis://127.0.0.1:{port}")):
                for at_once in options.at_once:
                    waits, cpu = uvloop.run(decide(url, at_once, options.total))
                    p50, p99 = percentile(waits, 0.5) * 1e3, percentile(waits, 0.99) * 1e3
                    print(f"{name:8}{at_once:>4} at once{'':16}{p50:10.3f}{p99:10.3f}{cpu:9.1f}", flush=True)
        finally:
            server.kill()
            server.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
