"""What the guard costs, and what it saves: `python -m loadtest.guard`. Real vLLM, the embedded models, one process.

TTFT with the input guard against without, in turns; nine risks of a text as one batch against nine calls; the output
guard's CPU by window; tokens that a planted violation saves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

from engine.samples import GUARD, SMOLLM2, default_cache_root, ensure_sample
from engine.types import Delta
from gateway.engines import Served, build_pool, first_served
from gateway.guardian.build import SAMPLE_MODEL
from gateway.guardian.check import Outlet
from gateway.guardian.guardian import Guardian
from gateway.guardian.holdback import HoldBack, Ruling
from gateway.guardian.model import Asked, GuardModel
from gateway.guardian.policy import StreamPolicy
from gateway.guardian.risks import HARM_RISKS
from gateway.guardian.rules import Rules
from gateway.guardian.verdicts import Content
from gateway.settings import load
from gateway.settings.guard import GuardPolicies
from gateway.usage.ledger import MemoryLedger
from loadtest.machine import describe, machine_facts
from tests.support.client import Client
from tests.support.gateways import KEY, Live, Threaded, threaded

MODEL: Final = SMOLLM2.id
WORDS: Final = [
    "the",
    "river",
    "flows",
    "slowly",
    "through",
    "the",
    "old",
    "town",
    "and",
    "down",
    "to",
    "the",
    "sea",
    ".",
]
#: Stands for a violation.
PLANTED: Final = "zorblax"
OFF: Final = GuardPolicies.model_validate({"policy": {"input": False}}).policies()
INPUT: Final = GuardPolicies.model_validate({"policy": {"timeout": 30.0, "risks": {"jailbreaking": 0.999}}}).policies()
OUTPUT: Final = GuardPolicies.model_validate(
    {"policy": {"timeout": 30.0, "input": False, "output": True, "risks": {"planted": 0.5}}}
).policies()


def text_of(tokens: int, salt: int) -> str:
    """About so many tokens that no cache knows."""
    return f"Note {salt}: " + " ".join(WORDS[(salt + place) % len(WORDS)] for place in range(tokens))


def body(content: str, **more: Any) -> dict[str, Any]:
    """A streamed chat."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": content}],
        "stream": True,
        "temperature": 0,
        **more,
    }


def guardian_of(live: Live) -> Guardian:
    """The gateway's guard."""
    return next(service for service in live.gateway._services if isinstance(service, Guardian))


async def first_token(live: Live, content: str) -> float:
    """Seconds until a stream's first event."""
    client = Client("127.0.0.1", live.port, KEY, timeout=120)
    began = time.perf_counter()
    await client.stream("/v1/chat/completions", body(content, max_tokens=8), leave_after_events=1)
    return time.perf_counter() - began


async def ttft(live: Live, tokens: int, rounds: int) -> dict[str, float]:
    """Median TTFT in milliseconds without and with the input guard, asked in turns."""
    guardian = guardian_of(live)
    waits: dict[str, list[float]] = {"off": [], "on": []}
    for number in range(rounds):
        for which, policies in (("off", OFF), ("on", INPUT)):
            guardian.policies = policies
            seconds = await first_token(live, text_of(tokens, number * 2 + (which == "on")))
            if number:
                waits[which].append(seconds)
            await asyncio.sleep(0.05)
    off, with_guard = median(waits["off"]) * 1000, median(waits["on"]) * 1000
    return {"off_ms": round(off, 1), "on_ms": round(with_guard, 1), "ratio": round(with_guard / off, 2)}


async def timed(work: Callable[[int], Awaitable[object]], rounds: int) -> float:
    """Median seconds."""
    waits = []
    for number in range(rounds):
        began = time.perf_counter()
        await work(number)
        waits.append(time.perf_counter() - began)
    return median(waits)


async def nine(live: Live, rounds: int) -> dict[str, float]:
    """Nine risks of one text, asked of a guard model as one batch, and one after another."""
    guard = GuardModel("bench", Asked(MODEL, "granite-3.2"), live.engine, MemoryLedger())

    async def batch(number: int) -> None:
        await guard.evaluate(Content(text_of(120, 10_000 + number)), HARM_RISKS)

    async def singly(number: int) -> None:
        for risk in HARM_RISKS:
            await guard.evaluate(Content(text_of(120, 20_000 + number)), [risk])

    together, apart = await timed(batch, rounds), await timed(singly, rounds)
    return {
        "batch_ms": round(together * 1000, 1),
        "single_calls_ms": round(apart * 1000, 1),
        "ratio": round(apart / together, 2),
    }


