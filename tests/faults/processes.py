"""`sluice serve` as a process of its own, over the toy model and real vLLM."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

KEY = "sk-process-test-0123456789"
#: A machine with a load of ten takes this long for the imports alone.
START_SECONDS = 240.0
ENGINE = {"max_model_len": 1024, "max_num_seqs": 64, "gpu_memory_utilization": 0.15}


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One running process."""

    def __init__(self, model: Path, directory: Path, **settings: str) -> None:
        self.port = free_port()
        self.directory = directory
        self.log = directory / "out.log"
        self.environment = environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLUICE_", "VLLM_"))}
        self.environment |= {
            "SLUICE_PORT": str(self.port),
            "SLUICE_MODEL": str(model),
            "SLUICE_SERVED_MODEL_NAME": "toy",
            "SLUICE_API_KEY": KEY,
            "SLUICE_STATE_DIR": str(directory / "state"),
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "SLUICE_ENGINE": json.dumps(ENGINE),
            **settings,
        }
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "gateway.cli", "serve"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=directory)
        self.url = f"http://127.0.0.1:{self.port}"
        self.headers = {"Authorization": f"Bearer {KEY}"}

    def status(self, path: str) -> int | None:
        try:
            return httpx.get(self.url + path, timeout=5).status_code
        except httpx.TransportError:
            return None

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        self.wait_for(lambda: self.status("/readyz") == 200, seconds)

    def wait_for(self, check: Any, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not check():
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def engine(self) -> psutil.Process:
        """The engine core."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(child for child in children if "EngineCore" in " ".join([child.name(), *child.cmdline()]))

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def body(self, **fields: Any) -> dict[str, Any]:
        return {"model": "toy", "prompt": "hello", "ignore_eos": True, "max_tokens": 64, **fields}

    def completion(self, **fields: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/completions", json=self.body(**fields), headers=self.headers, timeout=60)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        family = self.family() if self.process.poll() is None else []
        self.process.kill()
        self.process.wait(10)
        for child in family:
            if child.is_running():
                child.kill()


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    """Whether all of them end within ``seconds``."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def serving(model: Path, directory: Path, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A ready server for the length of a block."""
    server = Server(model, directory, **(settings or {}))
    try:
        server.wait_ready()
        yield server
    finally:
        server.close()
