"""Does one tenant's flood starve another's single requests? With fair share and without it, side by side.

One tenant keeps ``--flood`` streams open; another sends one short stream at a time, first alone, then beside the flood.
Both gateways serve the same model with the same engine arguments, in turn, ``--rounds`` times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import uvloop
import yaml

from loadtest.answers import StreamTimes, read_stream
from loadtest.client import Recording, Target, open_connections, run_load
from loadtest.figures import percentile
from loadtest.machine import describe, machine_facts
from loadtest.processes import Launch, ServerProcess, free_port
from loadtest.systems import ENGINE_ARGUMENTS, environment
from loadtest.toy import toy_model
from loadtest.workload import chat, find_model, serves

SLUICE: Final = str(Path(sys.executable).with_name("sluice"))
MODES: Final = {"fair share": True, "first come, first served": False}
LIGHT_TOKENS: Final = 8
FLOOD_TOKENS: Final = 128


@dataclass(frozen=True, slots=True)
class Outcome:
    """TTFT in seconds of the light tenant, alone and beside the flood, and what the flood got meanwhile."""

    alone: list[float]
    beside: list[float]
    flood_tokens_per_s: float


def make_key(config: Path, tenant: str, env: dict[str, str]) -> str:
    """A new key of ``tenant``."""
    command = [SLUICE, "keys", "create", "--config", str(config), "--name", tenant, "--tenant", tenant, "--json"]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    key: str = json.loads(done.stdout)["key"]
    return key


def one_at_a_time(target: Target, times: int) -> list[float]:
    """TTFTs of ``times`` streams, one after the other."""
    window = run_load(target, chat(target, tokens=LIGHT_TOKENS, stream=True), connections=1, each=times)
    return [read_stream(recording, tokens=LIGHT_TOKENS).ttft for recording in window.recordings]


async def beside_a_flood(heavy: Target, light: Target, streams: int, times: int) -> tuple[list[float], float]:
    """The light tenant's TTFTs while ``streams`` of the heavy one are open, and the flood's tokens per second."""
    loop = asyncio.get_running_loop()
    flood = await open_connections(heavy, streams)
    (single,) = await open_connections(light, 1)
    request = chat(heavy, tokens=FLOOD_TOKENS, stream=True)
    finished: list[Recording] = []

    async def keep_busy(index: int) -> None:
        while True:
            answer = await flood[index].exchange(request)
            finished.append(answer)

    tasks = [asyncio.ensure_future(keep_busy(index)) for index in range(streams)]
    try:
        await asyncio.sleep(5.0)
        started, before = loop.time(), len(finished)
        recordings = []
        for _ in range(times):
            recordings.append(await single.exchange(chat(light, tokens=LIGHT_TOKENS, stream=True)))
            await asyncio.sleep(0.05)
        rate = (len(finished) - before) * FLOOD_TOKENS / (loop.time() - started)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in (*flood, single):
            connection.close()
    times_of: list[StreamTimes] = [read_stream(recording, tokens=LIGHT_TOKENS) for recording in recordings]
    return [each.ttft for each in times_of], rate


def visit(model: Path, directory: Path, *, fair: bool, flood: int, times: int, max_running: int) -> Outcome:
    """One start of the gateway."""
    directory.mkdir()
    config = directory / "sluice.yaml"
    settings = {
        "state_dir": str(directory),
        "engine": {**ENGINE_ARGUMENTS, "max_num_seqs": max_running},
        "admission": {"fair_share": fair},
    }
    config.write_text(yaml.safe_dump(settings), "utf-8")
    port = free_port()
    env = environment(SLUICE_HOST="127.0.0.1", SLUICE_PORT=str(port), SLUICE_MODEL=str(model))
    heavy, light = (Target(port, make_key(config, tenant, env)) for tenant in ("heavy", "light"))
    server = ServerProcess(Launch([SLUICE, "serve", "--config", str(config)], env, directory / "sluice.log"))
    try:
        server.wait_until(lambda: serves(replace(light, model=find_model(light) or "")), 150.0)
        name = find_model(light) or ""
        heavy, light = replace(heavy, model=name), replace(light, model=name)
        one_at_a_time(light, 10)
        alone = one_at_a_time(light, times)
        beside, rate = uvloop.run(beside_a_flood(heavy, light, flood, times))
        return Outcome(alone, beside, rate)
    finally:
        server.stop()


def row(name: str, outcome: Outcome) -> str:
    """One line of the table."""
    alone, beside = percentile(outcome.alone, 0.5) * 1e3, percentile(outcome.beside, 0.5) * 1e3
    worst = percentile(outcome.beside, 0.99) * 1e3
    return (
        f"{name:26}{alone:10.1f}{beside:12.1f}{worst:12.1f}{beside / alone:10.1f}x{outcome.flood_tokens_per_s:14,.0f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="fair_share.py", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flood", type=int, default=200, help="streams the heavy tenant keeps open (%(default)s)")
    parser.add_argument("--times", type=int, default=50, help="requests of the light tenant (%(default)s)")
    parser.add_argument("--max-running", type=int, default=32, help="sequences at once (%(default)s)")
    parser.add_argument("--model", type=Path, help="a model directory instead of the toy model")
    options = parser.parse_args()
    # SIGTERM unwinds the stack like Ctrl-C, so that the gateway is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(describe(machine_facts()), "\n")
    print("TTFT of the light tenant:     alone ms  flooded ms      p99 ms      ratio   flood tok/s")
    with tempfile.TemporaryDirectory(prefix="sluice-fair-") as scratch:
        for number in range(1, options.rounds + 1):
            for name, fair in MODES.items():
                place = Path(scratch) / f"{number}-{fair}"
                outcome = visit(
                    options.model or toy_model(),
                    place,
                    fair=fair,
                    flood=options.flood,
                    times=options.times,
                    max_running=options.max_running,
                )
                print(row(name, outcome), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
