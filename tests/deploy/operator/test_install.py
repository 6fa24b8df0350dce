"""The manifests that install the operator."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from sluice_operator.api import KINDS
from tests.deploy.helm import ROOT
from tests.deploy.operator.control_plane import Namespace
from tests.deploy.operator.services import SMALL

MANIFESTS = ROOT / "deploy" / "operator" / "manifests"


@pytest.mark.parametrize("version", ["1.25", "1.30", "1.36"])
def test_kustomize_builds_valid_objects(tools: Path, version: str) -> None:
    text = subprocess.run(
        [tools / "kubectl", "kustomize", MANIFESTS], check=True, capture_output=True, timeout=60
    ).stdout
    objects = list(yaml.safe_load_all(text))
    assert {item["kind"] for item in objects} == {
        "Namespace", "CustomResourceDefinition", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Deployment",
    }  # fmt: skip
    assert [kubernetes_validate.validate(item, version, strict=True) for item in objects] == [version] * len(objects)


def test_the_operator_may_do_what_it_does_and_nothing_else() -> None:
    role, _ = yaml.safe_load_all((MANIFESTS / "rbac.yaml").read_text("utf-8"))
    assert "*" not in json.dumps(role)
    rights = {
        (group, plural): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for plural in rule["resources"]
    }
    for kind in KINDS:
        group = kind.versions[0].rpartition("/")[0]
        assert rights[group, kind.plural] >= {"get", "list", "create", "patch", "delete"}


def test_its_pod_runs_without_rights() -> None:
    deployment = next(
        item
        for item in yaml.safe_load_all((MANIFESTS / "operator.yaml").read_text("utf-8"))
        if item["kind"] == "Deployment"
    )
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip


@pytest.mark.slow
def test_it_was_never_forbidden_anything(namespace: Namespace, operator: Path) -> None:
    namespace.make("demo", {**SMALL, "autoscaling": {}})
    namespace.await_condition("demo", "Reconciled", "True")
    namespace.plane.ask("DELETE", namespace.path("inferenceservices", "demo"))
    namespace.gone("inferenceservices", "demo")
    log = operator.read_text("utf-8")
    assert "forbidden" not in log.lower()
