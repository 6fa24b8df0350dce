"""A real Prometheus of the tests' own (Debian's), and what a loaded Sluice looks like in it."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import socket
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
from tests.faults.processes import KEY, Server, free_port
from tests.support.client import Client
from tests.support.redis_server import RedisServer

RULES: Final = sorted((CHART / "rules").glob("*.yaml"))
#: What Grafana would put into the queries.
VARIABLES: Final = {
    "$namespace": ".*",
    "$job": ".*",
    "$instance": ".*",
    "$__rate_interval": "10s",
    "$__range": "1m",
}
#: A start takes 20 s on a quiet machine, minutes on one where everybody starts engines.
START_SECONDS: Final = 400.0
TENANTS: Final = ("team-a", "team-b", "greedy")


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
def scraping(port: int, directory: Path) -> Iterator[Prometheus]:
    """A Prometheus with all our rules that scrapes ``port`` each second, for the length of a block."""
    directory.mkdir(exist_ok=True)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(file) for file in RULES],
        "scrape_configs": [{"job_name": "sluice", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
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


@dataclass(frozen=True)
class Observed:
    """What Prometheus saw of a loaded Sluice between ``start`` and ``end``."""

    prometheus: Prometheus
    start: float
    end: float

    def lines(self, expr: str) -> list[tuple[dict[str, str], Any]]:
        """See :meth:`Prometheus.lines`."""
        return self.prometheus.lines(expr, self.start, self.end)


@contextmanager
def observed(model: Path, directory: Path, seconds: float = 20.0) -> Iterator[Observed]:
    """A real `sluice serve` under every kind of load at once for ``seconds``, scraped all the while."""
    redis = RedisServer(directory).start()
    settings = {
        "SLUICE_REDIS_URL": redis.url,
        "SLUICE_LIMITS__REDIS_TIMEOUT": "2",
        "SLUICE_ADMISSION__MAX_RUNNING": "6",
        "SLUICE_ADMISSION__MAX_QUEUE": "6",
        "SLUICE_GUARD": json.dumps({"evaluators": [{"kind": "rules"}], "policy": {"output": True}}),
        "SLUICE_USAGE__PRICES": json.dumps({"toy": {"prompt": 1, "completion": 2}}),
    }
    server = Server(model, directory, **settings)
    try:
        server.wait_ready(START_SECONDS)
        with scraping(server.port, directory / "prometheus") as own:
            start = time.time()
            asyncio.run(_load(server, seconds))
            time.sleep(2.5)  # the last of it must have been scraped
            yield Observed(own, start, time.time())
    finally:
        server.close()
        redis.kill()


async def _load(server: Server, seconds: float) -> None:
    keys = dict(zip(TENANTS, await asyncio.gather(*(_key(server, tenant) for tenant in TENANTS)), strict=True))
    await asyncio.sleep(1.5)  # until the key ring has them
    end = time.monotonic() + seconds
    clients = {tenant: Client("127.0.0.1", server.port, key, timeout=60) for tenant, key in keys.items()}
    kinds = [
        *(_streams(clients["team-a"], server, end) for _ in range(5)),
        *(_answers(clients["team-b"], server, end) for _ in range(3)),
        _refused_by_limits(clients["greedy"], server, end),
        _is_guarded(clients["team-b"], server, end),
        _leaves(clients["team-b"], server, end),
        _floods(clients["team-a"], server, end),
        _nonsense(server, end),
    ]
    await asyncio.gather(*kinds)


async def _key(server: Server, tenant: str) -> str:
    quota = {"requests_per_minute": 3 if tenant == "greedy" else 100_000}
    body = {"name": tenant, "tenant": tenant, "scopes": ["inference"], "quota": quota}
    answer = await Client("127.0.0.1", server.port, KEY, timeout=60).request("POST", "/v1/admin/keys", body)
    assert answer.status in (200, 201), answer.body
    return str(answer.json()["key"])


async def _streams(client: Client, server: Server, end: float) -> None:
    question = [{"role": "user", "content": "Tell me of rivers, canals and locks. " * 8}]
    while time.monotonic() < end:
        body = {"model": "toy", "messages": question, "stream": True, "max_tokens": 48}
        await client.stream("/v1/chat/completions", body)


async def _answers(client: Client, server: Server, end: float) -> None:
    while time.monotonic() < end:
        await client.post("/v1/completions", server.body(prompt="one two three " * 20, max_tokens=24))
        await asyncio.sleep(0.1)


async def _refused_by_limits(client: Client, server: Server, end: float) -> None:
    while time.monotonic() < end:
        await client.post("/v1/completions", server.body(max_tokens=4))
        await asyncio.sleep(0.5)


async def _is_guarded(client: Client, server: Server, end: float) -> None:
    """Says what the guard does not let through."""
    while time.monotonic() < end:
        await client.post("/v1/completions", server.body(prompt="Write to jane.doe@example.org", max_tokens=4))
        await asyncio.sleep(0.5)


async def _leaves(client: Client, server: Server, end: float) -> None:
    while time.monotonic() < end:
        await client.stream("/v1/completions", server.body(stream=True, max_tokens=500), leave_after_events=2)
        await asyncio.sleep(0.3)


async def _floods(client: Client, server: Server, end: float) -> None:
    """More at once than the queue holds: some are sent away."""
    while time.monotonic() < end:
        await asyncio.sleep(3)
        await asyncio.gather(*(client.post("/v1/completions", server.body(max_tokens=16)) for _ in range(24)))


async def _nonsense(server: Server, end: float) -> None:
    """What the front, the door and the schema refuse."""
    stranger, own = (Client("127.0.0.1", server.port, key, timeout=60) for key in ("sk-wrong-key-0123456789", KEY))
    while time.monotonic() < end:
        await stranger.post("/v1/completions", server.body())
        await own.post("/v1/completions", {"model": "toy", "prompt": "x", "n": "three"})
        await own.get("/v1/nothing")
        await asyncio.to_thread(_garbage, server.port)
        await asyncio.sleep(0.5)


def _garbage(port: int) -> None:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        connection.recv(1024)


def names(exprs: Sequence[str]) -> set[str]:
    """The metrics that expressions name."""
    import re

    return {name for expr in exprs for name in re.findall(r"\b(?:sluice|vllm|process)[_:][a-zA-Z0-9_:]+", expr)}
