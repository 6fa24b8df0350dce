"""What a KV cache does that went through files: is it found, is the text the same, and what if it is broken?

    python -m tests.support.handing_on MODEL DIRECTORY

prints a :class:`Report` as JSON. One real engine; different cache salts make it a stranger to its own prefix cache. A
process of its own: a second engine in one process takes vLLM's metrics away from the first.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY

from engine.config import EngineConfig, prepare_environment
from engine.types import Delta, GenerationRequest, Prompt, Sampling

CHUNK = 256
LENGTHS = (40, 129, 257, 700)


@dataclass
class Report:
    """``by_length``: prompt tokens -> same text, tokens that came from outside, leftovers."""

    by_length: dict[int, tuple[bool, float, int]] = field(default_factory=dict)
    block_size: int = 0
    batch_is_right: bool = False
    stranger_found: float = -1
    broken_is_right: bool = False
    gone_is_right: bool = False
    abandoned: int = -1
    kv_is_free: bool = False


class Sink:
    def __init__(self) -> None:
        self.said = ""

    def text(self, text: str, tokens: int) -> None:
        self.said += text

    def delta(self, delta: Delta) -> None:
        self.said += delta.text

    def cached(self, tokens: int) -> None:
        pass


def hits() -> float:
    """What vLLM has found outside so far, in tokens."""
    samples = (sample for metric in REGISTRY.collect() for sample in metric.samples)
    return sum(each.value for each in samples if each.name == "vllm:external_prefix_cache_hits_total")


class Trial:
    """One engine, and a directory that its caches go through."""

    def __init__(self, engine: Any, directory: Path) -> None:
        self._engine = engine
        self._directory = directory
        self._count = 0

    def request(self, ids: list[int], transfer: Any = None) -> GenerationRequest:
        self._count += 1
        sampling = Sampling(max_tokens=12, temperature=0.0, ignore_eos=True)
        name = f"r{self._count}"
        return GenerationRequest(name, "toy", Prompt(ids), sampling, True, cache_salt=name, transfer=transfer)

    async def said(self, ids: list[int], transfer: Any = None) -> tuple[str, float]:
        """The text, and the prompt tokens that came from outside (of all requests meanwhile)."""
        sink, before = Sink(), hits()
        await self._engine.run(self.request(ids, transfer), sink)
        return sink.said, hits() - before

    async def prefill(self, ids: list[int]) -> Any:
        return await self._engine.prefill(self.request(ids), Sink())

    def left(self) -> int:
        return len(list(self._directory.iterdir()))


async def main(model: str, directory: Path) -> Report:
    prepare_environment(os.environ, model_is_local=True)
    from engine.runtime import VllmEngine

    transfer = {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"shared_storage_path": str(directory)},
    }
    arguments = {
        "max_num_seqs": 8,
        "max_num_batched_tokens": CHUNK,
        "max_model_len": 1024,
        "gpu_memory_utilization": 0.15,
        "kv_transfer_config": transfer,
    }
    engine = VllmEngine(EngineConfig(model, "toy", arguments))
    await engine.start()
    try:
        return await report(engine, Trial(engine, directory), directory)
    finally:
        await engine.stop()


def spoil(directory: Path) -> None:
    for file in directory.glob("*/*layers.1*"):
        file.write_bytes(b"not safetensors")


def empty(directory: Path) -> None:
    for folder in directory.iterdir():
        shutil.rmtree(folder)


async def report(engine: Any, trial: Trial, directory: Path) -> Report:
    nobodys = directory / ("0" * 32)
    nobodys.mkdir(parents=True)
    os.utime(nobodys, (0, 0))
    result = Report(block_size=engine.transfer_facts("toy").block_size)
    prompts = {length: random.Random(length).choices(range(1000, 20_000), k=length) for length in LENGTHS}
    alone = {length: (await trial.said(ids))[0] for length, ids in prompts.items()}
    for length, ids in prompts.items():
        said, found = await trial.said(ids, await trial.prefill(ids))
        result.by_length[length] = (said == alone[length], found, trial.left())
    # Several at once, prefills among generations, in pieces.
    handed = await asyncio.gather(*(trial.prefill(ids) for ids in prompts.values()), trial.said(prompts[700]))
    spoken = await asyncio.gather(*(trial.said(ids, each) for ids, each in zip(prompts.values(), handed, strict=False)))
    result.batch_is_right = [said for said, _ in spoken] == list(alone.values()) and trial.left() == 0
    handed_on = await trial.prefill(prompts[700])
    result.stranger_found = (await trial.said(prompts[700]))[1]
    spoil(directory)
    result.broken_is_right = (await trial.said(prompts[700], handed_on))[0] == alone[700]
    handed_on = await trial.prefill(prompts[700])
    empty(directory)
    result.gone_is_right = (await trial.said(prompts[700], handed_on))[0] == alone[700]
    given_up = asyncio.ensure_future(trial.prefill(prompts[700]))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    result.abandoned = engine.core.unfinished
    result.kv_is_free = await engine.core.cache_is_free()
    return result


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(main(sys.argv[1], Path(sys.argv[2]))))))
