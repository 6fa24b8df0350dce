"""The objects that the operator wants: valid for old and new clusters, complete, and never more than asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway import settings
from sluice_operator.api import MODEL_VERSION, OWNER, TRACK, Apis, Manifest
from sluice_operator.manifests import desired, secrets
from sluice_operator.service import CanaryPlan, Documents, Situation
from tests.deploy.operator.services import CANARY, EVERYTHING, NEW, OLD, SMALL, SPECS, service
from tests.deploy.test_chart import CUSTOM, unknown_keys

PLAN = CanaryPlan(weight=20, replicas=1)
DOCUMENTS = Documents({"policy": {"input": True}}, {"key": {"requests_per_minute": 60}})


def made(spec: Mapping[str, Any], apis: Apis = NEW, plan: CanaryPlan | None = None) -> list[Manifest]:
    documents = DOCUMENTS if "guard" in spec else Documents()
    return desired(service(spec, documents=documents), Situation(apis, plan))


def one(objects: list[Manifest], kind: str, name: str = "demo") -> Manifest:
    (found,) = (item for item in objects if item["kind"] == kind and item["metadata"]["name"] == name)
    return found


def kinds(objects: list[Manifest]) -> set[str]:
    return {item["kind"] for item in objects}


@pytest.mark.parametrize("version", ["1.25", "1.30", "1.36"])
@pytest.mark.parametrize("name", SPECS)
def test_objects_are_valid_kubernetes(name: str, version: str) -> None:
    native = [item for item in made(SPECS[name], plan=PLAN) if item["kind"] not in CUSTOM]
    assert [kubernetes_validate.validate(item, version, strict=True) for item in native] == [version] * len(native)


def test_objects_of_custom_kinds_have_only_keys_of_their_crds() -> None:
    objects = [item for item in made(EVERYTHING, plan=PLAN) if item["kind"] in CUSTOM]
    assert kinds(objects) == {"ScaledObject", "HTTPRoute", "ServiceMonitor"}
    more = {
        "ServiceMonitor": {"spec": {"selector", "podTargetLabels", "endpoints"}},
        "HTTPRoute": {"spec.rules.backendRefs": {"name", "port", "weight"}},
    }
    for item in objects:
        assert list(unknown_keys(item, {**CUSTOM[item["kind"]], **more.get(item["kind"], {})})) == []


@pytest.mark.parametrize("name", SPECS)
def test_every_object_is_owned_and_no_name_is_made_twice(name: str) -> None:
    objects = made(SPECS[name], plan=PLAN)
    for item in objects:
        (owner,) = item["metadata"]["ownerReferences"]
        assert (owner["uid"], item["metadata"]["labels"][OWNER], item["metadata"]["namespace"]) == (
            "5f0c", "5f0c", "models",
        )  # fmt: skip
    assert len({(item["kind"], item["metadata"]["name"]) for item in objects}) == len(objects)


@pytest.mark.parametrize("name", SPECS)
def test_every_name_an_object_refers_to_exists(name: str) -> None:
    objects = made(SPECS[name], plan=PLAN)
    there = {(item["kind"], item["metadata"]["name"]) for item in objects}
    for item in objects:
        if item["kind"] != "Deployment":
            continue
        pod = item["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == volumes.keys()
        assert ("ConfigMap", volumes["config"]["configMap"]["name"]) in there
        assert ("ServiceAccount", pod["serviceAccountName"]) in there
        assert item["spec"]["selector"]["matchLabels"].items() <= item["spec"]["template"]["metadata"]["labels"].items()
    for item in objects:
        if item["kind"] == "HTTPRoute":
            for backend in item["spec"]["rules"][0]["backendRefs"]:
                assert ("Service", backend["name"]) in there


def test_the_two_sets_of_pods_are_told_apart_and_one_service_has_both() -> None:
    objects = made(CANARY, plan=PLAN)
    stable, canary = one(objects, "Deployment"), one(objects, "Deployment", "demo-canary")
    labels = [item["spec"]["template"]["metadata"]["labels"] for item in (stable, canary)]
    assert [(label[TRACK], label[MODEL_VERSION]) for label in labels] == [("stable", "v1"), ("canary", "v2")]
    assert not stable["spec"]["selector"]["matchLabels"].items() <= labels[1].items()
    assert all(one(objects, "Service")["spec"]["selector"].items() <= label.items() for label in labels)
    assert (stable["spec"]["replicas"], canary["spec"]["replicas"]) == (4, 1)


def test_without_a_plan_there_is_no_canary() -> None:
    assert [item["metadata"]["name"] for item in made(CANARY) if item["kind"] == "Deployment"] == ["demo"]


def test_the_canary_answers_to_the_same_name_with_its_own_model() -> None:
    objects = made(CANARY, plan=PLAN)
    trees = [yaml.safe_load(one(objects, "ConfigMap", name)["data"]["sluice.yaml"]) for name in ("demo", "demo-canary")]
    assert [tree["served_model_name"] for tree in trees] == ["demo", "demo"]
    assert [tree["model"] for tree in trees] == ["sample:smollm2-135m-instruct", "/models/next"]


def test_a_route_splits_by_weight_between_the_services_of_the_two() -> None:
    backends = one(made(EVERYTHING, plan=PLAN), "HTTPRoute")["spec"]["rules"][0]["backendRefs"]
    assert [(item["name"], item["weight"]) for item in backends] == [("demo-stable", 80), ("demo-canary", 20)]
    (alone,) = one(made(EVERYTHING), "HTTPRoute")["spec"]["rules"][0]["backendRefs"]
    assert (alone["name"], alone["weight"]) == ("demo-stable", 100)


def test_whoever_scales_owns_the_number_of_pods() -> None:
    scaled = {**SMALL, "autoscaling": {"maxReplicas": 5}}
    assert "replicas" not in one(made(scaled), "Deployment")["spec"]
    assert one(made(SMALL), "Deployment")["spec"]["replicas"] == 1
    assert one(made({**SMALL, "replicas": 0}), "Deployment")["spec"]["replicas"] == 0
    for apis, version in ((NEW, "autoscaling/v2"), (OLD, "autoscaling/v2beta2")):
        scaler = one(made(scaled, apis), "HorizontalPodAutoscaler")
        assert (scaler["apiVersion"], scaler["spec"]["maxReplicas"]) == (version, 5)
        assert scaler["spec"]["scaleTargetRef"]["name"] == "demo"


def test_what_the_cluster_cannot_have_is_left_out_and_the_rest_is_made() -> None:
    objects = made(EVERYTHING, OLD, PLAN)
    assert kinds(objects) == {"ServiceAccount", "ConfigMap", "Service", "Deployment", "PodDisruptionBudget"}
    assert one(objects, "PodDisruptionBudget")["apiVersion"] == "policy/v1beta1"
    assert [item["metadata"]["name"] for item in objects if item["kind"] == "Service"] == ["demo"]


def test_one_service_is_scraped_and_the_version_becomes_a_label() -> None:
    objects = made(EVERYTHING, plan=PLAN)
    monitor = one(objects, "ServiceMonitor")["spec"]
    chosen = [
        item["metadata"]["name"]
        for item in objects
        if item["kind"] == "Service"
        and monitor["selector"]["matchLabels"].items() <= item["metadata"]["labels"].items()
    ]
    assert (chosen, monitor["podTargetLabels"]) == (["demo"], [MODEL_VERSION])


@pytest.mark.parametrize("name", SPECS)
def test_sluice_itself_accepts_what_the_operator_gives_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = made(SPECS[name], plan=PLAN)
    for item in objects:
        if item["kind"] != "Deployment":
            continue
        (container,) = item["spec"]["template"]["spec"]["containers"]
        for entry in container["env"]:
            if "value" in entry:
                monkeypatch.setenv(entry["name"], entry["value"].replace("$(POD_IP)", "10.1.2.3"))
        file = tmp_path / f"{item['metadata']['name']}.yaml"
        file.write_text(one(objects, "ConfigMap", item["metadata"]["name"])["data"]["sluice.yaml"], "utf-8")
        loaded = settings.load(file)
        assert (loaded.host, loaded.port, loaded.allow_no_auth, loaded.dev) == ("0.0.0.0", 8000, False, False)
        if name == "everything":
            assert loaded.limits.replicas == 7
            assert loaded.limits.key.requests_per_minute == 60
            assert (loaded.metrics_need_key, loaded.adapters.listed[0].name) == (True, "support")


def test_secrets_of_yours_are_used_and_none_is_made() -> None:
    assert secrets(service(SMALL)) == [("demo-api-key", "api-key"), ("demo-deployment", "secret")]
    own = {**SMALL, "auth": {name: {"name": "mine", "key": name} for name in ("apiKey", "deploymentSecret")}}
    assert secrets(service(own)) == []
    volumes = one(made(own), "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert {"secretName": "mine", "defaultMode": 0o440, "items": [{"key": "apiKey", "path": "api-key"}]} in [
        volume.get("secret") for volume in volumes
    ]


def test_pods_are_replaced_when_their_settings_change_and_only_then() -> None:
    def template(spec: Mapping[str, Any]) -> Manifest:
        found: Manifest = one(made(spec), "Deployment")["spec"]["template"]
        return found

    assert template(SMALL) == template({**SMALL, "replicas": 3}) == template({**SMALL, "port": 80})
    assert template(SMALL) != template({**SMALL, "config": {"log": {"level": "debug"}}})


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "replicas": st.integers(0, 1000),
            "route": st.just({"parentRefs": [{"name": "g"}]}),
            "port": st.integers(1, 65535),
            "canary": st.just({"version": "v2"}),
            "redis": st.just({"name": "r", "key": "url"}),
        },
    ),
    st.sets(st.sampled_from(sorted(NEW.served - {"v1", "apps/v1"}))),
    st.one_of(st.none(), st.builds(CanaryPlan, st.integers(0, 99), st.integers(0, 50))),
)
def test_for_any_specification_and_cluster(spec: dict[str, Any], more: set[str], plan: CanaryPlan | None) -> None:
    """Equal input gives equal objects; nothing is made of an API that is not there; what is put behind others fits."""
    apis = Apis(frozenset({"v1", "apps/v1"} | more))
    whole = {**SMALL, "metrics": {"prometheusURL": "http://p"}, **spec}
    objects = made(whole, apis, plan)
    assert objects == made(whole, apis, plan)
    assert {item["apiVersion"] for item in objects} <= apis.served
    for item in objects:
        if item["kind"] == "HTTPRoute":
            assert sum(backend["weight"] for backend in item["spec"]["rules"][0]["backendRefs"]) == 100
    canaries = [item for item in objects if item["metadata"]["name"] == "demo-canary" and item["kind"] == "Deployment"]
    assert len(canaries) == int("canary" in spec and plan is not None)
