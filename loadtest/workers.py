"""Two front-end workers against one, in turn: `python -m loadtest.workers [--rounds 2] [--quick]`.

The toy model, an engine so fast that the front end shows; 64 connections. On few cores the workers take the engine's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import urllib.request
from pathlib import Path

from loadtest.client import Target
from loadtest.compare import START_TIMEOUT
from loadtest.machine import describe, machine_facts
from loadtest.processes import ServerProcess, free_port, front_end
from loadtest.systems import SYSTEMS, Place
from loadtest.toy import toy_model
from loadtest.workload import Figures, Workload, find_model, measure

SHOWN = {
    "tokens_per_s": "tok/s, 64 streams",
    "cpu_us_per_token": "front end CPU per token, us",
    "requests_per_s": "1-token requests/s",
    "cpu_us_per_request": "front end CPU per 1-token request, us",
    "ttft_p50_ms": "TTFT p50 at 64, ms",
    "rss_mib": "front end memory, MiB",
}


def visit(workers: int, model: Path, directory: Path, work: Workload) -> Figures:
    """Start, measure, stop."""
    directory.mkdir()
    place = Place(model, free_port(), directory)
    launch = SYSTEMS["sluice"].launch(place)
    # Without keys there are no limits that Redis would have to share.
    environment = {**launch.environment, "SLUICE_WORKERS": str(workers), "SLUICE_ALLOW_NO_AUTH": "true"}
    environment.pop("SLUICE_API_KEY")
    server = ServerProcess(type(launch)(launch.command, environment, launch.log))
    try:
        server.wait_until(lambda: _all_serve(place.port, workers), START_TIMEOUT * 2)
        model_id = find_model(Target(place.port, "none")) or ""
        return measure(Target(place.port, "none", model=model_id), front_end(server.tree()), work)
    finally:
        server.stop()


def _all_serve(port: int, workers: int) -> bool:
    path, sign = ("metrics", f"sluice_workers {workers}.0") if workers > 1 else ("readyz", "ready")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
            return sign in answer.read().decode()
    except OSError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(prog="loadtest.workers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a third of the load")
    options = parser.parse_args()
    work = Workload().quick() if options.quick else Workload()
    model = toy_model()
    rounds: dict[int, list[Figures]] = {1: [], 2: []}
    print(f"{describe(machine_facts())}, load average {os.getloadavg()[0]:.1f}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="sluice-workers-") as scratch:
        for number in range(options.rounds):
            for workers, figures in rounds.items():
                figures.append(visit(workers, model, Path(scratch) / f"{workers}-{number}", work))
                print(f"round {number + 1}, {workers} workers: {figures[-1]}", file=sys.stderr, flush=True)
    print("| | 1 worker | 2 workers | ratio, median of rounds |\n| --- | --- | --- | --- |")
    for key, title in SHOWN.items():
        one, two = ([figures[key] for figures in rounds[workers]] for workers in (1, 2))
        ratio = statistics.median(second / first for first, second in zip(one, two, strict=True))
        print(f"| {title} | {statistics.median(one):.1f} | {statistics.median(two):.1f} | {ratio:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
