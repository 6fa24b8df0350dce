"""The operator's pods are the chart's pods: equal wishes render the same, but for names, labels and checksums."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from sluice_operator.api import Manifest
from sluice_operator.manifests import desired
from sluice_operator.service import Situation
from sluice_operator.spec import RESERVED
from tests.deploy.helm import CHART, Helm
from tests.deploy.operator.services import NEW, service

MODEL = {"model": {"source": "sample:smollm2-135m-instruct"}}
WORDS = {"model": "sample:smollm2-135m-instruct", "served_model_name": "demo"}
#: The same wish to the operator and to the chart.
PAIRS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": (MODEL, {"config": WORDS}),
    "hosts and a slow drain": (
        {**MODEL, "config": {"allowed_hosts": ["llm"], "drain_timeout": 90.5}, "health": {"preStopSeconds": 9}},
        {"config": {**WORDS, "allowed_hosts": ["llm"], "drain_timeout": 90.5}, "preStopSleepSeconds": 9},
    ),
    "one GPU": (
        {
            "model": {"source": "Qwen/Qwen3-8B", "name": "qwen3-8b", "engine": {"max_model_len": 16384}},
            "image": {"tag": "0.1.0-gpu", "pullSecrets": ["registry"]},
            "replicas": 2,
            "resources": {"requests": {"cpu": "4", "nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": 1}},
            "health": {"startup": {"periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 360}},
            "storage": {"cacheClaim": "models", "shmSize": "4Gi"},
            "pod": {
                "strategy": "Recreate",
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                "runtimeClassName": "nvidia",
                "env": [{"name": "A", "value": "b"}],
            },
        },
        {
            "config": {"model": "Qwen/Qwen3-8B", "served_model_name": "qwen3-8b", "engine": {"max_model_len": 16384}},
            "image": {"tag": "0.1.0-gpu"},
            "imagePullSecrets": [{"name": "registry"}],
            "replicaCount": 2,
            "resources": {
                "requests": {"cpu": "4", "nvidia.com/gpu": 1, "memory": None},
                "limits": {"nvidia.com/gpu": 1, "memory": None},
            },
            "probes": {"startup": {"failureThreshold": 360}},
            "cache": {"persistence": {"enabled": True, "existingClaim": "models"}},
            "shm": {"sizeLimit": "4Gi"},
            "strategy": {"type": "Recreate"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "runtimeClassName": "nvidia",
            "extraEnv": [{"name": "A", "value": "b"}],
        },
    ),
    "shared and scaled": (
        {
            **MODEL,
            "autoscaling": {"maxReplicas": 7},
            "redis": {"name": "redis", "key": "url"},
            "postgresql": {"name": "database", "key": "dsn"},
            "huggingFaceToken": {"name": "hub", "key": "token"},
        },
        {
            "config": WORDS,
            "autoscaling": {"enabled": True, "maxReplicas": 7},
            "redis": {"existingSecret": {"name": "redis"}},
            "postgresql": {"existingSecret": {"name": "database", "key": "dsn"}},
            "huggingFaceToken": {"existingSecret": "hub"},
        },
    ),
    "an open route": (
        {**MODEL, "route": {"parentRefs": [{"name": "outer"}], "paths": ["/"]}},
        {"config": WORDS, "httpRoute": {"enabled": True, "parentRefs": [{"name": "outer"}], "paths": ["/"]}},
    ),
}


def without_names(deployment: Manifest) -> Manifest:
    """What carries load: the spec without labels and selectors, and with the checksum as a word."""
    spec = {key: value for key, value in deployment["spec"].items() if key != "selector"}
    template = spec["template"]
    annotations = {**template["metadata"]["annotations"], "checksum/config": "of the settings"}
    pod = {**template["spec"]}
    pod["topologySpreadConstraints"] = [
        {key: value for key, value in item.items() if key != "labelSelector"}
        for item in pod["topologySpreadConstraints"]
    ]
    return {**spec, "template": {"annotations": annotations, "spec": pod}}


@pytest.mark.parametrize("name", PAIRS)
def test_the_pods_are_those_of_the_chart(helm4: Helm, name: str) -> None:
    wish, values = PAIRS[name]
    ours = {
        (item["kind"], item["metadata"]["name"]): item for item in desired(service(wish), Situation(NEW, canary=None))
    }
    theirs = helm4.render({"fullnameOverride": "demo", **values}, release="demo")
    assert without_names(ours["Deployment", "demo"]) == without_names(theirs.one("Deployment"))
    settings = [
        yaml.safe_load(item["data"]["sluice.yaml"]) for item in (ours["ConfigMap", "demo"], theirs.one("ConfigMap"))
    ]
    assert settings[0] == settings[1]
    for kind in ("PodDisruptionBudget", "Service"):
        mine, chart = ours[kind, "demo"]["spec"], theirs.one(kind)["spec"]
        assert {**mine, "selector": 0} == {**chart, "selector": 0}


def test_what_the_chart_keeps_for_itself_the_operator_does_too() -> None:
    helpers = (CHART / "templates" / "_helpers.tpl").read_text("utf-8")
    block = helpers.split('"sluice.validate"', 1)[1].split("hasKey", 1)[0]
    assert set(re.findall(r'^\s+"(\w+)" "', block, re.MULTILINE)) <= set(RESERVED)
