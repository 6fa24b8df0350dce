"""The chart is well-formed: linted, the same for both helm majors, and valid objects for old and new clusters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.helm import CHART, EXAMPLES, Helm, Object, Rendered
from tests.deploy.scenarios import SCENARIOS, render

#: What a ServiceMonitor of ours may say. Its CRD is not part of Kubernetes' schemas, and a misspelt key is dropped
#: in silence by the API server (monitoring.coreos.com/v1, ServiceMonitorSpec and Endpoint).
SERVICE_MONITOR_KEYS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {"selector", "endpoints"},
    "spec.selector": {"matchLabels"},
    "spec.endpoints": {"port", "path", "interval", "scrapeTimeout", "authorization"},
    "spec.endpoints.authorization": {"type", "credentials"},
    "spec.endpoints.authorization.credentials": {"name", "key"},
}


def test_lint_finds_nothing(helm: Helm) -> None:
    for file in [CHART / "values.yaml", *EXAMPLES]:
        assert "0 chart(s) failed" in helm.run("lint", "--strict", CHART, "--values", file)


def without_generated_key(rendered: Rendered) -> list[Object]:
    return [{**item, "data": None} if item["kind"] == "Secret" else item for item in rendered.objects]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_both_majors_render_the_same(helm3: Helm, helm4: Helm, scenario: str) -> None:
    old, new = (
        sorted(without_generated_key(render(helm, scenario)), key=lambda item: (item["kind"], item["metadata"]["name"]))
        for helm in (helm3, helm4)
    )
    assert old == new


@pytest.mark.parametrize("version", ["1.25", "1.30", "1.36"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_objects_are_valid_kubernetes(helm4: Helm, scenario: str, version: str) -> None:
    native = [item for item in render(helm4, scenario).objects if item["kind"] != "ServiceMonitor"]
    assert [kubernetes_validate.validate(item, version, strict=True) for item in native] == [version] * len(native)


def test_the_validator_sees_a_wrong_type_and_an_unknown_key(helm4: Helm) -> None:
    service = helm4.render().one("Service")
    for broken in ({"ports": [{"port": "http"}]}, {"ports": [{"port": 80}], "sellector": {}}):
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate({**service, "spec": broken}, "1.30", strict=True)


def unknown_keys(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from unknown_keys(item, path)
    elif isinstance(node, dict) and path in SERVICE_MONITOR_KEYS:
        for key, value in node.items():
            below = f"{path}.{key}".lstrip(".")
            if key not in SERVICE_MONITOR_KEYS[path]:
                yield below
            yield from unknown_keys(value, below)


def test_a_service_monitor_has_only_keys_of_its_crd_and_selects_the_service(helm4: Helm) -> None:
    rendered = render(helm4, "everything")
    monitor, service = rendered.one("ServiceMonitor"), rendered.one("Service")
    assert list(unknown_keys(monitor)) == []
    assert list(unknown_keys({"spec": {"endpoints": [{"prot": "http"}]}})) == ["spec.endpoints.prot"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    secret = rendered.one("Secret")
    assert endpoint["authorization"]["credentials"]["name"] == secret["metadata"]["name"]
    assert endpoint["authorization"]["credentials"]["key"] in secret["data"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_name_an_object_refers_to_exists(helm4: Helm, scenario: str) -> None:
    rendered = render(helm4, scenario)
    volumes = {volume["name"] for volume in rendered.pod["volumes"]}
    assert {mount["name"] for mount in rendered.container["volumeMounts"]} == volumes
    by_name = {volume["name"]: volume for volume in rendered.pod["volumes"]}
    assert by_name["config"]["configMap"]["name"] == rendered.one("ConfigMap")["metadata"]["name"]
    assert rendered.pod["serviceAccountName"] == rendered.one("ServiceAccount")["metadata"]["name"]
    assert {claim["metadata"]["name"] for claim in rendered.all("PersistentVolumeClaim")} == {
        volume["persistentVolumeClaim"]["claimName"]
        for name, volume in by_name.items()
        if name == "cache" and "persistentVolumeClaim" in volume
    }
    for scaler in rendered.all("HorizontalPodAutoscaler"):
        assert scaler["spec"]["scaleTargetRef"]["name"] == rendered.one("Deployment")["metadata"]["name"]
        assert "replicas" not in rendered.one("Deployment")["spec"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_selectors_take_the_server_and_never_the_test_pod(helm4: Helm, scenario: str) -> None:
    rendered = render(helm4, scenario)
    deployment = rendered.one("Deployment")
    pod_labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    test_labels = rendered.one("Pod")["metadata"]["labels"].items()
    selectors = [deployment["spec"]["selector"]["matchLabels"], rendered.one("Service")["spec"]["selector"]]
    selectors += [item["spec"]["selector"]["matchLabels"] for item in rendered.all("PodDisruptionBudget")]
    selectors += [item["spec"]["podSelector"]["matchLabels"] for item in rendered.all("NetworkPolicy")]
    selectors += [item["labelSelector"]["matchLabels"] for item in rendered.pod["topologySpreadConstraints"]]
    for selector in selectors:
        assert selector.items() <= pod_labels
        assert not selector.items() <= test_labels


def test_a_restricted_network_still_lets_the_chart_test_in(helm4: Helm) -> None:
    rendered = render(helm4, "everything")
    (rule,) = rendered.one("NetworkPolicy")["spec"]["ingress"]
    peers = [peer["podSelector"]["matchLabels"] for peer in rule["from"] if "podSelector" in peer]
    assert any(peer.items() <= rendered.one("Pod")["metadata"]["labels"].items() for peer in peers)


def documented_values() -> dict[str, str]:
    """Dotted key -> the `# --` comment right above it in values.yaml."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in (CHART / "values.yaml").read_text("utf-8").splitlines():
        if text := re.fullmatch(r"\s*# (.*)", line):
            comment = [text[1]] if text[1].startswith("-- ") else [*comment, text[1]]
            continue
        if key := re.match(r"( *)(\w+):", line):
            path = [*(entry for entry in path if entry[0] < len(key[1])), (len(key[1]), key[2])]
            if comment and comment[0].startswith("-- "):
                found[".".join(name for _, name in path)] = " ".join(comment).removeprefix("-- ")
        comment = []
    return found


def leaves(node: Any, documented: dict[str, str], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        below = f"{path}.{key}".lstrip(".")
        if isinstance(value, dict) and value and below not in documented:
            yield from leaves(value, documented, below)
        elif below == "config":
            yield below, {}
            yield from leaves(value, documented, below)
        else:
            yield below, value


def test_every_value_is_documented_where_it_stands_and_in_the_readme() -> None:
    documented = documented_values()
    values = dict(leaves(yaml.safe_load((CHART / "values.yaml").read_text("utf-8")), documented))
    assert values.keys() == documented.keys()
    rows = [
        f"| `{key}` | {f'`{json.dumps(value)}`' if key != 'config' else 'below'} | {documented[key]} |"
        for key, value in values.items()
    ]
    table = [line for line in (CHART / "README.md").read_text("utf-8").splitlines() if line.startswith("| `")]
    table = table[table.index(rows[0]) :]
    assert table == rows
