"""Values that the chart does not honour are refused by name, by both helm majors."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy.helm import CHART, Helm, Refused

INGRESS = {"enabled": True, "hosts": [{"host": "a.example", "paths": [{"path": "/", "pathType": "Prefix"}]}]}

ROUTE = {"enabled": True, "parentRefs": [{"name": "outer"}], "hostnames": ["a.example"]}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"replicas": 2}, "replicas"),
    ({"image": {"repo": "x"}}, "repo"),
    ({"replicaCount": -1}, "replicaCount"),
    ({"replicaCount": "two"}, "replicaCount"),
    ({"service": {"port": 70_000}}, "port"),
    ({"service": {"type": "ExternalName"}}, "type"),
    ({"shm": {"sizeLimit": "a lot"}}, "sizeLimit"),
    ({"probes": {"startup": {"periodSeconds": 0}}}, "periodSeconds"),
    ({"auth": {"apiKey": "sk-typed-by-hand"}}, "apiKey"),
    ({"config": {"api_key": "sk-typed-by-hand"}}, "api_key"),
    ({"config": {"engine": {"hf_token": "hf_x"}}}, "hf_token"),
    ({"config": {"deep": [{"er": {"redis_password": "x"}}]}}, "redis_password"),
    ({"config": {"drain_timeout": None}}, "drain_timeout"),
    ({"config": {"drain_timeout": "30s"}}, "drain_timeout"),
    ({"config": {"host": "127.0.0.1"}}, "config.host"),
    ({"config": {"port": 9000}}, "config.port"),
    ({"config": {"api_key_file": "/key"}}, "config.api_key_file"),
    ({"config": {"state_dir": "/x"}}, "config.state_dir"),
    ({"config": {"cache_dir": "/x"}}, "config.cache_dir"),
    ({"config": {"allow_no_auth": True}}, "config.allow_no_auth"),
    ({"config": {"dev": True}}, "config.dev"),
    ({"config": {"allowed_hosts": []}}, "allowed_hosts"),
    ({"config": {"allowed_hosts": ["*.example.org"]}}, "allowed_hosts"),
    ({"config": {"allowed_hosts": ["a.example:8000"]}}, "allowed_hosts"),
    ({"config": {"allowed_hosts": ["b.example"]}, "ingress": INGRESS}, "a.example is not in config.allowed_hosts"),
    ({"ingress": {"enabled": True}}, "hosts"),
    ({"extraEnv": [{"name": "SLUICE_API_KEY", "value": "x"}]}, "extraEnv"),
    ({"extraEnv": [{"name": "sluice_allow_no_auth", "value": "1"}]}, "extraEnv"),
    ({"podLabels": {"app.kubernetes.io/name": "x"}}, "podLabels"),
    ({"podSecurityContext": {"runAsNonRoot": False}}, "runAsNonRoot"),
    ({"podSecurityContext": {"runAsUser": 0}}, "runAsUser"),
    ({"podSecurityContext": {"seccompProfile": {"type": "Unconfined"}}}, "seccompProfile"),
    ({"securityContext": {"privileged": True}}, "privileged"),
    ({"securityContext": {"readOnlyRootFilesystem": False}}, "readOnlyRootFilesystem"),
    ({"securityContext": {"capabilities": {"drop": []}}}, "drop"),
    ({"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}, "add"),
    ({"modelSpec": [{"name": "a", "model": "b"}], "config": {"model": "c"}}, "modelSpec and config.model"),
    ({"modelSpec": [{"name": "a"}]}, "model"),
    ({"modelSpec": [{"name": "a", "modelURL": "b", "model": "b"}]}, "modelURL"),
    ({"modelSpec": [{"name": "a", "model": "b", "engine": {"hf_token": "x"}}]}, "hf_token"),
    ({"tracing": {"endpoint": "otel-collector:4317"}}, "endpoint"),
    ({"tracing": {"endpoint": "http://user:word@otel:4318"}}, "endpoint"),
    ({"tracing": {"sampleRatio": 2}}, "sampleRatio"),
    (
        {"tracing": {"endpoint": "http://a:1"}, "config": {"tracing": {"otlp_endpoint": "http://b:1"}}},
        "tracing.endpoint",
    ),
    ({"tracing": {"headers": {"existingSecret": "mine"}}}, "tracing.headers"),
    ({"restartOnConfigChange": "no"}, "restartOnConfigChange"),
    ({"config": {"secret_file": "/x"}}, "config.secret_file"),
    ({"config": {"redis_url_file": "/x"}}, "config.redis_url_file"),
    ({"config": {"store": {"url_file": "/x"}}}, "config.store.url_file"),
    ({"redis": {"enabled": True, "existingSecret": {"name": "mine"}}}, "redis.existingSecret"),
    ({"postgresql": {"enabled": True, "existingSecret": {"name": "mine"}}}, "postgresql.existingSecret"),
    ({"redis": {"password": "typed by hand"}}, "password"),
    ({"keda": {"enabled": True}, "autoscaling": {"enabled": True}}, "keda.enabled"),
    ({"keda": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}}, "keda.minReplicas"),
    ({"httpRoute": {"enabled": True}}, "parentRefs"),
    ({"config": {"allowed_hosts": ["b.example"]}, "httpRoute": ROUTE}, "a.example is not in config.allowed_hosts"),
    ({"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}}, "minReplicas"),
]


@pytest.mark.parametrize(("values", "named"), REFUSED, ids=[str(values)[:60] for values, _ in REFUSED])
def test_refused_by_name(helm: Helm, values: dict[str, Any], named: str) -> None:
    with pytest.raises(Refused) as refusal:
        helm.render(values)
    assert named in str(refusal.value)


def test_a_file_that_holds_a_secret_may_be_named(helm: Helm) -> None:
    assert helm.render({"config": {"tls": {"private_key_file": "/run/tls/key"}}}).one("ConfigMap")


def test_helm_may_pass_globals_to_a_subchart(helm: Helm) -> None:
    assert helm.render({"global": {"anything": 1}}).one("Deployment")


def test_an_old_cluster_is_refused(helm: Helm) -> None:
    with pytest.raises(Refused, match=r"1\.25"):
        helm.run("template", "demo", CHART, "--kube-version", "1.24.0")
