"""The chart is well-formed: linted, the same for both helm majors, and valid objects for old and new clusters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import kubernetes_validate
import promql_parser
import pytest
import yaml

from tests.deploy.helm import CHART, EXAMPLES, Helm, Object, Rendered
from tests.deploy.prometheus import RULES
from tests.deploy.scenarios import SCENARIOS, render

#: What our objects of custom kinds may say, by path. Their CRDs are not part of Kubernetes' schemas, and a misspelt key
#: is dropped in silence by the API server. Below a path that is not here anything goes (rules, triggers' metadata).
CUSTOM: Final = {
    # monitoring.coreos.com/v1: ServiceMonitorSpec and Endpoint, PrometheusRuleSpec and Rule
    "ServiceMonitor": {
        "": {"apiVersion", "kind", "metadata", "spec"},
        "spec": {"selector", "endpoints"},
        "spec.selector": {"matchLabels"},
        "spec.endpoints": {"port", "path", "interval", "scrapeTimeout", "authorization"},
        "spec.endpoints.authorization": {"type", "credentials"},
        "spec.endpoints.authorization.credentials": {"name", "key"},
    },
    "PrometheusRule": {
        "": {"apiVersion", "kind", "metadata", "spec"},
        "spec": {"groups"},
        "spec.groups": {"name", "rules"},
        "spec.groups.rules": {"record", "alert", "expr", "for", "labels", "annotations"},
    },
    # keda.sh/v1alpha1: ScaledObjectSpec and ScaleTriggers
    "ScaledObject": {
        "": {"apiVersion", "kind", "metadata", "spec"},
        "spec": {
            "scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod", "fallback",
            "advanced", "triggers",
        },
        "spec.scaleTargetRef": {"name"},
        "spec.fallback": {"failureThreshold", "replicas"},
        "spec.advanced": {"horizontalPodAutoscalerConfig"},
        "spec.advanced.horizontalPodAutoscalerConfig": {"behavior"},
        "spec.triggers": {"type", "name", "metricType", "metadata", "authenticationRef"},
        "spec.triggers.authenticationRef": {"name"},
    },
    # gateway.networking.k8s.io/v1: HTTPRouteSpec
    "HTTPRoute": {
        "": {"apiVersion", "kind", "metadata", "spec"},
        "spec": {"parentRefs", "hostnames", "rules"},
        "spec.parentRefs": {"name", "namespace", "sectionName"},
        "spec.rules": {"matches", "timeouts", "backendRefs"},
        "spec.rules.matches": {"path"},
        "spec.rules.matches.path": {"type", "value"},
        "spec.rules.timeouts": {"request"},
        "spec.rules.backendRefs": {"name", "port"},
    },
}  # fmt: skip


def test_lint_finds_nothing(helm: Helm) -> None:
    for file in [CHART / "values.yaml", *EXAMPLES]:
        assert "0 chart(s) failed" in helm.run("lint", "--strict", CHART, "--values", file)


def without_generated_key(rendered: Rendered) -> list[Object]:
    return [{**item, "data": sorted(item["data"])} if item["kind"] == "Secret" else item for item in rendered.objects]


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
    native = [item for item in render(helm4, scenario).objects if item["kind"] not in CUSTOM]
    assert [kubernetes_validate.validate(item, version, strict=True) for item in native] == [version] * len(native)


def test_the_validator_sees_a_wrong_type_and_an_unknown_key(helm4: Helm) -> None:
    service = helm4.render().one("Service")
    for broken in ({"ports": [{"port": "http"}]}, {"ports": [{"port": 80}], "sellector": {}}):
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate({**service, "spec": broken}, "1.30", strict=True)


def unknown_keys(node: Any, known: Mapping[str, set[str]], path: str = "") -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from unknown_keys(item, known, path)
    elif isinstance(node, dict) and path in known:
        for key, value in node.items():
            below = f"{path}.{key}".lstrip(".")
            if key not in known[path]:
                yield below
            yield from unknown_keys(value, known, below)


@pytest.mark.parametrize("scenario", ["everything", "cluster"])
def test_objects_of_custom_kinds_have_only_keys_of_their_crds(helm4: Helm, scenario: str) -> None:
    objects = [item for item in render(helm4, scenario).objects if item["kind"] in CUSTOM]
    assert len(objects) == {"everything": 1, "cluster": 4}[scenario]
    for item in objects:
        assert list(unknown_keys(item, CUSTOM[item["kind"]])) == []


def test_the_check_of_keys_sees_a_misspelt_one() -> None:
    wrong = {"spec": {"endpoints": [{"prot": "http"}]}}
    assert list(unknown_keys(wrong, CUSTOM["ServiceMonitor"])) == ["spec.endpoints.prot"]


def test_a_service_monitor_selects_the_service(helm4: Helm) -> None:
    rendered = render(helm4, "everything")
    monitor, service = rendered.one("ServiceMonitor"), rendered.one("Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    secret = rendered.one("Secret", "-api-key")
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
    selectors += [
        item["spec"]["podSelector"]["matchLabels"]
        for item in rendered.all("NetworkPolicy")
        if item["metadata"]["labels"]["app.kubernetes.io/component"] == "server"
    ]
    selectors += [item["labelSelector"]["matchLabels"] for item in rendered.pod["topologySpreadConstraints"]]
    for selector in selectors:
        assert selector.items() <= pod_labels
        assert not selector.items() <= test_labels


def test_a_restricted_network_still_lets_the_chart_test_in(helm4: Helm) -> None:
    rendered = render(helm4, "everything")
    (rule,) = rendered.one("NetworkPolicy")["spec"]["ingress"]
    peers = [peer["podSelector"]["matchLabels"] for peer in rule["from"] if "podSelector" in peer]
    assert any(peer.items() <= rendered.one("Pod")["metadata"]["labels"].items() for peer in peers)


def test_rules_and_boards_reach_the_cluster_whole(helm4: Helm) -> None:
    rendered = render(helm4, "cluster")
    groups = [group for file in RULES for group in yaml.safe_load(file.read_text("utf-8"))["groups"]]
    made = rendered.one("PrometheusRule")["spec"]["groups"]
    assert sorted(group["name"] for group in made) == sorted(group["name"] for group in groups)
    said = json.dumps(made, sort_keys=True)
    assert "runbook_url" in said
    assert "docs/runbooks/" not in said
    by_name = {group["name"]: group for group in made}
    for group in groups:
        text = json.dumps(group).replace("docs/runbooks/", "https://wiki.example.org/")
        assert json.loads(text) == by_name[group["name"]]
    boards = {
        name: text
        for item in rendered.all("ConfigMap")
        if item["metadata"]["labels"].get("grafana_dashboard") == "1"
        for name, text in item["data"].items()
    }
    files = sorted((CHART / "dashboards").glob("*.json"))
    assert {name: json.loads(text) for name, text in boards.items()} == {
        f"sluice-{file.name}": json.loads(file.read_text("utf-8")) for file in files
    }


def test_keda_scales_the_deployment_on_what_this_release_exports(helm4: Helm) -> None:
    rendered = render(helm4, "cluster")
    spec = rendered.one("ScaledObject")["spec"]
    assert spec["scaleTargetRef"]["name"] == rendered.one("Deployment")["metadata"]["name"]
    assert "replicas" not in rendered.one("Deployment")["spec"]
    waiting, delay, _own = spec["triggers"]
    for trigger in (waiting, delay):
        promql_parser.parse(trigger["metadata"]["query"])
        assert all(isinstance(value, str) for value in trigger["metadata"].values()), "KEDA takes strings only"
        assert trigger["authenticationRef"] == {"name": "prometheus"}
    assert "vllm:num_requests_waiting" in waiting["metadata"]["query"]
    assert 'pod=~"demo-sluice-.*"' in delay["metadata"]["query"]


def test_extra_objects_are_templates(helm4: Helm) -> None:
    extra = [
        item for item in render(helm4, "cluster").all("ConfigMap") if item["metadata"]["name"] in ("mine", "other")
    ]
    assert [item.get("data") for item in extra] == [{"release": "demo"}, None]


def test_traces_go_to_the_collector_and_name_their_pod(helm4: Helm) -> None:
    rendered = render(helm4, "cluster")
    written = yaml.safe_load(rendered.one("ConfigMap", "demo-sluice")["data"]["sluice.yaml"])
    assert written["tracing"] == {"otlp_endpoint": "https://otel.example.org:4318", "sample_ratio": 0.5}
    environment = {each["name"]: each for each in rendered.container["env"]}
    assert environment["OTEL_EXPORTER_OTLP_HEADERS"]["valueFrom"]["secretKeyRef"] == {"name": "otel", "key": "headers"}
    names = list(environment)
    attributes = environment["OTEL_RESOURCE_ATTRIBUTES"]["value"]
    for name in re.findall(r"\$\((\w+)\)", attributes):
        assert names.index(name) < names.index("OTEL_RESOURCE_ATTRIBUTES"), "Kubernetes fills in what stands before"
    assert "OTEL_RESOURCE_ATTRIBUTES" not in {each["name"] for each in render(helm4, "default").container["env"]}


def test_a_changed_configuration_replaces_pods_unless_they_are_to_read_it(helm4: Helm) -> None:
    def annotations(**values: Any) -> dict[str, str]:
        pod = helm4.render(values).one("Deployment")["spec"]["template"]
        found: dict[str, str] = pod["metadata"]["annotations"]
        return found

    louder = {"log": {"level": "debug"}}
    assert annotations() != annotations(config=louder)
    assert annotations(restartOnConfigChange=False) == annotations(restartOnConfigChange=False, config=louder)
    mounted = next(m for m in helm4.render({}).container["volumeMounts"] if m["name"] == "config")
    assert "subPath" not in mounted, "a file mounted by itself never changes"


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
