"""The Deployment of one track of pods.

It follows the chart's (deploy/helm/sluice/templates/deployment.yaml), where the reasons stand; a test compares the two.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Final

from sluice_operator import config
from sluice_operator.api import Manifest
from sluice_operator.service import Service, Track
from sluice_operator.spec import Probe, Reference

UID: Final = 10001
#: Beyond the longest start: to be scheduled and to pull a large image.
PULL_SECONDS: Final = 600


def drain_seconds(service: Service) -> int:
    """Whole seconds that streams get to finish. The setting itself is checked by Sluice."""
    said = service.spec.config.get("drain_timeout", config.DEFAULTS["drain_timeout"])
    return math.ceil(said) if isinstance(said, int | float) else int(config.DEFAULTS["drain_timeout"])


def allowed_hosts(service: Service) -> list[str]:
    """Hosts that Sluice answers to; empty means any."""
    said = service.spec.config.get("allowed_hosts")
    return [str(host) for host in said] if isinstance(said, list) else []


def annotated(service: Service) -> bool:
    """Whether pods carry `prometheus.io/*`: annotations cannot carry a key, and one scrape is enough."""
    return not service.spec.metrics.service_monitor and not config.metrics_need_key(service)


def _probe(service: Service, path: str, probe: Probe) -> Manifest:
    get: Manifest = {"path": path, "port": "http"}
    hosts = allowed_hosts(service)
    if hosts:
        get["httpHeaders"] = [{"name": "Host", "value": hosts[0]}]
    return {"httpGet": get, **probe.model_dump(by_alias=True)}


def _environment(service: Service) -> list[Manifest]:
    spec = service.spec
    entries: list[Manifest] = [
        {"name": "SLUICE_HOST", "value": "0.0.0.0"},  # noqa: S104 # inside the pod
        {"name": "SLUICE_PORT", "value": "8000"},
        {"name": "SLUICE_API_KEY_FILE", "value": "/run/secrets/sluice/api-key"},
        {"name": "SLUICE_SECRET_FILE", "value": "/run/secrets/shared/secret"},
    ]
    if spec.redis:
        entries.append({"name": "SLUICE_REDIS_URL_FILE", "value": "/run/secrets/shared/redis-url"})
    if spec.postgresql:
        entries.append({"name": "SLUICE_STORE__URL_FILE", "value": "/run/secrets/shared/database-url"})
    if spec.hugging_face_token:
        source = {"secretKeyRef": spec.hugging_face_token.model_dump()}
        entries.append({"name": "HF_TOKEN", "valueFrom": source})
    entries += [
        {"name": "SLUICE_STATE_DIR", "value": "/var/lib/sluice"},
        {"name": "SLUICE_CACHE_DIR", "value": "/var/cache/sluice/samples"},
        {"name": "HOME", "value": "/var/cache/sluice"},
        {"name": "XDG_CACHE_HOME", "value": "/var/cache/sluice"},
    ]
    hosts = allowed_hosts(service)
    if hosts and (annotated(service) or spec.metrics.service_monitor):
        entries.append({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
        value = json.dumps([*hosts, "$(POD_IP)", "[$(POD_IP)]"], separators=(",", ":"))
        entries.append({"name": "SLUICE_ALLOWED_HOSTS", "value": value})
    return [*entries, *spec.pod.env]


def _secret_file(reference: tuple[str, str], path: str) -> Manifest:
    name, key = reference
    return {"secret": {"name": name, "items": [{"key": key, "path": path}]}}


def _volumes(service: Service, track: Track) -> list[Manifest]:
    spec, storage = service.spec, service.spec.storage
    key_name, key = service.api_key_secret
    shared = [_secret_file(service.deployment_secret, "secret")]
    optional: list[tuple[Reference | None, str]] = [(spec.redis, "redis-url"), (spec.postgresql, "database-url")]
    shared += [_secret_file((reference.name, reference.key), path) for reference, path in optional if reference]
    cache: Manifest = (
        {"persistentVolumeClaim": {"claimName": storage.cache_claim}}
        if storage.cache_claim
        else {"emptyDir": {"sizeLimit": storage.cache_size}}
    )
    api_key = {"secretName": key_name, "defaultMode": 0o440, "items": [{"key": key, "path": "api-key"}]}
    return [
        {"name": "config", "configMap": {"name": track.object_name(service)}},
        {"name": "api-key", "secret": api_key},
        {"name": "shared", "projected": {"defaultMode": 0o440, "sources": shared}},
        {"name": "state", "emptyDir": {"sizeLimit": storage.state_size}},
        {"name": "cache", **cache},
        {"name": "tmp", "emptyDir": {"sizeLimit": storage.tmp_size}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": storage.shm_size}},
        *spec.pod.volumes,
    ]


_MOUNTS: Final[tuple[Manifest, ...]] = (
    {"name": "config", "mountPath": "/etc/sluice", "readOnly": True},
    {"name": "api-key", "mountPath": "/run/secrets/sluice", "readOnly": True},
    {"name": "shared", "mountPath": "/run/secrets/shared", "readOnly": True},
    {"name": "state", "mountPath": "/var/lib/sluice"},
    {"name": "cache", "mountPath": "/var/cache/sluice"},
    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 # the pod's own
    {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
)


def _container(service: Service, track: Track) -> Manifest:
    spec, image = service.spec, track.image
    return {
        "name": "sluice",
        "image": f"{image.repository}@{image.digest}" if image.digest else f"{image.repository}:{image.tag}",
        "imagePullPolicy": image.pull_policy,
        "command": ["sluice"],
        "args": ["serve", "--config", "/etc/sluice/sluice.yaml"],
        "env": _environment(service),
        "ports": [{"name": "http", "containerPort": 8000, "protocol": "TCP"}],
        "startupProbe": _probe(service, "/startupz", spec.health.startup),
        "livenessProbe": _probe(service, "/healthz", spec.health.liveness),
        "readinessProbe": _probe(service, "/readyz", spec.health.readiness),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(spec.health.pre_stop_seconds)]}}},
        "resources": spec.resources.model_dump(),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [*_MOUNTS, *spec.pod.volume_mounts],
    }


def _placement(service: Service, track: Track) -> Manifest:
    pod = service.spec.pod
    said: dict[str, Any] = {
        "imagePullSecrets": [{"name": name} for name in track.image.pull_secrets],
        "runtimeClassName": pod.runtime_class_name,
        "priorityClassName": pod.priority_class_name,
        "nodeSelector": pod.node_selector,
        "tolerations": pod.tolerations,
        "affinity": pod.affinity,
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": service.selector},
    }
    return {**{key: value for key, value in said.items() if value}, "topologySpreadConstraints": [spread]}


def _pod_annotations(service: Service, track: Track) -> dict[str, str]:
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": "8000", "prometheus.io/path": "/metrics"}
    return {
        "checksum/config": hashlib.sha256(config.text(service, track).encode()).hexdigest(),
        **(scraped if annotated(service) else {}),
        **service.spec.pod.annotations,
    }


def config_map(service: Service, track: Track) -> Manifest:
    """sluice.yaml of one track."""
    return service.manifest(
        "v1", "ConfigMap", track.object_name(service), {"data": {"sluice.yaml": config.text(service, track)}}
    )


def deployment(service: Service, track: Track, replicas: int | None) -> Manifest:
    """The pods of one track. ``replicas`` None leaves their number to whoever scales them."""
    spec = service.spec
    rolling = {"maxUnavailable": 0, "maxSurge": 1}
    strategy: Manifest = {"type": spec.pod.strategy}
    if spec.pod.strategy == "RollingUpdate":
        strategy["rollingUpdate"] = rolling
    startup = spec.health.startup
    pod = {
        "serviceAccountName": service.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": spec.health.pre_stop_seconds + drain_seconds(service) + 15,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": UID,
            "runAsGroup": UID,
            "fsGroup": UID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **_placement(service, track),
        "containers": [_container(service, track)],
        "volumes": _volumes(service, track),
    }
    metadata = {"labels": track.pod_labels(service), "annotations": _pod_annotations(service, track)}
    body: Manifest = {
        "revisionHistoryLimit": 3,
        "progressDeadlineSeconds": PULL_SECONDS + startup.period_seconds * startup.failure_threshold,
        "strategy": strategy,
        "selector": {"matchLabels": track.labels(service)},
        "template": {"metadata": metadata, "spec": pod},
    }
    if replicas is not None:
        body["replicas"] = replicas
    return service.manifest("apps/v1", "Deployment", track.object_name(service), {"spec": body})
