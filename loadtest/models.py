"""What a pool of models gives: ``python -m loadtest.models``. Real vLLM, the embedded models, one ``sluice serve``.

Embeddings per second over HTTP against ``AsyncLLM.encode`` called directly, in turns, each with an engine of its own
that is idle while the other works; and the time from a request for a model that is not in memory to its answer, when
another has to leave for it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import yaml

from engine.config import prepare_environment
from engine.samples import MINILM, default_cache_root, ensure_sample
from loadtest.client import Target, run_load
from loadtest.figures import paired_ratio
from loadtest.machine import describe, machine_facts
from loadtest.processes import Launch, ServerProcess, cpu_seconds, free_port, front_end
from loadtest.systems import API_KEY, ENVIRONMENT, SYSTEMS, Place, environment
from loadtest.toy import toy_model
from loadtest.workload import CHAT
from tests.support.gateways import LoopThread

CALLERS: Final = 8
EACH: Final = 10
SENTENCE: Final = "The river flows slowly through the old town, past the mill and down to the sea."
ARGUMENTS: Final = {"max_num_seqs": 128, "gpu_memory_utilization": 0.1}
GIB: Final = 1024**3


class Direct:
    """``AsyncLLM`` over the embedding model, in this process."""

    def __init__(self, model: Path) -> None:
        os.environ.update(ENVIRONMENT)
        prepare_environment(os.environ, model_is_local=True)
        self._thread = LoopThread()
        self._count = 0
        self._llm: Any = self._thread.run(self._start(model), 300)

    async def _start(self, model: Path) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(
            model=str(model), runner="pooling", dtype="bfloat16", enforce_eager=True, max_model_len=256, **ARGUMENTS
        )
        return AsyncLLM.from_engine_args(arguments)

    def rate(self, texts: Sequence[str]) -> float:
        """Texts per second: as many callers as over HTTP, each waits for all of its texts before its next."""
        return self._thread.run(self._rate(texts), 600)

    async def _rate(self, texts: Sequence[str]) -> float:
        began = time.perf_counter()
        await asyncio.gather(*(self._calls(texts) for _ in range(CALLERS)))
        return CALLERS * EACH * len(texts) / (time.perf_counter() - began)

    async def _calls(self, texts: Sequence[str]) -> None:
        for _ in range(EACH):
            await asyncio.gather(*map(self._embed, texts))

    async def _embed(self, text: str) -> None:
        from vllm import PoolingParams

        self._count += 1
        async for _ in self._llm.encode(text, PoolingParams(task="embed"), f"direct-{self._count}"):
            pass

    def close(self) -> None:
        self._llm.shutdown()
        self._thread.close()


def http_rate(server: ServerProcess, target: Target, texts: Sequence[str]) -> tuple[float, float]:
    """Texts per second, and microseconds of the front end's CPU per text."""
    request = target.post("/v1/embeddings", {"model": "embedder", "input": list(texts), "encoding_format": "base64"})
    processes = front_end(server.tree())
    before = cpu_seconds(processes)
    window = run_load(target, request, connections=CALLERS, each=EACH, timeout=600)
    for recording in window.recordings:
        if b" 200 OK" not in recording.raw[:20]:
            raise ValueError(bytes(recording.raw[:400]))
    count = CALLERS * EACH * len(texts)
    return count / window.seconds, (cpu_seconds(processes) - before) / count * 1e6


def embeddings(server: ServerProcess, target: Target, direct: Direct, rounds: int) -> None:
    """Print both rates, by the number of texts in a request."""
    for size in (1, 16):
        texts = [f"{number}: {SENTENCE}" for number in range(size)]
        http_rate(server, target, texts)
        direct.rate(texts)
        ours, theirs, costs = [], [], []
        for _ in range(rounds):
            rate, cost = http_rate(server, target, texts)
            ours.append(rate)
            costs.append(cost)
            theirs.append(direct.rate(texts))
        print(
            f"{size} per request: {[round(each) for each in ours]} texts/s over HTTP, "
            f"{[round(each) for each in theirs]} directly, ratio {paired_ratio(ours, theirs)}; "
            f"front end {median(costs):.0f} us of CPU per text",
            flush=True,
        )


def answer_in(target: Target, model: str) -> float:
    """Seconds from a chat request to its whole answer, whatever has to happen for it."""
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    window = run_load(target, target.post(CHAT, body), connections=1, each=1, timeout=600)
    if b" 200 OK" not in window.recordings[0].raw[:20]:
        raise ValueError(bytes(window.recordings[0].raw[:400]))
    return window.seconds


def swaps(target: Target, rounds: int) -> None:
    """Print how long a request waits whose model has to be loaded: into free room, then in another's place."""
    into_room = answer_in(target, "left")
    warm = median(answer_in(target, "left") for _ in range(5))
    seconds = [answer_in(target, name) for _ in range(rounds) for name in ("right", "left")]
    print(
        f"cold, room is free: {into_room:.1f} s; loaded: {warm * 1000:.1f} ms; "
        f"in another's place: median {median(seconds):.1f} s of {[round(each, 1) for each in seconds]}"
    )


def launch(place: Place, embedder: Path) -> Launch:
    """A server of an embedding model that stays, and of two toys of which one fits beside it."""
    started = SYSTEMS["sluice"].launch(place)
    toy = {"kind": "generate", "model": str(place.model), "memory": 4 * GIB, "engine": {"max_model_len": 1024}}
    tree = {
        "state_dir": str(place.directory),
        "model": str(embedder),
        "served_model_name": "embedder",
        "engine": {"max_model_len": 256, "dtype": "bfloat16", "enforce_eager": True, **ARGUMENTS},
        "models": [{"name": name, **toy} for name in ("left", "right")],
        "pool": {"memory": 8 * GIB, "cold_wait": 300},
    }
    (place.directory / "sluice.yaml").write_text(yaml.safe_dump(tree), "utf-8")
    env = environment(SLUICE_HOST="127.0.0.1", SLUICE_PORT=str(place.port), SLUICE_API_KEY=API_KEY)
    return Launch(started.command, env, started.log)


def ready(target: Target) -> bool:
    """Whether the server answers a request for embeddings."""
    try:
        body = {"model": "embedder", "input": "a"}
        window = run_load(target, target.post("/v1/embeddings", body), connections=1, each=1, timeout=60)
    except OSError:
        return False
    return b" 200 OK" in window.recordings[0].raw[:20]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    embedder = ensure_sample(MINILM, default_cache_root())
    with tempfile.TemporaryDirectory() as directory:
        place = Place(toy_model(), free_port(), Path(directory))
        server = ServerProcess(launch(place, embedder))
        try:
            target = Target(place.port, API_KEY)
            server.wait_until(lambda: ready(target), 300)
            print(describe(machine_facts()))
            direct = Direct(embedder)
            try:
                embeddings(server, target, direct, options.rounds)
            finally:
                direct.close()
            swaps(target, max(1, options.rounds // 2))
        except Exception:
            print(json.dumps(server.log_tail()))
            raise
        finally:
            server.stop()


if __name__ == "__main__":
    main()
