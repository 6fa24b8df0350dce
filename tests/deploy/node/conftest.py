from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.deploy.helm import CHART
from tests.deploy.node.node import Node, from_environment


@pytest.fixture(scope="session")
def node(tools: Path) -> Node:
    """The cluster around us. Skips everywhere else: building it takes half an hour."""
    found = from_environment(tools)
    if found is None:
        pytest.skip("not on a node: scripts/kube-node.sh run .venv/bin/python -m pytest tests/deploy/node")
    return found


@pytest.fixture(scope="session")
def old_chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart, but for the line that says which Kubernetes it is made for: the node is 1.20."""
    copied = Path(shutil.copytree(CHART, tmp_path_factory.mktemp("chart") / "sluice"))
    file = copied / "Chart.yaml"
    file.write_text(file.read_text("utf-8").replace('kubeVersion: ">=1.25.0-0"', 'kubeVersion: ">=1.20.0-0"'), "utf-8")
    return copied
