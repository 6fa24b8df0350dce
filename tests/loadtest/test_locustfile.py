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
    assert statistics["/v1/chat/completions"]["Failure Count"] == "0"


def test_a_stream_without_its_end_is_a_failure(tmp_path: Path) -> None:
    with served(half_a_stream) as target:
        code, statistics = locust(target, tmp_path, "StreamingUser")
    streams = statistics["/v1/chat/completions (stream)"]
    assert code == 3
    assert streams["Failure Count"] == streams["Request Count"] != "0"
