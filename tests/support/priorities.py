"""In which order vLLM serves requests that wait for its only slot.

    python -m tests.support.priorities MODEL PRIORITY...

prints the priorities as they were served, as JSON. A process of its own: a second engine in one process takes vLLM's
metrics away from the first.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence

from engine.config import EngineConfig, prepare_environment
from engine.pull import Runs
from engine.types import Delta, GenerationRequest, Prompt, Sampling

#: Long enough that all others wait by the time it ends.
FIRST_TOKENS = 900


class Sink:
    def __init__(self) -> None:
        self.first = asyncio.Event()

    def text(self, text: str, tokens: int) -> None:
        self.first.set()

    def delta(self, delta: Delta) -> None:
        self.first.set()

    def cached(self, tokens: int) -> None:
        pass


async def order_of_service(engine: Runs, priorities: Sequence[int]) -> list[int]:
    """``engine`` must batch one sequence."""
    served: list[int] = []

    async def serve(name: int, priority: int, tokens: int, sink: Sink) -> None:
        sampling = Sampling(max_tokens=tokens, ignore_eos=True)
        request = GenerationRequest(f"r{name}", "toy", Prompt([1000 + name, 2000]), sampling, True, priority)
        await engine.run(request, sink)
        served.append(priority)

    first = Sink()
    running = asyncio.ensure_future(serve(0, 2**40, FIRST_TOKENS, first))
    await first.first.wait()
    waiting = [asyncio.ensure_future(serve(name, each, 4, Sink())) for name, each in enumerate(priorities, 1)]
    await asyncio.gather(running, *waiting)
    return served[1:]


async def main(model: str, priorities: Sequence[int]) -> list[int]:
    prepare_environment(os.environ, model_is_local=True)
    from engine.runtime import VllmEngine

    arguments = {"max_num_seqs": 1, "max_model_len": 1024, "gpu_memory_utilization": 0.15}
    engine = VllmEngine(EngineConfig(model, "toy", arguments))
    await engine.start()
    try:
        return await order_of_service(engine, priorities)
    finally:
        await engine.stop()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], [int(each) for each in sys.argv[2:]]))))
