"""L5: chats on a real engine for a long time; nothing grows, nothing is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from time import perf_counter
from typing import Final

from loadtest.client import Recording
from loadtest.goals.books import saw
from loadtest.goals.goal import Figure, Goal, Run, at_most, exactly, told
from loadtest.goals.load import ask_again, run
from loadtest.goals.servers import toy
from loadtest.goals.stubbed import books
from loadtest.goals.watch import Watch, lag_p99, series
from loadtest.workload import chat

CHATS: Final = 64
TOKENS: Final = 128
#: A third of the time, at most two minutes, in which pools and caches fill.
WARM_UP_SECONDS: Final = 120.0
SETTLE_SECONDS: Final = 10.0


def soak(limits: Run) -> Sequence[Figure]:
    """L5."""
    with toy(limits.directory) as server:
        watch, before = Watch(server), server.metrics()
        idle = watch.look()
        request = chat(server.target, tokens=TOKENS, stream=True)
        until = perf_counter() + limits.seconds

        def take(recording: Recording) -> None:
            server.saws.append(saw(recording))

        async def load() -> None:
            watching = asyncio.ensure_future(watch.run(until))
            await ask_again(server.target, request, CHATS, until, take)
            watching.cancel()

        began = perf_counter()
        run(load())
        seconds = perf_counter() - began
        slope = watch.slope(min(WARM_UP_SECONDS, limits.seconds / 3))
        time.sleep(SETTLE_SECONDS)
        rest, after = watch.look(), server.metrics()
    done = sum(each.succeeded and each.completion_tokens == TOKENS for each in server.saws)
    return [
        told("chats", len(server.saws)),
        told("tokens/s", done * TOKENS / seconds),
        exactly("chats that are not whole", len(server.saws) - done, 0),
        at_most("resident memory of the front end, slope", slope, 1.0, "MiB/min"),
        told("resident memory, first to last look under load", watch.looks[-2].rss_mib - watch.looks[2].rss_mib, "MiB"),
        at_most("files open after it, more than before", rest.fds - idle.fds, 4),
        at_most("threads after it, more than before", rest.threads - idle.threads, 16),
        told("series of /metrics, more than before", series(after) - series(before)),
        at_most("event loop lag p99", lag_p99(before, after) * 1e3, 20, "ms"),
        *books(server),
    ]


GOALS: Final = (Goal("L5", "64 chats on the toy model", soak),)
