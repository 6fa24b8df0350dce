"""The generated key survives an upgrade: helm finds it in the cluster through ``lookup``."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import pytest
import yaml

from tests.deploy.cluster import Cluster
from tests.deploy.helm import CHART, Helm, Object, Refused

NAME = "demo-sluice-api-key"


def rendered_secret(helm: Helm) -> Object:
    text = helm.run(
        "template", "demo", CHART, "--namespace", "models", "--dry-run=server", "--disable-openapi-validation",
        "--show-only", "templates/secret.yaml",
    )  # fmt: skip
    secret: Object = yaml.safe_load(text)
    return secret


def installed(data: Mapping[str, str] | None) -> Object:
    """The Secret as helm leaves it in the cluster: marked as the release's own."""
    owner = {"meta.helm.sh/release-name": "demo", "meta.helm.sh/release-namespace": "models"}
    labels = {"app.kubernetes.io/managed-by": "Helm"}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": NAME, "annotations": owner, "labels": labels},
        "data": data,
    }


def test_an_upgrade_writes_back_the_key_that_the_install_made(connected: Helm, cluster: Cluster) -> None:
    first = rendered_secret(connected)["data"]
    cluster.store(installed(first), "models")
    assert rendered_secret(connected)["data"] == first
    assert f"/api/v1/namespaces/models/secrets/{NAME}" in cluster.asked


def test_a_secret_of_another_namespace_is_not_taken(connected: Helm, cluster: Cluster) -> None:
    first = rendered_secret(connected)["data"]
    cluster.store(installed(first), "elsewhere")
    assert rendered_secret(connected)["data"] != first


@pytest.mark.parametrize("data", [None, {}, {"other": "eA=="}, {"api-key": ""}])
def test_a_secret_without_the_key_gets_one(connected: Helm, cluster: Cluster, data: dict[str, str] | None) -> None:
    cluster.store(installed(data), "models")
    assert base64.b64decode(rendered_secret(connected)["data"]["api-key"]).startswith(b"sk-")


def test_a_cluster_that_refuses_the_look_fails_the_upgrade_and_never_rotates_the_key(
    connected: Helm, cluster: Cluster
) -> None:
    cluster.forbidden.add(f"/api/v1/namespaces/models/secrets/{NAME}")
    with pytest.raises(Refused, match="orbidden"):
        rendered_secret(connected)
