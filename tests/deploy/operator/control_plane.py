"""A real etcd, kube-apiserver and kube-controller-manager on loopback. No node: pods stay as the tests make them."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.deploy.helm import ROOT

TOKEN: Final = "for-the-tests"
#: Far beyond what a busy machine needs; only a fault makes anybody wait so long.
PATIENCE: Final = 120.0
ISVC: Final = "/apis/serving.sluice.dev/v1alpha1/namespaces/{}/inferenceservices"
Object = dict[str, Any]


def binaries() -> Path | None:
    """Where scripts/kube-tools.sh keeps what it built; None when it is not there."""
    if subprocess.run([ROOT / "scripts" / "kube-tools.sh", "--have"], check=False, timeout=60).returncode:
        return None
    version = (ROOT / "scripts" / "kube-tools.sh").read_text().split("\nversion=", 1)[1].split("\n", 1)[0]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluice-kube"
    return Path(os.environ.get("SLUICE_KUBE_CACHE") or cache) / version


def wait_for(seen: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The first true answer. Fails after ``patience`` seconds."""
    end = time.monotonic() + patience
    while not (found := seen()):
        assert time.monotonic() < end, f"waited {patience:g} s for {what}"
        time.sleep(0.1)
    return found


def watched(look: Callable[[], Any], seconds: float = 2.0) -> set[Any]:
    """All that is seen within ``seconds``."""
    end, seen = time.monotonic() + seconds, set()
    while time.monotonic() < end:
        seen.add(look())
        time.sleep(0.1)
    return seen


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def kubeconfig(file: Path, server: str, token: str = TOKEN) -> Path:
    file.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "x",
                "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
                "users": [{"name": "u", "user": {"token": token}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            }
        ),
        "utf-8",
    )
    return file


@dataclass(frozen=True)
class ControlPlane:
    """Its address, a kubeconfig, and plain verbs for the tests, which never go through the operator's client."""

    server: str
    config: Path
    client: httpx.Client

    def ask(self, method: str, path: str, body: Object | None = None, **more: Any) -> Object:
        response = self.client.request(method, path, json=body, **more)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        found: Object = response.json()
        return found

    def find(self, path: str) -> Object | None:
        response = self.client.get(path)
        assert response.status_code in (200, 404), response.text
        return response.json() if response.status_code == 200 else None

    def patch(self, path: str, body: Object) -> Object:
        return self.ask("PATCH", path, body, headers={"Content-Type": "application/merge-patch+json"})

    def namespace(self, name: str) -> Namespace:
        self.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        return Namespace(self, name)


