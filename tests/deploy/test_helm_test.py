"""The program inside the `helm test` pod: it passes on a closed door with a key, and on nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.cluster import served
from tests.deploy.helm import Helm

HOST = "llm.example.org"
KEY = "sk-abc-secret"


class _Door(BaseHTTPRequestHandler):
    server: Door

    def do_GET(self) -> None:
        right_key = self.headers["Authorization"] == f"Bearer {KEY}"
        if self.headers["Host"] != HOST:
            self._answer(400)
        elif self.path == "/readyz":
            self._answer(200 if self.server.ready else 503)
        else:
            self._answer(200 if right_key or self.server.open else 401)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": name} for name in self.server.models]}).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the test's output is for the test."""


class Door(ThreadingHTTPServer):
    """A gateway that is ready, or closed, or serves models, as told."""

    daemon_threads = True

    def __init__(self, *, ready: bool = True, open: bool = False, models: tuple[str, ...] = ("m",)) -> None:
        super().__init__(("127.0.0.1", 0), _Door)
        self.ready, self.open, self.models = ready, open, models


@pytest.mark.parametrize(
    ("door", "key", "last_line"),
    [
        ({}, KEY, "ok   a model is served"),
        ({"ready": False}, KEY, "FAIL ready"),
        ({"open": True}, KEY, "FAIL no key, no entry"),
        ({}, "sk-abc-wrong", "FAIL the key opens the door"),
        ({"models": ()}, KEY, "FAIL a model is served"),
    ],
)
def test_the_pod_passes_only_on_a_right_gateway(
    helm4: Helm, tmp_path: Path, door: dict[str, Any], key: str, last_line: str
) -> None:
    (container,) = helm4.render({"config": {"allowed_hosts": [HOST]}}).one("Pod")["spec"]["containers"]
    (tmp_path / "api-key").write_text(f"{key}\n", "utf-8")
    (program,) = container["args"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    with Door(**door) as server, served(server):
        done = subprocess.run(
            [sys.executable, "-c", program.replace("/run/secrets/sluice", str(tmp_path))],
            env={**os.environ, **environment, "TARGET": f"http://127.0.0.1:{server.server_port}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.stdout.splitlines()[-1] == last_line, done.stderr
    assert (done.returncode == 0) is last_line.startswith("ok")
