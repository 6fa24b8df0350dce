"""The chart on a real API server: admitted, upgraded with its keys kept, and removed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.deploy.helm import CHART, Helm
from tests.deploy.operator.control_plane import ControlPlane, Namespace
from tests.deploy.scenarios import EVERYTHING

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
#: What this server is too old for; the rest of each scenario is asked of it as it is.
OLD: Final[dict[str, Any]] = {"podDisruptionBudget": {"enabled": False}, "autoscaling": {"enabled": False}}
SCENARIOS: Final[dict[str, dict[str, Any]]] = {
    "default": {},
    # Classes that a cluster does not have are refused at the pods' admission; ServiceMonitors are another operator's.
    "everything": {
        **EVERYTHING,
        "metrics": {},
        "priorityClassName": "",
        "runtimeClassName": "",
        "cache": {"persistence": {"enabled": True}},
    },
    "with redis and postgresql": {"redis": {"enabled": True}, "postgresql": {"enabled": True}, "replicaCount": 2},
}


@pytest.fixture
def old_chart(tmp_path: Path) -> Path:
    """The chart, but for the line that says which Kubernetes it is made for: the server here is 1.20."""
    copied = Path(shutil.copytree(CHART, tmp_path / "sluice"))
    file = copied / "Chart.yaml"
    text = file.read_text("utf-8")
    assert 'kubeVersion: ">=1.25.0-0"' in text
    file.write_text(text.replace('kubeVersion: ">=1.25.0-0"', 'kubeVersion: ">=1.20.0-0"'), "utf-8")
    return copied


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_install_upgrade_uninstall(helm: Helm, plane: ControlPlane, old_chart: Path, scenario: str) -> None:
    name = f"{helm.binary.name}-{scenario.replace(' ', '-')}"
    corner: Namespace = plane.namespace(name)
    connected = replace(helm, kubeconfig=plane.config)

    def run(verb: str, **values: Any) -> None:
        text = json.dumps({**SCENARIOS[scenario], **OLD, **values})
        connected.run(verb, "demo", old_chart, "--namespace", name, "--values", "-", stdin=text)

    run("install")
    deployment = corner.get("deployments", "demo-sluice")
    key = corner.get("secrets", "demo-sluice-api-key")["data"]
    corner.await_("deployments", "demo-sluice", lambda item: item.get("status", {}).get("replicas"))
    run("upgrade", preStopSleepSeconds=7)
    assert corner.get("secrets", "demo-sluice-api-key")["data"] == key
    changed = corner.get("deployments", "demo-sluice")
    assert changed["metadata"]["uid"] == deployment["metadata"]["uid"]
    assert changed["metadata"]["generation"] > deployment["metadata"]["generation"]
    connected.run("uninstall", "demo", "--namespace", name)
    corner.gone("deployments", "demo-sluice")
    assert corner.find("secrets", "demo-sluice-api-key") is None
