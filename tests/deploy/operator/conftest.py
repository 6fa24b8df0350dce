from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.helm import ROOT
from tests.deploy.operator.control_plane import (
    ControlPlane,
    Namespace,
    binaries,
    kubeconfig,
    process,
    running,
    wait_for,
)
from tests.deploy.operator.faults import FaultyProxy, proxied

MANIFESTS = ROOT / "deploy" / "operator" / "manifests"


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The control plane of the session, with our definition. Skips where it was not built, unless SLUICE_KUBE=1."""
    tools = binaries()
    if tools is None and os.environ.get("SLUICE_KUBE") == "1":
        subprocess.run([ROOT / "scripts" / "kube-tools.sh"], check=True)
        tools = binaries()
    if tools is None:
        pytest.skip("no Kubernetes control plane here: scripts/kube-tools.sh builds it once (or SLUICE_KUBE=1)")
    with running(tmp_path_factory.mktemp("kube"), tools) as plane:
        definition = yaml.safe_load((MANIFESTS / "crd.yaml").read_text("utf-8"))
        plane.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        wait_for(lambda: plane.find("/apis/serving.sluice.dev/v1alpha1"), "the definition to be served")
        yield plane


@pytest.fixture(scope="session")
def proxy(plane: ControlPlane) -> Iterator[FaultyProxy]:
    with proxied(plane.server) as proxy:
        yield proxy


def account_token(plane: ControlPlane) -> str:
    """A token of the operator's service account, after its rights were given to it."""
    core, rbac = "/api/v1/namespaces", "/apis/rbac.authorization.k8s.io/v1"
    paths = {
        "Namespace": core, "ServiceAccount": f"{core}/sluice-operator/serviceaccounts",
        "Deployment": "/apis/apps/v1/namespaces/sluice-operator/deployments",
        "ClusterRole": f"{rbac}/clusterroles", "ClusterRoleBinding": f"{rbac}/clusterrolebindings",
    }  # fmt: skip
    for name in ("operator.yaml", "rbac.yaml"):
        for manifest in yaml.safe_load_all((MANIFESTS / name).read_text("utf-8")):
            plane.ask("POST", paths[manifest["kind"]], manifest)

    def token() -> str | None:
        secrets = plane.ask("GET", f"{core}/sluice-operator/secrets")["items"]
        found = (item for item in secrets if item["metadata"]["name"].startswith("sluice-operator-token-"))
        data: dict[str, str] = next((item.get("data") or {} for item in found), {})
        return base64.b64decode(data["token"]).decode() if "token" in data else None

    answer: str = wait_for(token, "the account's token")
    return answer


@pytest.fixture(scope="session")
def operator(plane: ControlPlane, proxy: FaultyProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The operator as a process of its own, with the rights of its manifests, behind the proxy; the path of its log."""
    folder = tmp_path_factory.mktemp("operator")
    config = kubeconfig(folder / "kubeconfig", proxy.url, account_token(plane))
    environment = {
        **os.environ, "KUBECONFIG": str(config), "PYTHONPATH": str(ROOT / "deploy" / "operator"),
        "SLUICE_OPERATOR_INTERVAL": "1", "SLUICE_OPERATOR_RETRY": "0.5", "SLUICE_OPERATOR_HEALTH_PORT": "0",
    }  # fmt: skip
    with process([sys.executable, "-m", "sluice_operator"], folder, "operator", env=environment):
        yield folder / "operator.log"


@pytest.fixture
def namespace(
    request: pytest.FixtureRequest, plane: ControlPlane, proxy: FaultyProxy, operator: Path
) -> Iterator[Namespace]:
    """A namespace of this test's own, watched by the operator. No fault outlives its test, and no service: the operator
    looks at each every second, which would take half a core from the tests after these.
    """
    name = (
        request.node.name.replace("_", "-")
        .replace("[", "-")
        .replace("]", "")
        .replace(" ", "-")[-60:]
        .strip("-")
        .lower()
    )
    own = plane.namespace(name)
    try:
        yield own
    finally:
        proxy.fault = lambda method, path: None
        plane.ask("DELETE", own.path("inferenceservices"))
