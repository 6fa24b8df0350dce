"""What adapters cost: a cold one and a warm one, and the throughput of a batch over 0, 1, 4 and 16 of them.

The engine is called directly, as the gateway does it; adapters are random and of rank 16, on every linear module.
``python -m loadtest.adapters --model DIR`` measures another model than the toy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from engine.adapters.manager import AdapterOptions
from engine.config import EngineConfig, prepare_environment
from engine.types import AdapterSpec, GenerationRequest, Prompt, Sampling
from loadtest.machine import describe, machine_facts
from loadtest.toy import toy_model
from tests.support.lora import make_adapter

NAME: Final = "model"
FAMILY: Final = 16
STREAMS: Final = 32
TOKENS: Final = 64
PROMPT_TOKENS: Final = 32


class Bench:
    """One engine with sixteen adapters registered and none loaded."""

    def __init__(self, model: Path, work: Path) -> None:
        from engine.runtime import VllmEngine

        options = AdapterOptions(work / "store", batch=FAMILY, resident=FAMILY, max_rank=16)
        arguments = {"max_model_len": 1024, "max_num_seqs": STREAMS, "gpu_memory_utilization": 0.2}
        self.engine = VllmEngine(EngineConfig(str(model), NAME, arguments, adapters=options))
        self._model = model
        self._work = work
        self._count = 0

    async def register(self) -> list[float]:
        """Seconds that checking and copying each took."""
        spans = []
        for number in range(FAMILY):
            path = make_adapter(self._work / f"a{number}", self._model, seed=number, rank=16, scale=0.1)
            begun = time.perf_counter()
            await self.engine.load_adapter(AdapterSpec(NAME, f"a{number}", str(path)))
            spans.append(time.perf_counter() - begun)
        return spans

    async def one(self, adapter: str | None, tokens: int) -> float:
        """Seconds of one request of ``tokens`` tokens, its prompt never seen before."""
        self._count += 1
        prompt = Prompt([(self._count * 31 + place * 7) % 20_000 + 100 for place in range(PROMPT_TOKENS)])
        sampling = Sampling(max_tokens=tokens, temperature=0.0, ignore_eos=True)
        request = GenerationRequest(f"r{self._count}", NAME, prompt, sampling, stream=False, adapter=adapter)
        begun = time.perf_counter()
        async for _ in self.engine.generate(request):
            pass
        return time.perf_counter() - begun

    async def throughput(self, adapters: int) -> float:
        """Tokens per second of a full batch, spread over so many adapters (0: the base model alone)."""
        names = [f"a{index % adapters}" if adapters else None for index in range(STREAMS)]
        begun = time.perf_counter()
        await asyncio.gather(*[self.one(name, TOKENS) for name in names])
        return STREAMS * TOKENS / (time.perf_counter() - begun)


async def measure(model: Path, rounds: int) -> dict[str, object]:
    """All figures of one engine."""
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(model, Path(directory))
        await bench.engine.start()
        try:
            registered = await bench.register()
            base = [await bench.one(None, 1) for _ in range(FAMILY)]
            cold = [await bench.one(f"a{number}", 1) for number in range(FAMILY)]
            warm = [await bench.one(f"a{number}", 1) for number in range(FAMILY)]
            speeds: dict[int, list[float]] = {0: [], 1: [], 4: [], 16: []}
            for _ in range(rounds):
                for adapters, found in speeds.items():
                    found.append(await bench.throughput(adapters))
        finally:
            await bench.engine.stop()
    middle = {adapters: statistics.median(found) for adapters, found in speeds.items()}
    return {
        "register_ms": round(statistics.median(registered) * 1e3, 1),
        "one_token_ms": {
            name: round(statistics.median(found) * 1e3, 1)
            for name, found in (("base", base), ("cold adapter", cold), ("warm adapter", warm))
        },
        "tokens_per_s": {adapters: round(value) for adapters, value in middle.items()},
        "against_base": {adapters: round(value / middle[0], 2) for adapters, value in middle.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="adapters.py", description=__doc__)
    parser.add_argument("--model", type=Path, help="a model directory instead of the toy model")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    prepare_environment(os.environ, model_is_local=True)
    print(describe(machine_facts()))
    print(json.dumps(asyncio.run(measure(options.model or toy_model(), options.rounds)), indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
