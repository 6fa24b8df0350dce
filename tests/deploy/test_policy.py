"""What the rendered pods may do, how they start and stop, and where the key is."""

from __future__ import annotations

import base64
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import settings
from tests.deploy.helm import Helm, Object, Rendered
from tests.deploy.scenarios import SCENARIOS, render

KEY = re.compile(r"sk-[a-z0-9]{12}-[A-Za-z0-9]{43}")
HOSTS = {"config": {"allowed_hosts": ["llm.example.org", "llm"]}}


@pytest.fixture(params=SCENARIOS)
def rendered(request: pytest.FixtureRequest, helm4: Helm) -> Rendered:
    return render(helm4, request.param)


def pods(rendered: Rendered) -> list[Object]:
    beside = [item["spec"]["template"]["spec"] for item in rendered.all("StatefulSet")]
    return [rendered.pod, rendered.one("Pod")["spec"], *beside]


def test_pods_run_without_rights(rendered: Rendered) -> None:
    for pod in pods(rendered):
        context = pod["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"], context["runAsGroup"]) == (True, 10001, 10001)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
    assert rendered.one("ServiceAccount")["automountServiceAccountToken"] is False


def test_what_must_be_writable_is(rendered: Rendered) -> None:
    mounts = {mount["mountPath"]: mount for mount in rendered.container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in rendered.pod["volumes"]}
    assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory"
    assert "emptyDir" in volumes[mounts["/tmp"]["name"]]
    environment = rendered.environment
    for variable in ("HOME", "XDG_CACHE_HOME", "SLUICE_CACHE_DIR", "SLUICE_STATE_DIR"):
        (above,) = (mount for path, mount in mounts.items() if Path(environment[variable]).is_relative_to(path))
        assert not above.get("readOnly")
    assert mounts["/etc/sluice"]["readOnly"] is True
    assert rendered.pod["securityContext"]["fsGroup"] == 10001


