"""TTFT of ``AsyncLLM`` called directly, without HTTP: what a gateway in the same process can at best reach.

Run as a program: ``python loadtest/direct.py MODEL --requests N --tokens N --output FILE``; the file gets a JSON list
of seconds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter
from typing import Any

from loadtest.systems import ENGINE_ARGUMENTS
from loadtest.workload import PROMPT


async def _ttft(engine: Any, token_ids: list[int], tokens: int, request_id: str) -> float:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, output_kind=RequestOutputKind.DELTA)
    sent, first = perf_counter(), 0.0
    async for _ in engine.generate({"prompt_token_ids": token_ids}, sampling, request_id):
        first = first or perf_counter()
    return first - sent


async def measure(model: str, requests: int, tokens: int) -> list[float]:
    """Seconds to the first output, one request at a time, the chat prompt already rendered and tokenised."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model=model, **ENGINE_ARGUMENTS))
    try:
        messages = [{"role": "user", "content": PROMPT}]
        token_ids = engine.get_tokenizer().apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        for number in range(20):
            await _ttft(engine, token_ids, tokens, f"warm-{number}")
        return [await _ttft(engine, token_ids, tokens, f"timed-{number}") for number in range(requests)]
    finally:
        engine.shutdown()


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="appears only when it is complete")
    options = parser.parse_args()
    seconds = uvloop.run(measure(options.model, options.requests, options.tokens))
    unfinished = options.output.with_suffix(".part")
    unfinished.write_text(json.dumps(seconds), "utf-8")
    unfinished.rename(options.output)


if __name__ == "__main__":
    main()
