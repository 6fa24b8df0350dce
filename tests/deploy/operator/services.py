"""InferenceServices for the tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sluice_operator.api import KINDS, Apis
from sluice_operator.rules import parse
from sluice_operator.service import Documents, Service

#: A new cluster with everything installed, and the real one that the tests can have.
NEW: Final = Apis(frozenset(kind.versions[0] for kind in KINDS))
OLD: Final = Apis(frozenset({"v1", "apps/v1", "policy/v1beta1", "autoscaling/v2beta2"}))

SMALL: Final[Mapping[str, Any]] = {"model": {"source": "sample:smollm2-135m-instruct"}}
PROMETHEUS: Final = {"prometheusURL": "http://prometheus:9090"}
CANARY: Final[Mapping[str, Any]] = {
    **SMALL,
    "metrics": PROMETHEUS,
    "replicas": 4,
    "canary": {"version": "v2", "source": "/models/next", "weight": 20},
}
EVERYTHING: Final[Mapping[str, Any]] = {
    "model": {"source": "Qwen/Qwen3-8B", "version": "v7", "name": "qwen3-8b", "engine": {"max_model_len": 16384}},
    "image": {"repository": "registry/sluice", "tag": "0.1.0-gpu", "pullSecrets": ["registry"]},
    "autoscaling": {"minReplicas": 2, "maxReplicas": 7, "by": "ScaledObject", "queueSeconds": 1.5},
    "resources": {"requests": {"cpu": 4, "memory": "24Gi", "nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": 1}},
    "adapters": [{"name": "support", "source": "hub:example/support", "pinned": True}],
    "guard": {"name": "policies", "key": "guard.yaml"},
    "limits": {"name": "policies", "key": "limits.yaml"},
    "config": {"drain_timeout": 90.5, "allowed_hosts": ["llm.example.org"], "adapters": {"max_rank": 16}},
    "redis": {"name": "redis", "key": "url"},
    "postgresql": {"name": "database", "key": "url"},
    "huggingFaceToken": {"name": "hub", "key": "token"},
    "health": {"startup": {"periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 360}, "preStopSeconds": 9},
    "canary": {"version": "v8", "engine": {"max_model_len": 8192}, "digest": f"sha256:{'1' * 64}"},
    "metrics": {**PROMETHEUS, "serviceMonitor": True},
    "route": {"parentRefs": [{"name": "outer"}], "hostnames": ["llm.example.org"], "paths": ["/"], "timeout": "30m"},
    "storage": {"cacheClaim": "models", "shmSize": "4Gi"},
    "pod": {
        "labels": {"team": "models"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "runtimeClassName": "nvidia",
        "env": [{"name": "HF_HUB_OFFLINE", "value": "1"}],
        "volumes": [{"name": "extra", "emptyDir": {}}],
        "volumeMounts": [{"name": "extra", "mountPath": "/extra"}],
        "strategy": "Recreate",
    },
}
SPECS: Final[Mapping[str, Mapping[str, Any]]] = {"small": SMALL, "canary": CANARY, "everything": EVERYTHING}


def service(spec: Mapping[str, Any], name: str = "demo", documents: Documents | None = None) -> Service:
    """A valid one. Raises :class:`sluice_operator.rules.Invalid`."""
    return Service(name, "models", "5f0c", parse(spec, name), documents or Documents())
