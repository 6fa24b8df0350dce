"""Names of our own API, and what the cluster serves of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

Manifest = dict[str, Any]

GROUP: Final = "serving.sluice.dev"
VERSION: Final = "v1alpha1"
KIND: Final = "InferenceService"
PLURAL: Final = "inferenceservices"

#: Who owns the fields that the operator writes.
MANAGER: Final = "sluice-operator"
#: Uid of the InferenceService that an object belongs to. Only objects with it are ever changed or deleted.
OWNER: Final = f"{GROUP}/owner"
TRACK: Final = f"{GROUP}/track"
MODEL_VERSION: Final = f"{GROUP}/version"


@dataclass(frozen=True)
class Kind:
    """A kind of object that the operator makes, and the versions of it that it can write, newest first."""

    name: str
    plural: str
    versions: tuple[str, ...]


DEPLOYMENT: Final = Kind("Deployment", "deployments", ("apps/v1",))
SERVICE: Final = Kind("Service", "services", ("v1",))
CONFIG_MAP: Final = Kind("ConfigMap", "configmaps", ("v1",))
SECRET: Final = Kind("Secret", "secrets", ("v1",))
SERVICE_ACCOUNT: Final = Kind("ServiceAccount", "serviceaccounts", ("v1",))
BUDGET: Final = Kind("PodDisruptionBudget", "poddisruptionbudgets", ("policy/v1", "policy/v1beta1"))
SCALER: Final = Kind("HorizontalPodAutoscaler", "horizontalpodautoscalers", ("autoscaling/v2", "autoscaling/v2beta2"))
SCALED_OBJECT: Final = Kind("ScaledObject", "scaledobjects", ("keda.sh/v1alpha1",))
HTTP_ROUTE: Final = Kind("HTTPRoute", "httproutes", ("gateway.networking.k8s.io/v1",))
MONITOR: Final = Kind("ServiceMonitor", "servicemonitors", ("monitoring.coreos.com/v1",))

#: In the order in which objects are made; they go in the opposite one.
KINDS: Final = (
    SERVICE_ACCOUNT, SECRET, CONFIG_MAP, SERVICE, DEPLOYMENT, BUDGET, SCALER, SCALED_OBJECT, HTTP_ROUTE, MONITOR,
)  # fmt: skip


@dataclass(frozen=True)
class Apis:
    """The group versions that the cluster serves, as `autoscaling/v2`; the core group is `v1`."""

    served: frozenset[str]

    def version_of(self, kind: Kind) -> str | None:
        """The newest version of ``kind`` that both sides know; None where the cluster has none."""
        return next((version for version in kind.versions if version in self.served), None)

    def has(self, kind: Kind) -> bool:
        """Whether such objects can be made."""
        return self.version_of(kind) is not None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Those of ours that the cluster serves."""
        return tuple(kind for kind in KINDS if self.has(kind))


def kind_of(manifest: Manifest) -> Kind:
    """The kind of a manifest of ours. Raises :class:`StopIteration` for others."""
    return next(kind for kind in KINDS if kind.name == manifest["kind"])
