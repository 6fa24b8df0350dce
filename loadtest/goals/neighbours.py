"""L16, L17: one tenant beside others, on a real engine."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, Final

import httpx

from loadtest.answers import read_stream, status
from loadtest.client import Recording, Target
from loadtest.figures import percentile
from loadtest.goals.books import ledger, saw, settled
from loadtest.goals.goal import Figure, Goal, Run, at_most, exactly, told
from loadtest.goals.load import OpenLoop, ask_again, run
from loadtest.goals.servers import Server, toy
from loadtest.goals.stubbed import books
from loadtest.workload import chat

#: What the noisy tenant may, and how many times as much it tries.
NOISY_PER_MINUTE: Final = 300
NOISE_TIMES: Final = 50
QUIET_CALLERS: Final = 4
QUIET_TOKENS: Final = 16
HEAVY_STREAMS: Final = 64
HEAVY_TOKENS: Final = 128
LIGHT_KEYS: Final = 9
LIGHT_TOKENS: Final = 8
RUNNING: Final = 32
#: Until the ring has new keys.
KEYS_SECONDS: Final = 2.0


def noisy_neighbour(limits: Run) -> Sequence[Figure]:
    """L16: B alone, then beside A, who asks fifty times as often as it may."""
    with toy(limits.directory) as server:
        noisy = _key(server, "noisy", {"requests_per_minute": NOISY_PER_MINUTE})
        quiet = _key(server, "quiet", {})
        time.sleep(KEYS_SECONDS)
        _quiet(server, quiet, 2.0)
        alone = _quiet(server, quiet, limits.seconds / 2)
        answers: Counter[int] = Counter()
        refused: list[float] = []

        def take(recording: Recording) -> None:
            server.saws.append(saw(recording))
            answers[status(recording)] += 1
            if status(recording) == 429:
                refused.append(recording.finished - recording.sent)

        request = chat(noisy, tokens=QUIET_TOKENS, stream=False)
        loop = OpenLoop(noisy, take)

        async def load() -> list[Recording]:
            until = perf_counter() + limits.seconds
            heard: list[Recording] = []
            await asyncio.gather(
                loop.send(lambda _: request, NOISE_TIMES * NOISY_PER_MINUTE / 60, until),
                ask_again(quiet, chat(quiet, tokens=QUIET_TOKENS, stream=True), QUIET_CALLERS, until, heard.append),
            )
            return heard

        heard = run(load())
        server.saws += map(saw, heard)
    beside = [_whole_seconds(each) for each in heard]
    return [
        told("A asks, requests/s", sum(answers.values()) / limits.seconds),
        told("A is answered, requests/s", answers[200] / limits.seconds),
        told("A's refusals p99", percentile(refused, 0.99) * 1e3, "ms"),
        exactly("A's answers that are neither 200 nor 429", sum(answers.values()) - answers[200] - answers[429], 0),
        told("B alone, p99 of a request", percentile(alone, 0.99) * 1e3, "ms"),
        told("B beside A, p50 of that alone", percentile(beside, 0.5) / percentile(alone, 0.5)),
        at_most("B beside A, p99 of that alone", percentile(beside, 0.99) / percentile(alone, 0.99), 1.3),
        *books(server),
    ]


def _quiet(server: Server, target: Target, seconds: float) -> list[float]:
    heard: list[Recording] = []
    request = chat(target, tokens=QUIET_TOKENS, stream=True)
    run(ask_again(target, request, QUIET_CALLERS, perf_counter() + seconds, heard.append))
    server.saws += map(saw, heard)
    return [_whole_seconds(each) for each in heard]


def _whole_seconds(recording: Recording) -> float:
    read_stream(recording, tokens=QUIET_TOKENS)
    return recording.finished - recording.sent


def fairness(limits: Run) -> Sequence[Figure]:
    """L17: one key keeps twice as many streams open as may run; nine others ask one short thing at a time."""
    with toy(limits.directory, {"admission": {"max_running": RUNNING, "max_queue": 4 * HEAVY_STREAMS}}) as server:
        heavy = _key(server, "heavy", {})
        light = [_key(server, f"light-{number}", {}) for number in range(LIGHT_KEYS)]
        time.sleep(KEYS_SECONDS)
        heard: list[Recording] = []

        async def load() -> None:
            until = perf_counter() + limits.seconds
            request = chat(heavy, tokens=HEAVY_TOKENS, stream=True)
            crowd = ask_again(heavy, request, HEAVY_STREAMS, until, heard.append)
            singles = (
                ask_again(each, chat(each, tokens=LIGHT_TOKENS, stream=True), 1, until, heard.append) for each in light
            )
            await asyncio.gather(crowd, *singles)

        run(load())
        server.saws += map(saw, heard)
    waits: dict[bool, list[float]] = {True: [], False: []}
    tokens: Counter[str] = Counter()
    for row in settled(ledger(server.directory)):
        waits[row.tenant == "heavy"].append(row.admitted)
        tokens[row.tenant] += row.completion_tokens
    return [
        told("requests of the light keys", len(waits[False])),
        told("from receipt to a turn, light, p50", percentile(waits[False], 0.5) * 1e3, "ms"),
        at_most("from receipt to a turn, light, p99", percentile(waits[False], 0.99) * 1e3, 500, "ms"),
        told("from receipt to a turn, heavy, p50", percentile(waits[True], 0.5) * 1e3, "ms"),
        told("heavy key, tokens/s", tokens["heavy"] / limits.seconds),
        exactly("requests that were not whole", sum(not each.succeeded for each in server.saws), 0),
        *books(server),
    ]


def _key(server: Server, tenant: str, quota: dict[str, Any]) -> Target:
    """A target with a new key of ``tenant``."""
    body = {"name": tenant, "tenant": tenant, "scopes": ["inference"], "quota": quota}
    headers = {"Authorization": f"Bearer {server.target.api_key}"}
    answer = httpx.post(f"{server.url}/v1/admin/keys", json=body, headers=headers, timeout=30)
    answer.raise_for_status()
    return replace(server.target, api_key=answer.json()["key"])


GOALS: Final = (
    Goal("L16", "a neighbour at fifty times its limit, toy model", noisy_neighbour),
    Goal("L17", "one heavy key and nine light ones, toy model", fairness),
)