class _Nowhere:
    reasoning = 0

    def text(self, text: str, tokens: int) -> None: ...

    def delta(self, delta: Delta) -> None: ...

    def cached(self, tokens: int) -> None: ...

    def count(self, tokens: int) -> None: ...


async def output_cpu(window: int, tokens: int = 4000) -> float:
    """Microseconds of CPU per token of the hold-back with rules, above the same loop without it."""
    rules = Rules("bench", {"planted": PLANTED}, secrets=True, pii=True)
    risks = sorted(rules.risks)

    async def judge(texts: Any) -> list[Ruling]:
        found = [await rules.evaluate(Content("", text), risks) for text in texts]
        return [Ruling(stop=any(each.score > 0.5 for each in one.values())) for one in found]

    nowhere = _Nowhere()
    policy = StreamPolicy(window=window, hold_back=min(160, window // 2), step=80)
    hold = HoldBack(Outlet(nowhere, nowhere, 1, tokens), policy, judge)
    pump = asyncio.ensure_future(hold.pump())
    began = time.process_time()
    for number in range(tokens):
        hold.text(WORDS[number % len(WORDS)] + " ", 1)
        await asyncio.sleep(0)
    hold.delta(Delta(0, "", 0, "stop"))
    await pump
    return (time.process_time() - began) / tokens * 1e6


async def bare_cpu(tokens: int = 4000) -> float:
    """Microseconds of CPU per token of the same loop without a guard."""
    nowhere = _Nowhere()
    began = time.process_time()
    for number in range(tokens):
        nowhere.text(WORDS[number % len(WORDS)] + " ", 1)
        await asyncio.sleep(0)
    return (time.process_time() - began) / tokens * 1e6


async def saved(live: Live) -> dict[str, float]:
    """A model held to say a planted word early in what could be 200 tokens: how many of them were never computed."""
    guardian_of(live).policies = OUTPUT
    before = live.metric("sluice_guard_tokens_saved_total")
    question = "Say something."
    early = {"regex": f"[a-z ]{{40}} {PLANTED} [a-z ]*"}
    answer = await Client("127.0.0.1", live.port, KEY, timeout=300).stream(
        "/v1/chat/completions", body(question, max_tokens=200, ignore_eos=True, structured_outputs=early)
    )
    cut = '"finish_reason":"content_filter"' in "\n".join(answer.events)
    return {"bound": 200, "saved": live.metric("sluice_guard_tokens_saved_total") - before, "cut": cut}


def measure(gateway: Threaded, given: argparse.Namespace) -> dict[str, Any]:
    """Everything, as one document."""
    live = gateway.live
    bare = asyncio.run(bare_cpu())
    return {
        "ttft": {str(tokens): gateway.run(ttft(live, tokens, given.rounds), 1200) for tokens in given.tokens},
        "nine_risks": gateway.run(nine(live, given.rounds), 1200),
        "output_cpu_us_per_token": {
            str(window): round(asyncio.run(output_cpu(window)) - bare, 1) for window in (200, 500, 1000, 4000)
        },
        "planted": gateway.run(saved(live), 600),
        "max_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Start the models, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, nargs="+", default=[30, 300, 1000])
    given = parser.parse_args()
    settings = load(flags={"engine": {"max_model_len": 4096}})
    cache = default_cache_root()
    served = [
        first_served(settings, str(ensure_sample(SMOLLM2, cache)), MODEL),
        Served(str(ensure_sample(GUARD, cache)), SAMPLE_MODEL, "classify", pin=True, preload=True),
    ]
    guard = {
        "evaluators": [{"kind": "sample"}, {"kind": "rules", "patterns": {"planted": PLANTED}}],
    }
    with (
        tempfile.TemporaryDirectory() as state,
        threaded(lambda: build_pool(settings, served), Path(state), guard=guard) as gateway,
    ):
        found = measure(gateway, given)
    json.dump({"machine": describe(machine_facts()), **found}, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
