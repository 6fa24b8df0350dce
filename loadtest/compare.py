"""`make bench`: Sluice and its peers in turn on this machine, under the same load. See README.md beside this file.

Each round starts every system once, one at a time; so what drifts on the machine touches all of them alike, and
ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from loadtest.answers import InvalidRunError
from loadtest.client import Target
from loadtest.machine import describe, machine_facts
from loadtest.page import page
from loadtest.processes import Launch, ServerProcess, StartError, free_port, front_end, wait_for_rest
from loadtest.report import Results, Visit, render
from loadtest.systems import ENGINE_ARGUMENTS, ENVIRONMENT, ROOT, SYSTEMS, Place, System, environment
from loadtest.toy import toy_model
from loadtest.workload import Figures, Workload, find_model, measure, serves, single_ttft

DIRECT: Final = "direct"
TITLES: Final = {name: system.title for name, system in SYSTEMS.items()} | {
    DIRECT: "AsyncLLM called directly, no HTTP, prompt already tokenised: TTFT only"
}
WITHOUT_MODEL: Final = frozenset(name for name, system in SYSTEMS.items() if not system.has_model)
DEFAULT_SYSTEMS: Final = "sluice,tenants,vllm,direct,stub"
START_TIMEOUT: Final = 150.0
REST_TIMEOUT: Final = 60.0
QUIET_LOAD: Final = 0.5


def visit_server(system: System, place: Place, work: Workload) -> Figures:
    """Start ``system``, measure it, stop it."""
    server = ServerProcess(system.launch(place))
    try:
        target = Target(place.port, system.api_key(place))

        def ready() -> bool:
            nonlocal target
            target = replace(target, model=find_model(target) or "")
            return bool(target.model) and serves(target)

        server.wait_until(ready, START_TIMEOUT)
        if not wait_for_rest(lambda: front_end(server.tree()), REST_TIMEOUT):
            _progress(f"{system.name} did not come to rest within {REST_TIMEOUT:.0f} s of its start")
        return measure(target, front_end(server.tree()), work)
    except InvalidRunError as error:
        raise InvalidRunError(f"{error}\n{server.log_tail()}") from error
    finally:
        server.stop()


def visit_direct(place: Place, work: Workload) -> Figures:
    """TTFT of the engine alone, one request at a time, in a process of its own."""
    output = place.directory / "direct.json"
    command = [sys.executable, str(ROOT / "loadtest" / "direct.py"), str(place.model), "--output", str(output)]
    command += ["--requests", str(work.single_streams), "--tokens", str(work.single_tokens)]
    server = ServerProcess(Launch(command, environment(), place.directory / "direct.log"))
    try:
        server.wait_until(output.exists, START_TIMEOUT)
        return single_ttft(json.loads(output.read_text("utf-8")))
    finally:
        server.stop()


def visit(name: str, model: Path, directory: Path, work: Workload) -> Figures:
    """One start of a system, with ``directory`` (made here) for its files."""
    directory.mkdir()
    place = Place(model, free_port(), directory)
    return visit_direct(place, work) if name == DIRECT else visit_server(SYSTEMS[name], place, work)


def compare(names: Sequence[str], rounds: int, model: Path, work: Workload) -> list[Visit]:
    """Every system once per round, in turn. Raises :class:`StartError` and :class:`InvalidRunError` with its name."""
    visits: list[Visit] = []
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as scratch:
        for number in range(1, rounds + 1):
            for name in names:
                load, started = os.getloadavg()[0], time.monotonic()
                try:
                    figures = visit(name, model, Path(scratch) / f"{name}-{number}", work)
                except (StartError, InvalidRunError) as error:
                    raise type(error)(f"{name}, round {number}: {error}") from error
                visits.append(Visit(name, number, load, figures))
                _progress(f"round {number}/{rounds} {name:8}{time.monotonic() - started:5.0f} s  {_brief(figures)}")
    return visits


def _brief(figures: Figures) -> str:
    shown = {"tokens_per_s": "tok/s", "cpu_us_per_token": "us/token", "requests_per_s": "req/s", "ttft1_p50_ms": "ms"}
    return ", ".join(f"{figures[key]:.1f} {unit}" for key, unit in shown.items() if key in figures)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write_json(file: Path, results: Results, facts: dict[str, object], work: Workload) -> None:
    document = {
        "machine": facts,
        "engine_arguments": dict(ENGINE_ARGUMENTS),
        "environment": dict(ENVIRONMENT),
        "workload": asdict(work),
        "visits": [asdict(visit) for visit in results.visits],
        "targets": [asdict(verdict) | {"met": verdict.met} for verdict in results.verdicts()],
    }
    file.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compare.py", description="Compare Sluice with its peers on this machine.")
    parser.add_argument("--rounds", type=int, help="starts of every system (default 5, with --quick 2)")
    parser.add_argument(
        "--systems", default="sluice,tenants,vllm,direct,stub", help=f"of: {', '.join(TITLES)} (%(default)s)"
    )
    parser.add_argument("--peer", action="append", default=[], choices=["rust"], help="one more system; repeatable")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, a third of the load")
    parser.add_argument("--model", type=Path, help="a model directory instead of the toy model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every round to FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report as a page to FILE")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args(argv)
    options.names = list(dict.fromkeys([*filter(None, options.systems.split(",")), *options.peer]))
    if unknown := [name for name in options.names if name not in TITLES]:
        parser.error(f"unknown systems: {', '.join(unknown)}")
    options.rounds = options.rounds if options.rounds is not None else 2 if options.quick else 5
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def _end_on_sigterm() -> None:
    """SIGTERM unwinds the stack like Ctrl-C, so that the server under test is stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def main(argv: Sequence[str] | None = None) -> int:
    options = _arguments(argv)
    _end_on_sigterm()
    facts = machine_facts()
    if os.getloadavg()[0] > QUIET_LOAD:
        _progress(f"note: load average {os.getloadavg()[0]:.2f}: the machine is not quiet, figures will be worse")
    for name in options.names:
        if name in SYSTEMS:
            SYSTEMS[name].prepare()
    work = Workload().quick() if options.quick else Workload()
    try:
        results = Results(compare(options.names, options.rounds, options.model or toy_model(), work))
    except (StartError, InvalidRunError) as error:
        _progress(f"compare.py: {error}")
        return 2
    report = render(results, titles=TITLES, alone=WITHOUT_MODEL)
    print(f"{describe(facts)}\n\n{report}")
    if options.markdown:
        options.markdown.write_text(page(report, facts, work, rounds=options.rounds), "utf-8")
    if options.json:
        _write_json(options.json, results, facts, work)
    return int(options.check and not all(verdict.met for verdict in results.verdicts()))


if __name__ == "__main__":
    sys.exit(main())
