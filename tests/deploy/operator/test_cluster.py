"""The operator on a real API server with real controllers: makes, changes, scales, heals, and removes all."""

from __future__ import annotations

import base64
import re
import time
from typing import Any

import pytest

from tests.deploy.operator.control_plane import ISVC, ControlPlane, Namespace, Object, wait_for, watched
from tests.deploy.operator.faults import FaultyProxy
from tests.deploy.operator.services import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
PLURALS = ("deployments", "services", "configmaps", "secrets", "serviceaccounts", "poddisruptionbudgets",
           "horizontalpodautoscalers")  # fmt: skip


def ours(namespace: Namespace) -> dict[str, set[str]]:
    """Names by kind, without what Kubernetes puts into every namespace."""
    found = {plural: namespace.names(plural) for plural in PLURALS}
    found["serviceaccounts"] -= {"default"}
    found["secrets"] = {name for name in found["secrets"] if "-token-" not in name}
    found["configmaps"] -= {"kube-root-ca.crt"}
    return found


def replicas(deployment: Object) -> int:
    count: int = deployment["spec"]["replicas"]
    return count


def test_a_service_becomes_its_objects_and_says_when_it_is_ready(namespace: Namespace) -> None:
    namespace.make("demo", {**SMALL, "replicas": 2})
    namespace.await_condition("demo", "Valid", "True")
    namespace.await_condition("demo", "Ready", "False", "NoPodReady")
    namespace.await_("deployments", "demo", lambda item: item.get("status", {}).get("replicas") == 2)
    namespace.start_pods()
    namespace.await_condition("demo", "Ready", "True")
    namespace.await_condition("demo", "Progressing", "False", "Complete")
    assert ours(namespace) == {
        "deployments": {"demo"}, "services": {"demo"}, "configmaps": {"demo"}, "serviceaccounts": {"demo"},
        "secrets": {"demo-api-key", "demo-deployment"}, "poddisruptionbudgets": {"demo"},
        "horizontalpodautoscalers": set(),
    }  # fmt: skip
    status = namespace.get("inferenceservices", "demo")["status"]
    assert (status["replicas"], status["readyReplicas"], status["version"]) == (2, 2, "v1")
    key = base64.b64decode(namespace.get("secrets", "demo-api-key")["data"]["api-key"]).decode()
    assert re.fullmatch(r"sk-[a-z0-9]{12}-[A-Za-z0-9]{43}", key)
    selector = namespace.get("services", "demo")["spec"]["selector"]
    assert all(selector.items() <= pod["metadata"]["labels"].items() for pod in namespace.pods())


def test_nothing_is_written_while_nothing_changes(namespace: Namespace, proxy: FaultyProxy) -> None:
    namespace.make("demo", SMALL)
    namespace.await_condition("demo", "Ready", "False", "NoPodReady")
    time.sleep(2)
    before = {plural: namespace.get(plural, "demo") for plural in ("deployments", "services", "inferenceservices")}
    looks = len(proxy.asked)
    wait_for(lambda: len([1 for method, path in proxy.asked[looks:] if path.endswith("/demo")]) > 12, "some looks")
    after = {plural: namespace.get(plural, "demo") for plural in before}
    versions = [{kind: item["metadata"]["resourceVersion"] for kind, item in seen.items()} for seen in (before, after)]
    assert versions[0] == versions[1]


def test_changes_reach_the_pods_and_what_is_deleted_by_hand_comes_back(namespace: Namespace) -> None:
    namespace.make("demo", SMALL)
    first = namespace.await_("deployments", "demo")
    namespace.change(
        "demo", replicas=3, config={"log": {"level": "debug"}}, adapters=[{"name": "a", "source": "hub:x/a"}]
    )
    changed = namespace.await_("deployments", "demo", lambda item: replicas(item) == 3)
    sums = [item["spec"]["template"]["metadata"]["annotations"]["checksum/config"] for item in (first, changed)]
    assert sums[0] != sums[1]
    assert "hub:x/a" in namespace.get("configmaps", "demo")["data"]["sluice.yaml"]

    namespace.plane.ask("DELETE", namespace.path("services", "demo"))
    namespace.plane.ask("DELETE", namespace.path("deployments", "demo"))
    made = namespace.await_("deployments", "demo", lambda item: item["metadata"]["uid"] != first["metadata"]["uid"])
    namespace.await_("services", "demo")
    assert replicas(made) == 3


def test_the_scale_subresource_scales(namespace: Namespace) -> None:
    namespace.make("demo", {**SMALL, "replicas": 1})
    namespace.await_("deployments", "demo")
    namespace.plane.patch(namespace.path("inferenceservices", "demo") + "/scale", {"spec": {"replicas": 4}})
    namespace.await_("deployments", "demo", lambda item: replicas(item) == 4)


