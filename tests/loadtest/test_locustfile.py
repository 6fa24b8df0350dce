"""The locust file under the real locust, in a process of its own: importing locust patches the standard library."""

import asyncio
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.client import Target
from loadtest.systems import ROOT
from tests.loadtest.scripted import CHUNKED, chunk, complete, served, stream_in_shreds

pytestmark = pytest.mark.slow

Statistics = dict[str, dict[str, str]]


def locust(target: Target, directory: Path, *users: str) -> tuple[int, Statistics]:
    """Exit code and statistics by name of a few seconds of ``users``."""
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"), *users]
    command += ["--host", f"http://127.0.0.1:{target.port}", "--headless", "-u", "4", "-r", "8", "-t", "3s"]
    command += ["--csv", str(directory / "load"), "--exit-code-on-error", "3", "--only-summary"]
    environment = {**os.environ, "SLUICE_API_KEY": target.api_key, "LOADTEST_MODEL": "toy", "LOADTEST_MAX_TOKENS": "5"}
    ended = subprocess.run(command, env=environment, cwd=directory, capture_output=True, timeout=60, check=False)
    with (directory / "load_stats.csv").open(newline="") as file:
        return ended.returncode, {row["Name"]: row for row in csv.DictReader(file)}


async def either(body: bytes, writer: asyncio.StreamWriter) -> None:
    await (stream_in_shreds if json.loads(body).get("stream") else complete)(body, writer)


async def half_a_stream(body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(CHUNKED + chunk(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n') + chunk(b""))


def test_streams_and_whole_answers_are_timed(tmp_path: Path) -> None:
    with served(either) as target:
        code, statistics = locust(target, tmp_path)
    streams = statistics["/v1/chat/completions (stream)"]
    assert code == 0
    assert statistics["ttft"]["Request Count"] == streams["Request Count"] != "0"
    assert float(statistics["ttft"]["Median Response Time"]) <= float(streams["Median Response Time"])
    assert statistics["inter-token"]["Request Count"] == streams["Request Count"]
    assert statistics["/v1/chat/completions"]["Failure Count"] == "0"


def test_a_stream_without_its_end_is_a_failure(tmp_path: Path) -> None:
    with served(half_a_stream) as target:
        code, statistics = locust(target, tmp_path, "StreamingUser")
    streams = statistics["/v1/chat/completions (stream)"]
    assert code == 3
    assert streams["Failure Count"] == streams["Request Count"] != "0"


async def refused(body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 9\r\nContent-Length: 2\r\n\r\n{}")


def profile(target: Target, directory: Path, name: str, *more: str) -> tuple[int, str]:
    """Exit code and standard error of a few seconds of a profile."""
    command = [sys.executable, "-m", "loadtest.profiles", name, "--host", f"http://127.0.0.1:{target.port}"]
    command += ["--time", "0.04", "--users", "0.25", "--html", str(directory / "report.html"), *more]
    environment = {
        **os.environ, "SLUICE_API_KEY": target.api_key, "LOADTEST_MODEL": "toy", "LOADTEST_MAX_TOKENS": "5",
        "LOADTEST_THINK_SECONDS": "0.1", "LOADTEST_ABUSER_KEY": "sk-abuser",
    }  # fmt: skip
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    return ended.returncode, ended.stderr


def test_a_profile_holds_its_thresholds_and_writes_its_report(tmp_path: Path) -> None:
    with served(either) as target:
        code, said = profile(target, tmp_path, "mixed", "--threshold", "inter-token p99=10000")
    assert code == 0, said
    assert "inter-token" in (tmp_path / "report.html").read_text()


def test_a_missed_threshold_fails_the_run_and_is_named(tmp_path: Path) -> None:
    with served(either) as target:
        code, said = profile(target, tmp_path, "chat", "--threshold", "ttft p95=0.000001")
    assert code == 4
    assert "threshold missed: ttft p95" in said


def test_refusals_fail_the_honest_and_not_the_abuser(tmp_path: Path) -> None:
    with served(refused) as target:
        code, said = profile(target, tmp_path, "abuse")
    assert code == 4
    assert "threshold missed: failures" in said
    assert "threshold missed: ttft p95 is inf" in said, "what was not measured was not held"


@pytest.mark.parametrize("name", ["adapters", "abuse"])
def test_a_profile_without_what_it_needs_says_so(name: str) -> None:
    command = [sys.executable, "-m", "loadtest.profiles", name, "--host", "http://127.0.0.1:1"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LOADTEST_")}
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "needs LOADTEST_" in ended.stderr