def test_probes_ask_the_three_endpoints_on_the_port_the_container_listens_on(rendered: Rendered) -> None:
    container = rendered.container
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: get["path"] for name, get in probes.items()} == {
        "startup": "/startupz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {ports[get["port"]] for get in probes.values()} == {int(rendered.environment["SLUICE_PORT"])}


def test_a_start_may_take_ten_minutes_and_the_rollout_waits_for_it(rendered: Rendered) -> None:
    startup = rendered.container["startupProbe"]
    longest = startup["periodSeconds"] * startup["failureThreshold"]
    assert longest >= 600
    assert rendered.one("Deployment")["spec"]["progressDeadlineSeconds"] > longest


def grace_and_wait(rendered: Rendered) -> tuple[int, float]:
    command, seconds = rendered.container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    drain = sluice_yaml(rendered)["drain_timeout"]
    return rendered.pod["terminationGracePeriodSeconds"], float(seconds) + float(drain)


def sluice_yaml(rendered: Rendered) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(rendered.one("ConfigMap")["data"]["sluice.yaml"])
    return tree


def test_the_grace_period_outlasts_sleep_and_drain(rendered: Rendered) -> None:
    grace, wait = grace_and_wait(rendered)
    assert grace > wait + 10


@pytest.mark.parametrize(("sleep", "drain"), [(0, 0), (0, 0.01), (5, 29.999), (600, 86_400), (30, 1_000_000 / 16)])
def test_the_grace_period_outlasts_any_sleep_and_drain(helm: Helm, sleep: int, drain: float) -> None:
    grace, wait = grace_and_wait(helm.render({"preStopSleepSeconds": sleep, "config": {"drain_timeout": drain}}))
    assert wait + 10 < grace < wait + 30


def test_the_key_is_a_file_from_a_secret_and_nowhere_else(rendered: Rendered) -> None:
    file = Path(rendered.environment["SLUICE_API_KEY_FILE"])
    (mount,) = (mount for mount in rendered.container["volumeMounts"] if mount["mountPath"] == str(file.parent))
    (volume,) = (volume for volume in rendered.pod["volumes"] if volume["name"] == mount["name"])
    assert mount["readOnly"] is True
    (item,) = volume["secret"]["items"]
    assert item["path"] == file.name
    assert volume["secret"]["defaultMode"] & 0o007 == 0
    for secret in rendered.all("Secret"):
        if secret["metadata"]["name"] != volume["secret"]["secretName"]:
            continue
        key = base64.b64decode(secret["data"][item["key"]]).decode()
        assert KEY.fullmatch(key)
    assert not KEY.search(str([item for item in rendered.objects if item["kind"] != "Secret"]))
    assert "SLUICE_API_KEY" not in rendered.environment


def test_without_a_cluster_each_key_is_new(helm: Helm) -> None:
    first, second = (helm.render().one("Secret", "-api-key")["data"]["api-key"] for _ in range(2))
    assert first != second


def test_an_existing_secret_is_used_and_none_is_made(helm4: Helm) -> None:
    rendered = render(helm4, "own secret")
    assert [secret["metadata"]["name"] for secret in rendered.all("Secret")] == ["demo-sluice-deployment"]
    (volume,) = (volume for volume in rendered.pod["volumes"] if volume["name"] == "api-key")
    assert volume["secret"]["secretName"] == "mine"
    assert volume["secret"]["items"] == [{"key": "token", "path": "api-key"}]


def test_sluice_itself_accepts_what_the_chart_gives_it(
    rendered: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = rendered.container
    assert [*container["command"], *container["args"]] == ["sluice", "serve", "--config", "/etc/sluice/sluice.yaml"]
    for name, value in rendered.environment.items():
        monkeypatch.setenv(name, value.replace("$(POD_IP)", "10.1.2.3"))
    file = tmp_path / "sluice.yaml"
    file.write_text(rendered.one("ConfigMap")["data"]["sluice.yaml"], "utf-8")
    loaded = settings.load(file)
    assert (loaded.host, loaded.port, loaded.allow_no_auth, loaded.dev) == ("0.0.0.0", 8000, False, False)
    assert loaded.drain_timeout == sluice_yaml(rendered)["drain_timeout"]


def test_variables_that_kubernetes_makes_of_a_service_called_sluice_are_kept_out(helm4: Helm) -> None:
    rendered = helm4.render(release="sluice")
    assert rendered.one("Service")["metadata"]["name"] == "sluice"
    assert [pod["enableServiceLinks"] for pod in pods(rendered)] == [False, False]


def test_large_numbers_reach_the_engine_as_they_are(helm: Helm) -> None:
    engine = {"kv_cache_memory_bytes": 4_294_967_296, "seed": 10_000_000, "gpu_memory_utilization": 0.9}
    assert sluice_yaml(helm.render({"config": {"engine": engine}}))["engine"] == engine


def test_probes_need_no_host_header_until_hosts_are_limited(helm4: Helm) -> None:
    rendered = helm4.render()
    assert all("httpHeaders" not in rendered.container[f"{name}Probe"]["httpGet"] for name in PROBES)
    assert "SLUICE_ALLOWED_HOSTS" not in rendered.environment


PROBES = ("startup", "liveness", "readiness")


def test_with_limited_hosts_probes_and_the_chart_test_name_the_first(helm4: Helm) -> None:
    rendered = helm4.render(HOSTS)
    for name in PROBES:
        headers = rendered.container[f"{name}Probe"]["httpGet"]["httpHeaders"]
        assert headers == [{"name": "Host", "value": "llm.example.org"}]
    (test,) = rendered.one("Pod")["spec"]["containers"]
    assert {"name": "TARGET_HOST", "value": "llm.example.org"} in test["env"]


def test_with_limited_hosts_prometheus_may_still_call_the_pod_by_its_ip(helm4: Helm) -> None:
    scraped, unscraped = (helm4.render({**HOSTS, "metrics": {"podAnnotations": on}}) for on in (True, False))
    assert yaml.safe_load(scraped.environment["SLUICE_ALLOWED_HOSTS"]) == [
        *HOSTS["config"]["allowed_hosts"],
        "$(POD_IP)",
        "[$(POD_IP)]",
    ]
    names = [entry["name"] for entry in scraped.container["env"]]
    assert ("POD_IP", "SLUICE_ALLOWED_HOSTS") in pairwise(names), "a variable is expanded only below the one it names"
    assert "SLUICE_ALLOWED_HOSTS" not in unscraped.environment


@pytest.mark.parametrize(
    ("values", "annotated"),
    [
        ({}, True),
        ({"metrics": {"podAnnotations": False}}, False),
        ({"metrics": {"serviceMonitor": {"enabled": True}}}, False),
        ({"config": {"metrics_need_key": True}}, False),
    ],
)
def test_pods_are_annotated_only_where_that_scrape_can_work(
    helm4: Helm, values: dict[str, Any], annotated: bool
) -> None:
    annotations = helm4.render(values).one("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert ("prometheus.io/scrape" in annotations) is annotated


def test_pods_are_replaced_when_the_settings_change_and_only_then(helm4: Helm) -> None:
    def template(values: dict[str, Any]) -> Object:
        found: Object = helm4.render(values).one("Deployment")["spec"]["template"]
        return found

    assert template({}) == template({})
    assert template({}) == template({"service": {"annotations": {"a": "b"}}})
    assert template({}) != template({"config": {"log": {"level": "debug"}}})


def test_replacing_a_pod_never_leaves_too_few_or_frees_the_gpu_first(helm4: Helm) -> None:
    default, one_gpu = (render(helm4, name).one("Deployment")["spec"] for name in ("default", "values-one-gpu"))
    assert default["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert one_gpu["strategy"] == {"type": "Recreate"}


def test_what_replicas_share_are_files_from_secrets(helm4: Helm) -> None:
    for scenario, paths in (("default", {"secret"}), ("cluster", {"secret", "redis-url", "database-url"})):
        rendered = render(helm4, scenario)
        (volume,) = (volume for volume in rendered.pod["volumes"] if volume["name"] == "shared")
        sources = [source["secret"] for source in volume["projected"]["sources"]]
        assert {item["path"] for source in sources for item in source["items"]} == paths
        secrets = {secret["metadata"]["name"]: secret["data"] for secret in rendered.all("Secret")}
        for source in sources:
            for item in source["items"]:
                assert base64.b64decode(secrets[source["name"]][item["key"]])
    environment = rendered.environment
    assert environment["SLUICE_SECRET_FILE"] == "/run/secrets/shared/secret"
    assert environment["SLUICE_REDIS_URL_FILE"] == "/run/secrets/shared/redis-url"
    assert environment["SLUICE_STORE__URL_FILE"] == "/run/secrets/shared/database-url"


def test_the_charts_redis_and_database_take_the_passwords_that_sluice_is_given(helm4: Helm) -> None:
    rendered = render(helm4, "cluster")
    for name, part in (("redis", "redis.conf"), ("postgresql", "password")):
        (secret,) = (item for item in rendered.all("Secret") if item["metadata"]["name"] == f"demo-sluice-{name}")
        data = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
        assert re.search(rf":{data['password']}@demo-sluice-{name}:", data["url"])
        assert data["password"] in data[part]
        assert len(data["password"]) == 40
        (service,) = (item for item in rendered.all("Service") if item["metadata"]["name"] == f"demo-sluice-{name}")
        (server,) = (item for item in rendered.all("StatefulSet") if item["metadata"]["name"] == f"demo-sluice-{name}")
        assert service["spec"]["selector"].items() <= server["spec"]["template"]["metadata"]["labels"].items()


def test_each_replica_knows_how_many_may_share_its_limits(helm4: Helm) -> None:
    assert sluice_yaml(render(helm4, "cluster"))["limits"]["replicas"] == 7
    assert "limits" not in sluice_yaml(render(helm4, "default"))
    mine = {"redis": {"enabled": True}, "replicaCount": 3, "config": {"limits": {"replicas": 9}}}
    assert sluice_yaml(helm4.render(mine))["limits"]["replicas"] == 9


@pytest.mark.parametrize(
    ("values", "need_key"),
    [
        ({}, False),
        ({"service": {"type": "LoadBalancer"}}, True),
        ({"ingress": {"path": "/v1"}}, False),
        ({"ingress": {"path": "/"}}, True),
        ({"httpRoute": {"paths": ["/v1"]}}, False),
        ({"httpRoute": {"paths": ["/v1", "/metrics"]}}, True),
        ({"httpRoute": {"paths": ["/"]}, "config": {"metrics_need_key": False}}, False),
    ],
)
def test_metrics_that_can_be_asked_from_outside_need_a_key(helm4: Helm, values: dict[str, Any], need_key: bool) -> None:
    values = dict(values)
    if path := values.get("ingress", {}).get("path"):
        host = {"host": "a.example", "paths": [{"path": path, "pathType": "Prefix"}]}
        values["ingress"] = {"enabled": True, "hosts": [host]}
    if route := values.get("httpRoute"):
        values["httpRoute"] = {**route, "enabled": True, "parentRefs": [{"name": "outer"}]}
    rendered = helm4.render({**values, "metrics": {"serviceMonitor": {"enabled": True}}})
    assert sluice_yaml(rendered).get("metrics_need_key", False) is need_key
    (endpoint,) = rendered.one("ServiceMonitor")["spec"]["endpoints"]
    assert ("authorization" in endpoint) is need_key


def test_models_reach_sluice_in_the_order_they_are_given(helm4: Helm) -> None:
    models = [{"name": "a", "model": "org/a", "engine": {"max_model_len": 10_000_000}}, {"name": "b", "model": "/b"}]
    tree = sluice_yaml(helm4.render({"modelSpec": models}))
    assert tree["models"] == models
    assert "model" not in tree
