"""As much of a Kubernetes API as helm's ``lookup`` and `kubectl get secret` ask: discovery, and stored Secrets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

VERSION: Final = {"major": "1", "minor": "30", "gitVersion": "v1.30.0"}
#: Group version -> kinds: what the chart's default objects are made of.
KINDS: Final = {
    "v1": ("Secret", "ConfigMap", "Service", "ServiceAccount", "Pod"),
    "apps/v1": ("Deployment", "StatefulSet"),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "policy/v1": ("PodDisruptionBudget",),
}


def _discovery() -> dict[str, Any]:
    groups = [group_version.split("/") for group_version in KINDS if "/" in group_version]
    lists = {
        f"/{'apis' if '/' in group_version else 'api'}/{group_version}": {
            "kind": "APIResourceList",
            "groupVersion": group_version,
            "resources": [
                {"name": f"{kind.lower()}s", "singularName": "", "kind": kind, "namespaced": True, "verbs": ["get"]}
                for kind in kinds
            ],
        }
        for group_version, kinds in KINDS.items()
    }
    return {
        "/version": VERSION,
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [
                {"name": group, "versions": [{"groupVersion": f"{group}/{version}", "version": version}]}
                for group, version in groups
            ],
        },
        **lists,
    }


def _failure(reason: str, code: int) -> dict[str, Any]:
    return {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code,
    }  # fmt: skip


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Cluster

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        if path in self.server.forbidden:
            self._send(403, _failure("Forbidden", 403))
        elif path in self.server.objects:
            self._send(200, self.server.objects[path])
        else:
            self._send(404, _failure("NotFound", 404))

    def _send(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the test's output is for the test."""


class Cluster(ThreadingHTTPServer):
    """Path -> object, served on a free loopback port; ``asked`` are the paths that were read, ``forbidden`` get 403."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Api)
        self.asked: list[str] = []
        self.forbidden: set[str] = set()
        self.objects = _discovery()

    def store(self, secret: dict[str, Any], namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/secrets/{secret['metadata']['name']}"
        self.objects[path] = {**secret, "metadata": {**secret["metadata"], "namespace": namespace}}

    def write_kubeconfig(self, file: Path) -> Path:
        """A kubeconfig (JSON is YAML) that leads here."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}],
            "users": [{"name": "here", "user": {}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "here"}}],
        }
        file.write_text(json.dumps(config), "utf-8")
        return file


@contextmanager
def served(server: ThreadingHTTPServer) -> Iterator[None]:
    """``server`` answers from a thread of its own until the end of the block."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
