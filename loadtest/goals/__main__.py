"""`python -m loadtest.goals`: puts the loads on, one after the other, and says what was seen beside what is asked.

Each goal starts its own server; ledger, clients and engine are laid side by side by the tests' checker afterwards.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from loadtest.answers import InvalidRunError
from loadtest.goals import connections, decisions, life, neighbours, overload, soak, storm, stubbed, table
from loadtest.goals.goal import Goal, Run
from loadtest.machine import describe, machine_facts
from loadtest.processes import StartError

GROUPS: Final = (stubbed, soak, overload, connections, decisions, storm, life, neighbours)
GOALS: Final = {goal.id: goal for group in GROUPS for goal in group.GOALS}


def chosen(only: str | None) -> list[Goal]:
    """The goals of a list of ids, in the order of their numbers. Raises ``KeyError`` for one that is not here."""
    ids = GOALS.keys() if only is None else [each.strip().upper() for each in only.split(",")]
    return sorted((GOALS[each] for each in ids), key=lambda goal: int(goal.id[1:]))


def show(goal: Goal, run: Run) -> bool:
    """Put one load on and print what was seen; whether all of it is as asked."""
    before = os.getloadavg()[0]
    try:
        figures = goal.show(run)
    except (InvalidRunError, StartError, OSError, TimeoutError, subprocess.TimeoutExpired, ValueError) as error:
        print(table.failed(goal, error), flush=True)
        print(error, file=sys.stderr)
        return False
    print(table.rows(goal, figures, (before, os.getloadavg()[0])), flush=True)
    return all(figure.met for figure in figures)


def _leave(*_: object) -> None:
    """Once: timeout(1) sends it twice, and the second would end the clearing up after the first."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.goals", description=__doc__)
    parser.add_argument("--only", help=f"some of {','.join(GOALS)}; default: all")
    parser.add_argument("--minutes", type=float, default=0.5, help="length of each sustained load (%(default)s)")
    parser.add_argument("--requests", type=int, default=50_000, help="requests of L15 (%(default)s)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    options = parser.parse_args(arguments)
    try:
        goals = chosen(options.only)
    except KeyError as unknown:
        parser.error(f"no goal {unknown}; there are {', '.join(GOALS)}")
    # SIGTERM unwinds the stack like Ctrl-C, so that servers are stopped.
    signal.signal(signal.SIGTERM, _leave)
    print(describe(machine_facts()), f"\n\n{table.HEAD}", flush=True)
    with tempfile.TemporaryDirectory(prefix="sluice-goals-") as scratch:
        met = [show(goal, Run(Path(scratch) / goal.id, options.minutes, options.requests)) for goal in goals]
    return 1 if options.check and not all(met) else 0


if __name__ == "__main__":
    sys.exit(main())
