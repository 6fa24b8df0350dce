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

#: Name -> value files and values.
SCENARIOS: Final[Mapping[str, Mapping[str, Any]]] = {
    "default": {},
    **{file.stem: {"files": [file]} for file in EXAMPLES},
    "everything": {"values": EVERYTHING},
    "own secret": {"values": {"auth": {"existingSecret": "mine", "secretKey": "token"}}},
}


@cache
def render(helm: Helm, scenario: str) -> Rendered:
    """The objects of one scenario; rendered once, so they are for reading only."""
    return helm.render(**SCENARIOS[scenario])
