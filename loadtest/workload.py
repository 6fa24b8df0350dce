"""What is sent to a running server, and the figures taken from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psutil

from loadtest.answers import InvalidRunError, StreamTimes, read_completion, read_model_id, read_stream, status
from loadtest.client import Recording, Target, Window, run_load
from loadtest.figures import percentile
from loadtest.processes import cpu_seconds, resident_mib

PROMPT: Final = "Write one sentence about the sluice gates of an old water mill."
CHAT: Final = "/v1/chat/completions"
#: Work that a server does after the last byte (ledger, logs) belongs to the run.
AFTERMATH_SECONDS: Final = 0.2

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Workload:
    """How much is sent per visit to a server. ``*_each`` counts requests per connection."""

    stream_connections: int = 64
    stream_tokens: int = 128
    streams_each: int = 4
    request_connections: int = 32
    requests_each: int = 75
    single_streams: int = 300
    single_tokens: int = 4

    def quick(self) -> Workload:
        """A third of the work."""
        return Workload(streams_each=2, requests_each=25, single_streams=100)


def chat(target: Target, *, tokens: int, stream: bool) -> bytes:
    """The bytes of a chat request that must be answered with exactly ``tokens`` tokens."""
    body: dict[str, Any] = {
        "model": target.model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": tokens,
        "ignore_eos": True,
        # Drawing from 49,152 tokens costs the engine more than the whole toy model does; the largest logit is cheap.
        "temperature": 0,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return target.post(CHAT, body)


def find_model(target: Target) -> str | None:
    """The served model's id once the server answers ``GET /v1/models``, else None."""
    try:
        window = run_load(target, target.get("/v1/models"), connections=1, each=1, timeout=5.0)
    except (OSError, TimeoutError):
        return None
    answer = window.recordings[0]
    return read_model_id(answer) if status(answer) == 200 else None


def serves(target: Target) -> bool:
    """Whether a one-token completion succeeds: a listed model may still be loading."""
    try:
        window = run_load(target, chat(target, tokens=1, stream=False), connections=1, each=1, timeout=30.0)
    except (OSError, TimeoutError):
        return False
    return status(window.recordings[0]) == 200


def measure(target: Target, processes: Sequence[psutil.Process], work: Workload) -> Figures:
    """Every figure of one visit. Raises :class:`InvalidRunError` when anything was not delivered exactly."""
    _warm_up(target, work)
    figures = _many_streams(target, processes, work)
    figures |= _short_requests(target, processes, work)
    figures |= _one_stream(target, work)
    return figures | {"rss_mib": resident_mib(processes)}


def _warm_up(target: Target, work: Workload) -> None:
    _load(target, work.stream_connections, 1, tokens=32, stream=True)
    _load(target, work.request_connections, 8, tokens=1, stream=False)
    _load(target, 1, 20, tokens=work.single_tokens, stream=True)


def _many_streams(target: Target, processes: Sequence[psutil.Process], work: Workload) -> Figures:
    window, cpu = _with_cpu(
        processes,
        lambda: _load(target, work.stream_connections, work.streams_each, tokens=work.stream_tokens, stream=True),
    )
    streams = _read_streams(window.recordings, work.stream_tokens)
    tokens = len(streams) * work.stream_tokens
    ttfts = [stream.ttft for stream in streams]
    gaps = [gap for stream in streams for gap in stream.gaps]
    return {
        "tokens_per_s": tokens / window.seconds,
        "cpu_us_per_token": cpu / tokens * 1e6,
        "ttft_p50_ms": percentile(ttfts, 0.50) * 1e3,
        "ttft_p99_ms": percentile(ttfts, 0.99) * 1e3,
        "gap_p50_ms": percentile(gaps, 0.50) * 1e3,
        "gap_p99_ms": percentile(gaps, 0.99) * 1e3,
        "tokens_per_event": tokens / sum(stream.events for stream in streams),
        "generator_busy": window.cpu_seconds / window.seconds,
    }


def _short_requests(target: Target, processes: Sequence[psutil.Process], work: Workload) -> Figures:
    window, cpu = _with_cpu(
        processes, lambda: _load(target, work.request_connections, work.requests_each, tokens=1, stream=False)
    )
    for recording in window.recordings:
        read_completion(recording, tokens=1)
    requests = len(window.recordings)
    return {"requests_per_s": requests / window.seconds, "cpu_us_per_request": cpu / requests * 1e6}


def _one_stream(target: Target, work: Workload) -> Figures:
    window = _load(target, 1, work.single_streams, tokens=work.single_tokens, stream=True)
    return single_ttft([stream.ttft for stream in _read_streams(window.recordings, work.single_tokens)])


def single_ttft(seconds: Sequence[float]) -> Figures:
    """The figures of TTFT with one request at a time; ``seconds`` are the samples."""
    return {"ttft1_p50_ms": percentile(seconds, 0.50) * 1e3, "ttft1_p99_ms": percentile(seconds, 0.99) * 1e3}


def _load(target: Target, connections: int, each: int, *, tokens: int, stream: bool) -> Window:
    request = chat(target, tokens=tokens, stream=stream)
    try:
        return run_load(target, request, connections=connections, each=each)
    except (OSError, TimeoutError) as error:
        raise InvalidRunError(f"{connections} connections, {tokens} tokens, stream {stream}: {error!r}") from error


def _with_cpu(processes: Sequence[psutil.Process], load: Callable[[], Window]) -> tuple[Window, float]:
    """What ``load`` recorded, and the CPU seconds that ``processes`` spent on it."""
    before = cpu_seconds(processes)
    window = load()
    time.sleep(AFTERMATH_SECONDS)
    return window, cpu_seconds(processes) - before


def _read_streams(recordings: Sequence[Recording], tokens: int) -> list[StreamTimes]:
    return [read_stream(recording, tokens=tokens) for recording in recordings]
