"""The ways to install the chart that every check is run over."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from tests.deploy.helm import EXAMPLES, Helm, Rendered

EVERYTHING: Final[Mapping[str, Any]] = {
    "config": {"allowed_hosts": ["llm.example.org", "llm"], "drain_timeout": 90.5, "metrics_need_key": True},
    "image": {"digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "registry"}],
    "extraEnv": [{"name": "HF_HUB_OFFLINE", "value": "1"}],
    "extraVolumes": [{"name": "model", "persistentVolumeClaim": {"claimName": "model"}}],
    "extraVolumeMounts": [{"name": "model", "mountPath": "/models", "readOnly": True}],
    "cache": {"persistence": {"enabled": True, "storageClassName": "fast", "accessModes": ["ReadWriteMany"]}},
    "runtimeClassName": "nvidia",
    "priorityClassName": "high",
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "podLabels": {"team": "models"},
    "podAnnotations": {"note": "x"},
    "metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "annotations": {"a": "b"},
        "hosts": [{"host": "llm.example.org", "paths": [{"path": "/", "pathType": "Prefix"}]}],
        "tls": [{"secretName": "tls", "hosts": ["llm.example.org"]}],
    },
    "autoscaling": {"enabled": True, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}}},
    "podDisruptionBudget": {"minAvailable": 1},
    "networkPolicy": {
        "enabled": True,
        "ingressFrom": [{"namespaceSelector": {"matchLabels": {"name": "apps"}}}],
        "egress": {"restrict": True, "rules": [{"ports": [{"port": 443, "protocol": "TCP"}]}]},
    },
}

CLUSTER: Final[Mapping[str, Any]] = {
    "config": {"allowed_hosts": ["llm.example.org"]},
    "huggingFaceToken": {"existingSecret": "hub"},
    "tracing": {"endpoint": "https://otel.example.org:4318", "sampleRatio": 0.5, "headers": {"existingSecret": "otel"}},
    "restartOnConfigChange": False,
    "redis": {"enabled": True},
    "postgresql": {"enabled": True, "storageClassName": "fast"},
    "keda": {
        "enabled": True,
        "maxReplicas": 7,
        "prometheus": {"authenticationRef": {"name": "prometheus"}},
        "triggers": [{"type": "cron", "metadata": {"timezone": "UTC", "start": "0 8 * * *", "end": "0 18 * * *"}}],
    },
    "httpRoute": {
        "enabled": True,
        "annotations": {"a": "b"},
        "parentRefs": [{"name": "outer", "namespace": "infra"}],
        "hostnames": ["llm.example.org"],
    },
    "metrics": {
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True, "labels": {"release": "p"}, "runbooks": "https://wiki.example.org/"},
        "dashboards": {"enabled": True, "annotations": {"grafana_folder": "Sluice"}},
    },
    "networkPolicy": {"enabled": True, "egress": {"restrict": True}},
    "extraObjects": [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "mine", "labels": {"app.kubernetes.io/component": "extra"}},
            "data": {"release": "{{ .Release.Name }}"},
        },
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: other\n  labels: {app.kubernetes.io/component: extra}\n",
    ],
}

#: Name -> value files and values.
SCENARIOS: Final[Mapping[str, Mapping[str, Any]]] = {
    "default": {},
    **{file.stem: {"files": [file]} for file in EXAMPLES},
    "everything": {"values": EVERYTHING},
    "cluster": {"values": CLUSTER},
    "own secret": {"values": {"auth": {"existingSecret": "mine", "secretKey": "token"}}},
}


@cache
def render(helm: Helm, scenario: str) -> Rendered:
    """The objects of one scenario; rendered once, so they are for reading only."""
    return helm.render(**SCENARIOS[scenario])
