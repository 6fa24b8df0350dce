"""L9: two processes decide on the limits of a hundred keys over one Redis, which is cut off in between."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import uvloop

from gateway.access.principal import ALL_SCOPES, Principal
from gateway.errors import ApiError
from gateway.limits.build import build_limits
from gateway.limits.quota import Quota
from gateway.limits.reserve import Demand, LimitClass
from gateway.observability.metrics import Metrics
from gateway.settings import load
from loadtest.figures import percentile
from loadtest.goals.goal import Figure, Goal, Run, at_least, at_most, exactly, told
from tests.support.limit_checker import Attempt, over_limit
from tests.support.redis_server import RedisServer

PROCESSES: Final = 2
PER_SECOND: Final = 500
KEYS: Final = 100
#: A key is asked for twice as much.
LIMIT: Final = PROCESSES * PER_SECOND // KEYS * 60 // 2
WINDOW_SECONDS: Final = 60.0
#: Redis does not answer for so long, once in the middle of each minute.
CUT_SECONDS: Final = 5.0
#: What a cut may still slow down after its end.
AFTER_SECONDS: Final = 3.0


def decisions(limits: Run) -> Sequence[Figure]:
    """L9. At least a minute and a half, because a window is a minute long."""
    limits.directory.mkdir(parents=True)
    seconds = max(90.0, limits.seconds)
    redis = RedisServer(limits.directory).start()
    try:
        deciders = [_start(redis.url, name, seconds) for name in ("a", "b")]
        cuts = list(_cut(redis, seconds))
        said = [json.loads(process.communicate(timeout=seconds + 60)[0]) for process in deciders]
    finally:
        redis.kill()
    attempts = [(key, Attempt(begun, ended, 1, granted)) for rows in said for key, begun, ended, granted in rows]
    by_key: dict[int, list[Attempt]] = defaultdict(list)
    for key, attempt in attempts:
        by_key[key].append(attempt)
    whole = [each for _, each in attempts if not _touches(each, cuts)]
    waits = [each.ended - each.begun for each in whole]
    first = cuts[0][0]
    return [
        told("decisions", len(attempts)),
        told("granted", sum(bool(each.granted) for _, each in attempts)),
        at_least("decisions/s", len(attempts) / seconds, 0.98 * PROCESSES * PER_SECOND),
        told("times that Redis was cut off, for five seconds", len(cuts)),
        exactly("keys over their limit before the first cut", _over(by_key, 0, first), 0),
        # The declared bound: each replica may grant its share once more by itself.
        exactly("keys over limit and slack at any time", _over(by_key, LIMIT, float("inf")), 0),
        told("most that a key had in a minute, of its limit", max(map(_most, by_key.values())) / LIMIT),
        told("decision p50, Redis there", percentile(waits, 0.5) * 1e3, "ms"),
        at_most("decision p99, Redis there", percentile(waits, 0.99) * 1e3, 5, "ms"),
    ]


def _start(url: str, name: str, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "loadtest.goals.decisions", url, name, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _cut(redis: RedisServer, seconds: float) -> Iterator[tuple[float, float]]:
    """Stop Redis in the middle of every minute; yields when it was away."""
    began = time.time()
    # One whole window without a cut first.
    next_cut = began + min(75.0, seconds - 2 * CUT_SECONDS)
    while next_cut + CUT_SECONDS < began + seconds:
        time.sleep(max(0.0, next_cut - time.time()))
        away = time.time()
        redis.freeze()
        time.sleep(CUT_SECONDS)
        redis.thaw()
        yield away, time.time()
        next_cut += 60.0


def _touches(attempt: Attempt, cuts: Sequence[tuple[float, float]]) -> bool:
    return any(attempt.ended >= away and attempt.begun <= back + AFTER_SECONDS for away, back in cuts)


def _over(by_key: Mapping[int, Sequence[Attempt]], slack: int, until: float) -> int:
    before = ([each for each in history if each.ended < until] for history in by_key.values())
    return sum(any(over_limit(history, LIMIT, WINDOW_SECONDS, slack)) for history in before)


def _most(history: Sequence[Attempt]) -> int:
    """Grants that certainly fell into one window."""
    granted = sorted((each for each in history if each.granted), key=lambda each: each.ended)
    return max(
        sum(each.begun >= last.ended - WINDOW_SECONDS for each in granted[: index + 1])
        for index, last in enumerate(granted)
    )


async def decide(url: str, name: str, seconds: float) -> list[tuple[int, float, float, bool]]:
    """One replica: so many decisions per second over the keys in turn; key, begin, end and whether it was granted."""
    flags: dict[str, Any] = {"redis_url": url, "limits": {"replicas": PROCESSES}}
    limiter = build_limits(load(flags=flags), Metrics())
    await limiter.start()
    quota = Quota(requests_per_minute=LIMIT)
    keys = [Principal(f"key-{number}", ALL_SCOPES, quota=quota) for number in range(KEYS)]
    rows: list[tuple[int, float, float, bool]] = []

    async def one(number: int) -> None:
        key, begun = number % KEYS, time.time()
        demand = Demand(f"{name}-{number}", keys[key], "203.0.113.1", LimitClass.GENERATION, "m", 1, "messages")
        try:
            lease = await limiter.reserve(demand)
            lease.settle(1)
            rows.append((key, begun, time.time(), True))
        except ApiError as error:
            if error.status != 429:
                raise
            rows.append((key, begun, time.time(), False))

    began, number = time.time(), 0
    going: set[asyncio.Task[None]] = set()
    while (now := time.time()) < began + seconds:
        due = began + number / PER_SECOND
        if due > now:
            await asyncio.sleep(due - now)
            continue
        going.add(task := asyncio.ensure_future(one(number)))
        task.add_done_callback(going.discard)
        number += 1
    await asyncio.gather(*going)
    await limiter.stop()
    return rows


def main() -> None:
    """One replica as a process of its own; its rows go to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("name")
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    print(json.dumps(uvloop.run(decide(options.url, options.name, options.seconds))))


GOALS: Final = (Goal("L9", "two replicas, 500 decisions/s each on 100 keys, Redis cut off", decisions),)

if __name__ == "__main__":
    main()
