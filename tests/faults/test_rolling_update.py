"""F72: two replicas behind a real HAProxy, drained and replaced in turn under locust's load: no request fails."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.deploy.helm import ROOT
from tests.deploy.prometheus import debian_binary
from tests.faults.processes import KEY, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

CONFIG = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
WAIT_SECONDS = 90.0
USERS = 16


class Replica:
    """Sluice's gateway over the stub engine as a process of its own, on a port that it keeps when replaced."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.port = free_port()
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "loadtest.stub_server", "--port", str(self.port), "--step", "0.01"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SLUICE_")}
        environment |= {"SLUICE_API_KEY": KEY, "PYTHONPATH": str(ROOT)}
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--state-dir", str(self.directory)], stdout=log, stderr=log, env=environment, cwd=ROOT
            )

    def replace(self, proxy: Proxy, name: str) -> None:
        """Leave the proxy, drain, end, start again, be ready, and come back."""
        proxy.say(f"set server replicas/{name} state drain")
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(WAIT_SECONDS) == 0
        self.start()
        wait_for(f"http://127.0.0.1:{self.port}/readyz", self.process)
        proxy.say(f"set server replicas/{name} state ready")

    def rows(self, event: str) -> list[dict[str, object]]:
        rows = [json.loads(line) for line in (self.directory / "ledger.jsonl").read_text("utf-8").splitlines()]
        return [row for row in rows if row["event"] == event]


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None, "it ended while starting"
        assert time.monotonic() < deadline, "it did not start"
        time.sleep(0.1)


@dataclass(frozen=True)
class Proxy:
    """A HAProxy that runs, and the socket that it is told things by."""

    address: str
    admin: Path

    def say(self, command: str) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.admin))
            connection.sendall(command.encode() + b"\n")
            assert connection.recv(1024).strip() == b"", command


@contextmanager
def proxied(replicas: Sequence[Replica], directory: Path) -> Iterator[Proxy]:
    """HAProxy with the configuration that the documentation gives."""
    bind = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "SLUICE_BIND": bind,
        "SLUICE_ADMIN": str(directory / "admin.sock"),
        "SLUICE_A": f"127.0.0.1:{replicas[0].port}",
        "SLUICE_B": f"127.0.0.1:{replicas[1].port}",
    }
    process = subprocess.Popen([debian_binary("haproxy"), "-f", str(CONFIG), "-db"], env=environment)
    try:
        wait_for(f"http://{bind}/readyz", process)
        yield Proxy(f"http://{bind}", directory / "admin.sock")
    finally:
        process.kill()
        process.wait(10)


def load(address: str, directory: Path) -> subprocess.Popen[str]:
    """The chat profile with short pauses, as locust's own process."""
    command = [sys.executable, "-m", "loadtest.profiles", "chat", "--host", address, "--time", "0.6"]
    command += [
        "--csv",
        str(directory / "load"),
        "--threshold",
        "ttft p95=60000",
        "--threshold",
        "inter-token p95=60000",
    ]
    environment = {
        **os.environ, "SLUICE_API_KEY": KEY, "LOADTEST_MODEL": "stub", "LOADTEST_MAX_TOKENS": "48",
        "LOADTEST_THINK_SECONDS": "0.1",
    }  # fmt: skip
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_f72_no_request_fails_while_replicas_are_replaced(tmp_path: Path) -> None:
    replicas = [Replica(tmp_path / name) for name in ("a", "b")]
    try:
        for replica in replicas:
            wait_for(f"http://127.0.0.1:{replica.port}/readyz", replica.process)
        with proxied(replicas, tmp_path) as proxy:
            locust = load(proxy.address, tmp_path)
            deadline = time.monotonic() + WAIT_SECONDS
            while not replicas[0].rows("admitted") and time.monotonic() < deadline:
                time.sleep(0.1)
            replaced = 0
            while locust.poll() is None and replaced < 4:
                replicas[replaced % 2].replace(proxy, "ab"[replaced % 2])
                replaced += 1
                time.sleep(1)  # as long as HAProxy needs to see that it is back
            said, _ = locust.communicate(timeout=WAIT_SECONDS)
        assert locust.returncode == 0, said
        assert replaced >= 2, "both were replaced under load"
        with (tmp_path / "load_stats.csv").open(newline="") as file:
            (total,) = (row for row in csv.DictReader(file) if row["Name"] == "Aggregated")
        assert int(total["Failure Count"]) == 0
        assert int(total["Request Count"]) > 300
        for replica in replicas:
            replica.process.send_signal(signal.SIGTERM)
            assert replica.process.wait(WAIT_SECONDS) == 0
            admitted = sorted(str(row["request_id"]) for row in replica.rows("admitted"))
            settled = replica.rows("settled")
            assert admitted == sorted(str(row["request_id"]) for row in settled)
            # At the end of its time locust's users leave in the middle of a stream.
            outcomes = Counter(row["outcome"] for row in settled)
            assert outcomes.keys() <= {"completed", "cancelled"}
            assert outcomes["cancelled"] <= USERS
    finally:
        for replica in replicas:
            replica.process.kill()
