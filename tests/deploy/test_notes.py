"""The commands that Helm prints after an install, run as they stand."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.cluster import Cluster, served
from tests.deploy.helm import Helm

KEY = "sk-abc-secret"
MODEL = "org/model-1"
SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "demo-sluice-api-key"}}


class _Gateway(BaseHTTPRequestHandler):
    """Answers only what the real gateway would: the right key, a JSON body, and the model by its id."""

    server: Gateway

    def do_GET(self) -> None:
        self._answer({"data": [{"id": MODEL}]} if self.path == "/v1/models" else None)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        right = self.path == "/v1/chat/completions" and self.headers["Content-Type"] == "application/json"
        self._answer({"asked": body["messages"][0]["content"]} if right and body["model"] == MODEL else None)

    def _answer(self, value: dict[str, Any] | None) -> None:
        self.server.hosts.append(self.headers["Host"])
        allowed = value is not None and self.headers["Authorization"] == f"Bearer {KEY}"
        self.send_response(200 if allowed else 400)
        self.end_headers()
        self.wfile.write(json.dumps(value if allowed else {}).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the test's output is for the test."""


class Gateway(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Gateway)
        self.hosts: list[str] = []


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as server, served(server):
        yield server


def commands(notes: str) -> list[str]:
    """The shell lines that need no running pod: take the key, ask for the model, ask the model."""
    return [line.strip() for line in notes.splitlines() if line.strip().startswith(("export ", "curl "))]


@pytest.mark.parametrize("secret_key", ["api-key", "with.dots"])
@pytest.mark.parametrize("hosts", [None, ["llm.example.org"]])
def test_the_printed_commands_reach_the_model(
    connected: Helm, tools: Path, cluster: Cluster, gateway: Gateway, hosts: list[str] | None, secret_key: str
) -> None:
    lines = commands(connected.notes({"config": {"allowed_hosts": hosts}, "auth": {"secretKey": secret_key}}))
    assert len(lines) == 3
    cluster.store({**SECRET, "data": {secret_key: base64.b64encode(KEY.encode()).decode()}}, "models")
    here = f"127.0.0.1:{gateway.server_port}"
    done = subprocess.run(
        ["sh", "-eu", "-c", "\n".join(lines).replace("127.0.0.1:8000", here)],
        env={
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "KUBECONFIG": str(connected.kubeconfig),
            "KUBECACHEDIR": f"{connected.kubeconfig}-cache",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"asked": "What is the capital of France?"}
    assert set(gateway.hosts) == set(hosts or [here])


def test_notes_name_what_was_installed(connected: Helm) -> None:
    notes = connected.notes({"service": {"port": 80}, "auth": {"existingSecret": "mine"}})
    assert "kubectl --namespace models port-forward service/demo-sluice 8000:80\n" in notes
    assert "rollout status deployment/demo-sluice" in notes
    assert "get secret mine " in notes
    assert "helm test demo --namespace models" in notes
    assert "kept on upgrade" not in notes


def test_notes_say_what_replicas_do_not_share(connected: Helm) -> None:
    alone = connected.notes({"replicaCount": 3})
    assert "Each replica counts limits by itself" in alone
    assert "live in one replica only" in alone
    together = connected.notes({"replicaCount": 3, "redis": {"enabled": True}, "postgresql": {"enabled": True}})
    assert "by itself" not in together
    assert "one replica only" not in together
    assert "needs the key" in connected.notes({"service": {"type": "LoadBalancer"}})
