"""L6: three times what the engine can do, without waiting for answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Final

from loadtest.answers import read_stream, status
from loadtest.client import Recording, open_connections
from loadtest.figures import percentile
from loadtest.goals.books import header, saw
from loadtest.goals.goal import Figure, Goal, Run, at_least, at_most, exactly, told
from loadtest.goals.load import OpenLoop, ask_again, every, run
from loadtest.goals.servers import Server, toy
from loadtest.goals.stubbed import books
from loadtest.workload import chat

TOKENS: Final = 32
RUNNING: Final = 32
QUEUE: Final = 16
TIMES: Final = 3


class _Health:
    """Asks /healthz all the while, on a connection that is kept."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.waits: list[float] = []

    async def run(self, until: float) -> None:
        (connection,) = await open_connections(self._server.target, 1)
        request = self._server.target.get("/healthz")

        async def look() -> None:
            recording = await connection.exchange(request)
            assert status(recording) == 200
            self.waits.append(recording.finished - recording.sent)

        await every(0.05, until, look)
        connection.close()


def overload(limits: Run) -> Sequence[Figure]:
    """L6. The peak is what callers get who are as many as run and wait, and who wait for their answers.

    One who comes back before its own place in the queue is free is refused: that is no answer of the peak.
    """
    settings = {"admission": {"max_running": RUNNING, "max_queue": QUEUE}}
    with toy(limits.directory, settings) as server:
        request = chat(server.target, tokens=TOKENS, stream=True)
        for seconds in (2.0, limits.seconds / 2):  # the first is to warm up
            peak: list[Recording] = []
            began = perf_counter()
            run(ask_again(server.target, request, RUNNING + QUEUE, began + seconds, peak.append))
            served = [each for each in peak if status(each) == 200]
            rate = len(served) / (perf_counter() - began)
            server.saws += map(saw, peak)
        answers: list[Recording] = []
        health, loop = _Health(server), OpenLoop(server.target, answers.append)

        async def load() -> float:
            began = perf_counter()
            until = began + limits.seconds
            await asyncio.gather(loop.send(lambda _: request, TIMES * rate, until), health.run(until))
            return perf_counter() - began

        took = run(load())
        server.saws += map(saw, answers)
    good = [each for each in answers if status(each) == 200]
    refused = [each for each in answers if status(each) != 200]
    ttfts = [percentile([read_stream(each, tokens=TOKENS).ttft for each in some], 0.99) for some in (served, good)]
    waits = [each.finished - each.sent for each in refused]
    return [
        told("peak, requests/s", rate),
        told("offered, requests/s", len(answers) / limits.seconds),
        told("generator late at most", loop.behind * 1e3, "ms"),
        at_least("goodput of peak", len(good) / took / rate, 0.9),
        at_most("refusal p99", percentile(waits, 0.99) * 1e3, 100, "ms"),
        exactly("refusals that are not 429 or 503 with Retry-After", _ill(refused), 0),
        at_most("healthz p99", percentile(health.waits, 0.99) * 1e3, 100, "ms"),
        told("TTFT p99 at the peak", ttfts[0] * 1e3, "ms"),
        at_most("TTFT p99 of the admitted, of that", ttfts[1] / ttfts[0], 2.0),
        *books(server),
    ]


def _ill(refused: Sequence[Recording]) -> int:
    return sum(status(each) not in (429, 503) or int(header(each, b"retry-after") or 0) < 1 for each in refused)


GOALS: Final = (Goal("L6", "three times too much, open loop, toy model", overload),)
