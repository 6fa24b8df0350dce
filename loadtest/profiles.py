"""Ways to load a server that already runs, each with the thresholds that make it fail.

    SLUICE_API_KEY=... python -m loadtest.profiles chat --host http://127.0.0.1:8000 --html report.html

Exit codes: 0 all thresholds held, 4 one was missed (its name is printed), else locust's own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOCUSTFILE: Final = Path(__file__).with_name("locustfile.py")
#: No failure at all: a refusal that the profile does not expect is one.
NONE_FAIL: Final = {"failures": 0.0}
PACE: Final = {"ttft p95": 2000.0, "inter-token p95": 200.0}


@dataclass(frozen=True)
class Profile:
    """``stages`` are seconds and users, one after the other. Thresholds: ``failures`` is a share of all requests,
    ``ENTRY pNN`` a percentile of an entry in milliseconds. ``needs``: variables without which it makes no sense."""

    help: str
    users: Sequence[str]
    stages: Sequence[tuple[float, int]]
    thresholds: Mapping[str, float]
    needs: Sequence[str] = ()


PROFILES: Final[Mapping[str, Profile]] = {
    "chat": Profile(
        "short questions, three of four streamed", ("StreamingUser", "WaitingUser"), [(60, 16)], NONE_FAIL | PACE
    ),
    "long": Profile("long documents, streamed answers", ("LongChatUser",), [(60, 8)], NONE_FAIL | {"ttft p95": 10_000}),
    "mixed": Profile(
        "short and long together: what a long prefill does to short answers",
        ("StreamingUser", "LongChatUser", "WaitingUser"), [(60, 16)], NONE_FAIL | {"ttft p95": 10_000},
    ),
    "adapters": Profile(
        "adapters of uneven popularity", ("AdapterUser",), [(60, 16)], NONE_FAIL | PACE, ("LOADTEST_ADAPTERS",)
    ),
    "embeddings": Profile("three texts at a time", ("EmbeddingUser",), [(60, 8)], NONE_FAIL),
    "abuse": Profile(
        "honest users beside one that floods with a limited key",
        ("StreamingUser", "WaitingUser", "AbusiveUser"), [(60, 16)], NONE_FAIL | PACE, ("LOADTEST_ABUSER_KEY",),
    ),
    "ramp": Profile(
        "twice as many users each minute: where does it bend?",
        ("StreamingUser", "WaitingUser"), [(60, 4), (60, 8), (60, 16), (60, 32), (60, 64)], NONE_FAIL,
    ),
    "spike": Profile(
        "quiet, eight times as many users for half a minute, quiet again; a few may be sent away",
        ("StreamingUser", "WaitingUser"), [(30, 8), (30, 64), (60, 8)], {"failures": 0.02},
    ),
    "soak": Profile("half an hour of the same", ("StreamingUser", "WaitingUser"), [(1800, 16)], NONE_FAIL | PACE),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one profile; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", choices=PROFILES, help="; ".join(f"{n}: {p.help}" for n, p in PROFILES.items()))
    parser.add_argument("--host", required=True, help="address of the server")
    parser.add_argument("--users", type=float, default=1.0, metavar="FACTOR", help="times as many users")
    parser.add_argument("--time", type=float, default=1.0, metavar="FACTOR", help="times as long")
    parser.add_argument("--html", type=Path, help="write locust's report here")
    parser.add_argument("--csv", help="prefix of files with every figure")
    parser.add_argument(
        "--threshold", action="append", default=[], metavar="NAME=NUMBER",
        help="another bound, as `ttft p95=500` (milliseconds) or `failures=0.01`",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    profile = PROFILES[options.profile]
    if missing := [name for name in profile.needs if not os.environ.get(name)]:
        parser.error(f"{options.profile} needs {', '.join(missing)} in the environment")
    return subprocess.run(
        _command(options, profile), env={**os.environ, **_environment(options, profile)}, check=False
    ).returncode


def _command(options: argparse.Namespace, profile: Profile) -> list[str]:
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *profile.users]
    command += ["--host", options.host, "--headless", "--only-summary", "--exit-code-on-error", "0"]
    command += ["--html", str(options.html)] if options.html else []
    return command + (["--csv", options.csv] if options.csv else [])


def _environment(options: argparse.Namespace, profile: Profile) -> dict[str, str]:
    stages = [(seconds * options.time, max(1, round(users * options.users))) for seconds, users in profile.stages]
    own = {name: float(bound) for name, _, bound in (each.rpartition("=") for each in options.threshold)}
    thresholds = {**profile.thresholds, **own}
    return {"LOADTEST_STAGES": json.dumps(stages), "LOADTEST_THRESHOLDS": json.dumps(thresholds)}


if __name__ == "__main__":
    sys.exit(main())
