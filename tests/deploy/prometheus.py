"""A real Prometheus of the tests' own (Debian's)."""

from __future__ import annotations

import math
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from tests.deploy.helm import CHART
from tests.faults.processes import free_port

RULES: Final = sorted((CHART / "rules").glob("*.yaml"))
#: What Grafana would put into the queries.
VARIABLES: Final = {
    "$namespace": ".*",
    "$job": ".*",
    "$instance": ".*",
    "$__rate_interval": "10s",
    "$__range": "1m",
}


def debian_binary(name: str) -> str:
    """A program that scripts/test-services.sh installs."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    assert found is not None, f"{name} is missing: run scripts/test-services.sh"
    return found


@dataclass(frozen=True)
class Prometheus:
    """One that runs. Times are Unix seconds."""

    url: str

    def get(self, path: str, **parameters: Any) -> Any:
        """The data of an answer of its API. Raises AssertionError with what it says against the question."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def lines(self, expr: str, start: float, end: float, step: float = 1.0) -> list[tuple[dict[str, str], Any]]:
        """Labels and ``[time, value]`` points of every series that has a number somewhere between."""
        data = self.get("query_range", query=filled_in(expr), start=start, end=end, step=step)
        found = [
            (line["metric"], [[when, float(value)] for when, value in line["values"] if math.isfinite(float(value))])
            for line in data["result"]
        ]
        return [(labels, points) for labels, points in found if points]


def filled_in(expr: str) -> str:
    """``expr`` with Grafana's variables replaced."""
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


@contextmanager
def scraping(ports: Sequence[int], directory: Path) -> Iterator[Prometheus]:
    """A Prometheus with all our rules that scrapes ``ports`` each second, for the length of a block."""
    directory.mkdir(exist_ok=True)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(file) for file in RULES],
        "scrape_configs": [
            {"job_name": "sluice", "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
        ],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    own = free_port()
    command = [
        debian_binary("prometheus"),
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{own}",
        "--log.level=error",
    ]
    process = subprocess.Popen(command, cwd=directory)
    try:
        prometheus = Prometheus(f"http://127.0.0.1:{own}")
        _wait_ready(prometheus, process)
        yield prometheus
    finally:
        process.terminate()
        process.wait(20)


def _wait_ready(prometheus: Prometheus, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        with suppress(httpx.TransportError):
            if httpx.get(f"{prometheus.url}/-/ready").status_code == 200:
                return
        assert process.poll() is None, "prometheus ended while starting"
        assert time.monotonic() < deadline, "prometheus did not start"
        time.sleep(0.1)


def names(exprs: Sequence[str]) -> set[str]:
    """The metrics that expressions name."""
    import re

    return {name for expr in exprs for name in re.findall(r"\b(?:sluice|vllm|process)[_:][a-zA-Z0-9_:]+", expr)}
