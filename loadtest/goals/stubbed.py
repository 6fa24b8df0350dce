"""L3, L4, L15: the front end by itself, over the stub engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Final

from loadtest.answers import read_stream
from loadtest.client import Recording
from loadtest.figures import percentile
from loadtest.goals.books import payload, saw, texts
from loadtest.goals.goal import Figure, Goal, Run, at_least, at_most, exactly, told
from loadtest.goals.load import ask_again, ask_times, run
from loadtest.goals.servers import Server, stub
from loadtest.goals.watch import Watch
from loadtest.workload import chat

CALLERS: Final = 16
WORDS: Final = 20
STREAMS: Final = 200
STREAM_TOKENS: Final = 200
#: Between two tokens; the stub's own step comes on top, and 50 ms are asked for.
STEP_SECONDS: Final = 0.045


def many_requests(limits: Run) -> Sequence[Figure]:
    """L3."""
    waits: list[float] = []
    with stub(limits.directory) as server:
        request = chat(server.target, tokens=WORDS, stream=False)
        began = perf_counter()

        def take(recording: Recording) -> None:
            waits.append(recording.finished - recording.sent)
            server.saws.append(saw(recording))

        run(ask_again(server.target, request, CALLERS, began + limits.seconds, take))
        seconds = perf_counter() - began
    return [
        at_least("requests/s", len(waits) / seconds, 600),
        at_most("latency p99", percentile(waits, 0.99) * 1e3, 60, "ms"),
        exactly("not answered with 200", _refused(server), 0),
        *books(server),
    ]


def many_streams(limits: Run) -> Sequence[Figure]:
    """L4."""
    recordings: list[Recording] = []
    with stub(limits.directory, step=STEP_SECONDS) as server:
        request = chat(server.target, tokens=STREAM_TOKENS, stream=True)
        began = perf_counter()
        run(ask_again(server.target, request, STREAMS, began + limits.seconds, recordings.append))
        seconds = perf_counter() - began
        server.saws += map(saw, recordings)
    gaps = [gap for each in recordings for gap in read_stream(each, tokens=STREAM_TOKENS).gaps]
    return [
        at_least("events/s", len(recordings) * STREAM_TOKENS / seconds, 4000),
        at_most("between events p99", percentile(gaps, 0.99) * 1e3, 120, "ms"),
        exactly(
            "streams that are not the one text", len(texts(recordings)) - texts(recordings).count(_text(recordings)), 0
        ),
        told("streams", len(recordings)),
        *books(server),
    ]


def _text(recordings: Sequence[Recording]) -> str:
    """What the stub says to this request; a longer text is one with something twice, a shorter one lacks something."""
    said = texts(recordings[:1])[0]
    assert said, payload(recordings[0])[:500]
    return said


def a_million(limits: Run) -> Sequence[Figure]:
    """L15: as many requests as were asked for; resident memory is compared over the later four fifths."""
    with stub(limits.directory) as server:
        request = chat(server.target, tokens=2, stream=False)
        watch = Watch(server)
        began = perf_counter()

        async def load() -> None:
            watching = asyncio.ensure_future(watch.run(float("inf")))
            await ask_times(
                server.target, request, CALLERS, limits.requests, lambda recording: server.saws.append(saw(recording))
            )
            watching.cancel()

        run(load())
        seconds = perf_counter() - began
        last = watch.look()
    fifth = watch.looks[len(watch.looks) // 5]
    return [
        told("requests", len(server.saws)),
        told("requests/s", len(server.saws) / seconds),
        exactly("not answered with 200", _refused(server), 0),
        at_most("resident memory, from a fifth of the way to the end", last.rss_mib - fifth.rss_mib, 10, "MiB"),
        *books(server),
    ]


def _refused(server: Server) -> int:
    return sum(not each.succeeded for each in server.saws)


def books(*servers: Server) -> list[Figure]:
    """What the checker says, with the first of what it found."""
    for server in servers:
        for violation in server.violations[:5]:
            print(f"  {violation.rule}: {violation.request_id}: {violation.detail}", flush=True)
    return [exactly("ledger, clients and engine disagree", sum(len(each.violations) for each in servers), 0)]


GOALS: Final = (
    Goal("L3", "front end alone, 20 tokens, not streamed", many_requests),
    Goal("L4", "front end alone, 200 streams at 20 tokens/s", many_streams),
    Goal("L15", "many requests, front end alone", a_million),
)