def test_there_is_no_fight_with_the_autoscaler(namespace: Namespace) -> None:
    namespace.make("demo", {**SMALL, "replicas": 2})
    namespace.await_("deployments", "demo", lambda item: replicas(item) == 2)
    # The number is handed over, not dropped: it would be one again until the autoscaler looks.
    namespace.change("demo", replicas=None, autoscaling={"minReplicas": 2, "maxReplicas": 6})
    namespace.await_("horizontalpodautoscalers", "demo")
    assert watched(lambda: replicas(namespace.get("deployments", "demo"))) == {2}
    # Kubernetes' own autoscaler: it has no metrics here, but holds its bounds.
    namespace.change("demo", autoscaling={"minReplicas": 3, "maxReplicas": 6})
    namespace.await_("deployments", "demo", lambda item: replicas(item) == 3)
    # Whatever number it chooses stays, over any change of ours.
    namespace.plane.patch(namespace.path("deployments", "demo") + "/scale", {"spec": {"replicas": 5}})
    namespace.change("demo", config={"log": {"level": "debug"}})
    namespace.await_("configmaps", "demo", lambda item: "debug" in item["data"]["sluice.yaml"])
    assert watched(lambda: replicas(namespace.get("deployments", "demo"))) == {5}
    namespace.await_condition("demo", "Autoscaling", "True")
    # And back: the number is ours again, and the autoscaler goes.
    namespace.change("demo", autoscaling=None, replicas=1)
    namespace.gone("horizontalpodautoscalers", "demo")
    namespace.await_("deployments", "demo", lambda item: replicas(item) == 1)


def test_what_cannot_be_is_refused_and_what_runs_goes_on(namespace: Namespace) -> None:
    response = namespace.plane.client.post(
        ISVC.format(namespace.name),
        json={"apiVersion": "serving.sluice.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": "demo"},
              "spec": {**SMALL, "replicas": -1}},
    )  # fmt: skip
    assert response.status_code == 422
    assert "spec.replicas" in response.text
    namespace.make("demo", {**SMALL, "replicas": 2})
    before = namespace.await_("deployments", "demo")
    # This server is too old for CEL, so the operator is the one to say it.
    namespace.change("demo", autoscaling={}, config={"log": {"level": "debug"}})
    said = namespace.await_condition("demo", "Valid", "False", "Invalid")
    assert "choose one" in said["message"]
    after = namespace.get("deployments", "demo")
    assert (after["metadata"]["uid"], after["spec"]) == (before["metadata"]["uid"], before["spec"])
    namespace.change("demo", autoscaling=None)
    namespace.await_condition("demo", "Valid", "True")
    # What only the server can know is said in its own words.
    namespace.change("demo", resources={"requests": {"memory": "9Gi"}, "limits": {"memory": "8Gi"}})
    said = namespace.await_condition("demo", "Valid", "False", "Refused")
    assert "must be less than or equal to memory limit" in said["message"]


def test_guard_and_limits_come_from_config_maps(namespace: Namespace) -> None:
    namespace.make("demo", {**SMALL, "guard": {"name": "policies", "key": "guard"}})
    said = namespace.await_condition("demo", "Valid", "False", "ReferenceMissing")
    assert "policies" in said["message"]
    assert namespace.find("deployments", "demo") is None
    body = {"metadata": {"name": "policies"}, "data": {"guard": "policy: {input: true}"}}
    namespace.plane.ask("POST", namespace.path("configmaps"), body)
    namespace.await_condition("demo", "Valid", "True")
    namespace.await_("configmaps", "demo", lambda item: "input: true" in item["data"]["sluice.yaml"])
    # A change there is a change here: pods are replaced.
    namespace.plane.patch(namespace.path("configmaps", "policies"), {"data": {"guard": "policy: {output: true}"}})
    namespace.await_("configmaps", "demo", lambda item: "output: true" in item["data"]["sluice.yaml"])


def test_nothing_of_somebody_elses_is_taken_over(namespace: Namespace) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "demo"}, "data": {"mine": "yes"}}
    namespace.plane.ask("POST", namespace.path("configmaps"), body)
    namespace.make("demo", SMALL)
    namespace.await_condition("demo", "Valid", "False", "NameTaken")
    assert namespace.get("configmaps", "demo")["data"] == {"mine": "yes"}
    namespace.plane.ask("DELETE", namespace.path("inferenceservices", "demo"))
    namespace.gone("inferenceservices", "demo")
    assert namespace.get("configmaps", "demo")["data"] == {"mine": "yes"}


def test_deleting_leaves_nothing_and_touches_nobody_else(namespace: Namespace) -> None:
    scaled: dict[str, Any] = {**SMALL, "autoscaling": {"minReplicas": 2}}
    namespace.make("demo", scaled)
    namespace.make("other", SMALL)
    for name in ("demo", "other"):
        namespace.await_("deployments", name, lambda item: item.get("status", {}).get("replicas"))
    namespace.plane.ask("DELETE", namespace.path("inferenceservices", "demo"))
    namespace.gone("inferenceservices", "demo")
    # The finalizer went last: nothing has to be waited for.
    assert ours(namespace) == {
        "deployments": {"other"}, "services": {"other"}, "configmaps": {"other"}, "serviceaccounts": {"other"},
        "secrets": {"other-api-key", "other-deployment"}, "poddisruptionbudgets": {"other"},
        "horizontalpodautoscalers": set(),
    }  # fmt: skip
    assert {pod["metadata"]["labels"]["app.kubernetes.io/instance"] for pod in namespace.pods()} == {"other"}


def test_the_table_of_kubectl_has_our_columns(namespace: Namespace, plane: ControlPlane) -> None:
    namespace.make("demo", SMALL)
    namespace.await_condition("demo", "Ready", "False")
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
    table = plane.ask("GET", namespace.path("inferenceservices"), headers={"Accept": accept})
    assert [column["name"] for column in table["columnDefinitions"]] == [
        "Name", "Model", "Version", "Ready", "Pods", "Canary", "Age",
    ]  # fmt: skip
    assert table["rows"][0]["cells"][:4] == ["demo", "sample:smollm2-135m-instruct", "v1", "False"]
