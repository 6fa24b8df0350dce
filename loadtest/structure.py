"""What a schema and tools cost while tokens flow: `python -m loadtest.structure [--rounds 3] [--model DIR]`.

One `sluice serve` over the sample model, 16 streams at once, in turns: plain, held to a schema that is known already,
and with two tools that the model may call. Tokens per second, CPU of the front end per token, ratios to plain by round.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from engine.samples import default_cache_root, ensure_default_model
from loadtest.client import Recording, Target, run_load
from loadtest.figures import paired_ratio
from loadtest.machine import describe, machine_facts
from loadtest.processes import ServerProcess, cpu_seconds, free_port, front_end
from loadtest.systems import API_KEY, SYSTEMS, Place
from loadtest.workload import CHAT, PROMPT, find_model, serves

STREAMS: Final = 16
EACH: Final = 3
TOKENS: Final = 96
TEXT: Final = {"type": "string"}
SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {"title": TEXT, "steps": {"type": "array", "items": TEXT}, "done": {"type": "boolean"}},
    "required": ["title", "steps", "done"],
    "additionalProperties": False,
}
TOOLS: Final = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {"q": TEXT}}}}
    for name in ("search", "remember")
]
CASES: Final[Mapping[str, Mapping[str, Any]]] = {
    "plain": {},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}},
    "tools": {"tools": TOOLS},
}
_COUNT: Final = re.compile(rb'"completion_tokens":(\d+)')


def tokens_in(recording: Recording) -> int:
    """As the stream's usage says. Raises ValueError for a stream that did not end well."""
    found = _COUNT.findall(bytes(recording.raw))
    if not found or b"[DONE]" not in recording.raw:
        raise ValueError(bytes(recording.raw[-400:]).decode("utf-8", "replace"))
    return int(found[-1])


def visit(server: ServerProcess, target: Target, case: Mapping[str, Any]) -> tuple[float, float]:
    """Tokens per second, and microseconds of the front end's CPU per token."""
    body = {
        "model": target.model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": TOKENS,
        "seed": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
        **case,
    }
    request = target.post(CHAT, body)
    run_load(target, request, connections=1, each=1)
    processes = front_end(server.tree())
    before = cpu_seconds(processes)
    window = run_load(target, request, connections=STREAMS, each=EACH, timeout=300.0)
    tokens = sum(map(tokens_in, window.recordings))
    return tokens / window.seconds, (cpu_seconds(processes) - before) / tokens * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    model = options.model or ensure_default_model(default_cache_root(), None)
    with tempfile.TemporaryDirectory() as directory:
        place = Place(model, free_port(), Path(directory))
        server = ServerProcess(SYSTEMS["sluice"].launch(place))
        try:
            bare = Target(place.port, API_KEY)
            server.wait_until(lambda: find_model(bare) is not None, 180.0)
            target = Target(place.port, API_KEY, find_model(bare) or "")
            server.wait_until(lambda: serves(target), 180.0)
            visit(server, target, CASES["plain"])  # the first pays for what is made once
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
            for _ in range(options.rounds):
                for name, case in CASES.items():
                    found[name].append(visit(server, target, case))
        finally:
            server.stop()
    print(describe(machine_facts()))
    for name, visits in found.items():
        speeds, costs = zip(*visits, strict=True)
        plain_speeds, plain_costs = zip(*found["plain"], strict=True)
        print(
            f"{name}: tokens/s {[round(each) for each in speeds]}, CPU us/token {[round(each, 1) for each in costs]}; "
            f"to plain: tokens/s {paired_ratio(speeds, plain_speeds)}, CPU {paired_ratio(costs, plain_costs)}"
        )


if __name__ == "__main__":
    main()
