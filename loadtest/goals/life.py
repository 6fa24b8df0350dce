"""L12, L13, L14: a server comes, goes, and loses its engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final

import httpx

from loadtest.answers import read_stream
from loadtest.client import Recording
from loadtest.figures import percentile
from loadtest.goals.books import saw
from loadtest.goals.goal import Figure, Goal, Run, at_most, exactly, told
from loadtest.goals.load import ask_once, ask_times, run
from loadtest.goals.servers import Server, toy
from loadtest.goals.stubbed import books
from loadtest.processes import is_behind
from loadtest.toy import toy_model
from loadtest.workload import CHAT, chat

STREAMS: Final = 64
TOKENS: Final = 500
WARM: Final = 20


def start(limits: Run) -> Sequence[Figure]:
    """L12."""
    toy_model()  # made before the clock runs
    began = perf_counter()
    with toy(limits.directory) as server:
        ready = perf_counter() - began
        request = chat(server.target, tokens=4, stream=True)
        ttfts: list[float] = []
        for _ in range(1 + WARM):
            recording = run(ask_once(server.target, request))
            server.saws.append(saw(recording))
            ttfts.append(read_stream(recording, tokens=4).ttft)
    first, *warm = ttfts
    middle = percentile(warm, 0.5)
    return [
        at_most("from the start of the process to ready", ready, 30, "s"),
        told("TTFT of the first request", first * 1e3, "ms"),
        told("TTFT of later ones, p50", middle * 1e3, "ms"),
        at_most("the first, of later ones", first / middle, 2.0),
        *books(server),
    ]


class _Streams:
    """So many streams at once in a thread of their own; all are admitted when this is made."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.recordings: list[Recording] = []
        request = chat(server.target, tokens=TOKENS, stream=True)
        take: Callable[[Recording], None] = self.recordings.append
        self._thread = threading.Thread(target=lambda: run(ask_times(server.target, request, STREAMS, STREAMS, take)))
        self._thread.start()
        while server.metric("sluice_requests_in_flight") < STREAMS:
            time.sleep(0.05)

    def join(self) -> list[Recording]:
        """Wait for all of them, and keep what they saw."""
        self._thread.join(120.0)
        self._server.saws += map(saw, self.recordings)
        return self.recordings


def drain(limits: Run) -> Sequence[Figure]:
    """L13: SIGTERM while 64 streams run."""
    with toy(limits.directory, {"drain_timeout": 60}) as server:
        streams = _Streams(server)
        began = perf_counter()
        server.process.terminate()
        time.sleep(0.5)
        refused = _status_of_new_work(server)
        code = server.process.wait(90.0)
        seconds = perf_counter() - began
        recordings = streams.join()
        server.counts = False
    return [
        exactly("streams that are not whole", STREAMS - sum(map(_is_whole, recordings)), 0),
        at_most("from SIGTERM to the end", seconds, 30, "s"),
        exactly("exit code", code, 0),
        exactly("status of new work meanwhile", refused, 503),
        *books(server),
    ]


def _status_of_new_work(server: Server) -> int:
    headers = {"Authorization": f"Bearer {server.target.api_key}"}
    body = {"model": "toy", "messages": [{"role": "user", "content": "hello"}]}
    return httpx.post(server.url + CHAT, json=body, headers=headers, timeout=30).status_code


def _is_whole(recording: Recording) -> bool:
    return saw(recording).completion_tokens == TOKENS


def engine_death(limits: Run) -> Sequence[Figure]:
    """L14: the engine is killed with 64 streams in it."""
    with toy(limits.directory) as server:
        streams = _Streams(server)
        killed = perf_counter()
        for child in server.process.tree():
            if is_behind(child) and "EngineCore" in " ".join(child.cmdline()):
                child.kill()
        recordings = streams.join()
        while server.is_ready():
            time.sleep(0.02)
        while not server.is_ready():
            time.sleep(0.1)
        back = perf_counter() - killed
        again = saw(run(ask_once(server.target, chat(server.target, tokens=4, stream=False))))
        server.saws.append(again)
        server.counts = False
    endings = [saw(each) for each in recordings]
    unclear = sum(not each.got_error or each.code != "engine_unavailable" for each in endings)
    return [
        exactly("streams without one clear error", STREAMS - len(endings) + unclear, 0),
        at_most("from the kill to the last error", max(each.finished for each in recordings) - killed, 1.0, "s"),
        at_most("from the kill to ready again", back, 45, "s"),
        exactly("status after it", again.status or 0, 200),
        *books(server),
    ]


GOALS: Final = (
    Goal("L12", "cold start, toy model", start),
    Goal("L13", "SIGTERM with 64 streams", drain),
    Goal("L14", "the engine is killed with 64 streams", engine_death),
)
