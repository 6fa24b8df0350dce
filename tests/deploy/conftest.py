from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.deploy.cluster import Cluster, served
from tests.deploy.helm import ROOT, Helm


@pytest.fixture(scope="session")
def tools() -> Path:
    """The folder with helm3, helm4 and kubectl; fetched when they are not there yet."""
    subprocess.run([ROOT / "scripts" / "deploy-tools.sh"], check=True, timeout=170)
    return ROOT / ".cache" / "tools"


@pytest.fixture(scope="session", params=["helm3", "helm4"])
def helm(request: pytest.FixtureRequest, tools: Path) -> Helm:
    """Each of the two majors that people run."""
    return Helm(tools / request.param)


@pytest.fixture(scope="session")
def helm4(tools: Path) -> Helm:
    return Helm(tools / "helm4")


@pytest.fixture(scope="session")
def helm3(tools: Path) -> Helm:
    return Helm(tools / "helm3")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster, served(cluster):
        yield cluster


@pytest.fixture
def connected(helm: Helm, cluster: Cluster, tmp_path: Path) -> Helm:
    """Each major, with the stand-in for a cluster."""
    return replace(helm, kubeconfig=cluster.write_kubeconfig(tmp_path / "kubeconfig"))
