"""The servers that goals are shown on: the gateway over the stub engine, and `sluice serve` over the toy model."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families

from loadtest.answers import InvalidRunError
from loadtest.client import Target
from loadtest.goals.books import ledger
from loadtest.processes import Launch, ServerProcess, free_port, front_end
from loadtest.systems import API_KEY, ENGINE_ARGUMENTS, ROOT, environment
from loadtest.toy import toy_model
from tests.support.checker import EngineEvidence, Evidence, Violation, check
from tests.support.recorder import Saw

START_SECONDS: Final = 240.0
REST_SECONDS: Final = 20.0
AT_REST: Final = ("sluice_requests_in_flight", "sluice_requests_queued")
SLUICE: Final = str(Path(sys.executable).with_name("sluice"))

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass
class Server:
    """A server that runs. What its clients saw is put into ``saws``; ``violations`` are known once it has ended."""

    target: Target
    process: ServerProcess
    directory: Path
    has_model: bool
    #: False where the engine's counters do not span the run, because it died in it.
    counts: bool = True
    saws: list[Saw] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    _before: Samples = field(default_factory=dict)
    _after: Samples = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.target.host}:{self.target.port}"

    @property
    def front(self) -> list[psutil.Process]:
        """The processes that do the HTTP work."""
        return front_end(self.process.tree())

    def is_ready(self) -> bool:
        """Whether it takes work."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def metrics(self) -> Samples:
        """All samples of its ``/metrics``."""
        families = text_string_to_metric_families(httpx.get(f"{self.url}/metrics", timeout=60).text)
        return {
            (each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples
        }

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name with these labels."""
        return total(self.metrics(), name, **labels)

    def began(self) -> None:
        """What the engine counts from here on belongs to the run."""
        self._before = self.metrics()

    def rest(self) -> None:
        """Wait until nothing is under way, and keep what the counters say then."""
        deadline = time.monotonic() + REST_SECONDS
        while True:
            self._after = self.metrics()
            if not any(total(self._after, name) for name in AT_REST) or time.monotonic() > deadline:
                return
            time.sleep(0.2)

    def judge(self) -> None:
        """Lay the ledger, the clients and the engine side by side. It must have ended."""
        gauges = {name: total(self._after, name) for name in (*AT_REST, *(_ENGINE_AT_REST if self.has_model else ()))}
        self.violations = check(Evidence(ledger(self.directory), self.saws, self._counted(), gauges))

    def _counted(self) -> EngineEvidence:
        if not self.counts:
            return EngineEvidence()
        if not self.has_model:
            return _stub_counted(self.directory)
        reasons = ("stop", "length", "abort", "error")
        name = "vllm:request_success_total"
        return EngineEvidence(
            finished={reason: int(self._gained(name, finished_reason=reason)) for reason in reasons},
            generation_tokens=int(self._gained("vllm:generation_tokens_total")),
            prompt_tokens=int(self._gained("vllm:prompt_tokens_total")),
        )

    def _gained(self, name: str, **labels: str) -> float:
        return total(self._after, name, **labels) - total(self._before, name, **labels)


_ENGINE_AT_REST: Final = ("vllm:num_requests_running", "vllm:num_requests_waiting")


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the samples of that name with these labels."""
    return sum(value for (each, has), value in samples.items() if each == name and labels.items() <= dict(has).items())


def _stub_counted(directory: Path) -> EngineEvidence:
    said: dict[str, Any] = json.loads((directory / "engine.json").read_text("utf-8"))
    return EngineEvidence(
        finished=said["finished"],
        generation_tokens=said.get("generation_tokens", 0),
        prompt_tokens=said.get("prompt_tokens", 0),
        leaks=said["leaks"],
    )


@contextmanager
def stub(directory: Path, settings: Mapping[str, Any] | None = None, *, step: float = 0.0) -> Iterator[Server]:
    """The gateway over the stub engine, with ``step`` seconds between the tokens of a request."""
    directory.mkdir(parents=True)
    port = free_port()
    command = [sys.executable, str(ROOT / "loadtest" / "stub_server.py")]
    command += ["--port", str(port), "--state-dir", str(directory), "--step", str(step)]
    command += ["--config", str(_write(directory, settings or {}))]
    launch = Launch(command, environment(SLUICE_API_KEY=API_KEY), directory / "out.log")
    with _running(launch, Target(port, API_KEY, "stub"), directory, has_model=False) as server:
        yield server


@contextmanager
def toy(directory: Path, settings: Mapping[str, Any] | None = None) -> Iterator[Server]:
    """`sluice serve` with vLLM and the toy model."""
    directory.mkdir(parents=True)
    port = free_port()
    tree = {"state_dir": str(directory), "engine": dict(ENGINE_ARGUMENTS), **(settings or {})}
    env = environment(
        SLUICE_HOST="127.0.0.1",
        SLUICE_PORT=str(port),
        SLUICE_MODEL=str(toy_model()),
        SLUICE_SERVED_MODEL_NAME="toy",
        SLUICE_API_KEY=API_KEY,
    )
    command = [SLUICE, "serve", "--config", str(_write(directory, tree))]
    launch = Launch(command, env, directory / "out.log")
    with _running(launch, Target(port, API_KEY, "toy"), directory, has_model=True) as server:
        yield server


def _write(directory: Path, settings: Mapping[str, Any]) -> Path:
    file = directory / "sluice.yaml"
    file.write_text(yaml.safe_dump(dict(settings)), "utf-8")
    return file


@contextmanager
def _running(launch: Launch, target: Target, directory: Path, *, has_model: bool) -> Iterator[Server]:
    """Ready for the length of a block; afterwards judged."""
    process = ServerProcess(launch)
    server = Server(target, process, directory, has_model)
    try:
        process.wait_until(server.is_ready, START_SECONDS)
        server.began()
        yield server
        if process.is_running:
            server.rest()
    except InvalidRunError as error:
        raise InvalidRunError(f"{error}\n{process.log_tail()}") from error
    finally:
        process.stop(60.0)
    server.judge()