@dataclass(frozen=True)
class Namespace:
    """One test's own corner of the cluster."""

    plane: ControlPlane
    name: str

    def path(self, plural: str, name: str = "") -> str:
        root = {"deployments": "/apis/apps/v1", "replicasets": "/apis/apps/v1",
                "horizontalpodautoscalers": "/apis/autoscaling/v2beta2",
                "poddisruptionbudgets": "/apis/policy/v1beta1",
                "inferenceservices": "/apis/serving.sluice.dev/v1alpha1"}.get(plural, "/api/v1")  # fmt: skip
        return f"{root}/namespaces/{self.name}/{plural}" + (f"/{name}" if name else "")

    def make(self, name: str, spec: Mapping[str, Any]) -> Object:
        body = {
            "apiVersion": "serving.sluice.dev/v1alpha1", "kind": "InferenceService",
            "metadata": {"name": name}, "spec": dict(spec),
        }  # fmt: skip
        return self.plane.ask("POST", self.path("inferenceservices"), body)

    def change(self, name: str, **spec: Any) -> Object:
        return self.plane.patch(self.path("inferenceservices", name), {"spec": spec})

    def find(self, plural: str, name: str) -> Object | None:
        return self.plane.find(self.path(plural, name))

    def get(self, plural: str, name: str) -> Object:
        return self.plane.ask("GET", self.path(plural, name))

    def await_(self, plural: str, name: str, seen: Callable[[Object], Any] = bool) -> Object:
        """The object when it is there and ``seen`` is true of it."""

        def look() -> Object | None:
            found = self.find(plural, name)
            return found if found is not None and seen(found) else None

        found: Object = wait_for(look, f"{plural}/{name}")
        return found

    def gone(self, plural: str, name: str) -> None:
        wait_for(lambda: self.find(plural, name) is None, f"{plural}/{name} to be gone")

    def names(self, plural: str) -> set[str]:
        return {item["metadata"]["name"] for item in self.plane.ask("GET", self.path(plural))["items"]}

    def condition(self, name: str, kind: str) -> Object:
        status = self.get("inferenceservices", name).get("status", {})
        return next((item for item in status.get("conditions", []) if item["type"] == kind), {})

    def await_condition(self, name: str, kind: str, status: str, reason: str = "") -> Object:
        def look() -> Object | None:
            found = self.condition(name, kind)
            return found if found.get("status") == status and reason in found["reason"] else None

        found: Object = wait_for(look, f"{name} to be {kind}={status} {reason}")
        return found

    def pods(self, track: str = "stable") -> list[Object]:
        selector = {"labelSelector": f"serving.sluice.dev/track={track}"}
        items: list[Object] = self.plane.ask("GET", self.path("pods"), params=selector)["items"]
        return items

    def start_pods(self, track: str = "stable") -> int:
        """What a kubelet would do: all pods run and are ready. How many there are."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        pods = self.pods(track)
        for pod in pods:
            condition = {"type": "Ready", "status": "True", "lastTransitionTime": now}
            response = self.plane.client.patch(
                self.path("pods", pod["metadata"]["name"]) + "/status",
                json={"status": {"phase": "Running", "conditions": [condition]}},
                headers={"Content-Type": "application/merge-patch+json"},
            )
            assert response.status_code in (200, 404, 409), response.text
        return len(pods)


@contextmanager
def process(arguments: list[str | Path], folder: Path, name: str, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its log in ``folder``; ended at the end of the block."""
    with (folder / f"{name}.log").open("ab") as log:
        started = subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=subprocess.STDOUT, **more)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextmanager
def running(folder: Path, tools: Path) -> Iterator[ControlPlane]:
    """A control plane in ``folder``."""
    etcd, peer, secure = free_port(), free_port(), free_port()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "sa.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    (folder / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
    server = f"https://127.0.0.1:{secure}"
    config = kubeconfig(folder / "kubeconfig", server)
    store: list[str | Path] = [
        tools / "etcd", "--data-dir", folder / "etcd", "--unsafe-no-fsync",
        "--listen-client-urls", f"http://127.0.0.1:{etcd}", "--advertise-client-urls", f"http://127.0.0.1:{etcd}",
        "--listen-peer-urls", f"http://127.0.0.1:{peer}",
        "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}", "--initial-cluster", f"default=http://127.0.0.1:{peer}",
    ]  # fmt: skip
    api: list[str | Path] = [
        tools / "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{etcd}", f"--secure-port={secure}",
        "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--cert-dir={folder / 'certs'}",
        "--token-auth-file=tokens.csv", "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16",
        "--service-account-key-file=sa.key", "--service-account-signing-key-file=sa.key",
        "--service-account-issuer=https://kubernetes.default.svc",
    ]  # fmt: skip
    controllers: list[str | Path] = [
        tools / "kube-controller-manager", f"--kubeconfig={config}", "--service-account-private-key-file=sa.key",
        "--leader-elect=false", "--bind-address=127.0.0.1", "--port=0", f"--secure-port={free_port()}",
        f"--cert-dir={folder / 'certs-kcm'}", "--horizontal-pod-autoscaler-sync-period=1s",
        "--controllers=*,-nodeipam,-route,-cloud-node-lifecycle,-service",
    ]  # fmt: skip
    with (
        process(store, folder, "etcd"),
        process(api, folder, "apiserver"),
        httpx.Client(
            base_url=server, verify=False, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30, trust_env=False
        ) as client,
    ):
        plane = ControlPlane(server, config, client)

        def ready() -> bool:
            try:
                return client.get("/readyz").status_code == 200
            except httpx.HTTPError:
                return False

        wait_for(ready, "the API server")
        with process(controllers, folder, "controllers"):
            # A service account in the default namespace is the controllers' first sign of life.
            wait_for(lambda: plane.find("/api/v1/namespaces/default/serviceaccounts/default"), "the controllers")
            yield plane
