"""What the pure functions are told: one InferenceService, what it refers to, and what has been decided for now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sluice_operator.api import GROUP, KIND, MANAGER, MODEL_VERSION, OWNER, TRACK, VERSION, Apis, Manifest
from sluice_operator.spec import Canary, Image, Model, Spec

STABLE: Final = "stable"
CANARY: Final = "canary"


@dataclass(frozen=True)
class Documents:
    """Settings from ConfigMaps that the specification refers to, already parsed."""

    guard: Mapping[str, Any] | None = None
    limits: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class CanaryPlan:
    """What the canary is to have now: its share of a route's traffic in percent, and its pods."""

    weight: int
    replicas: int


@dataclass(frozen=True)
class Service:
    """One InferenceService with a valid specification."""

    name: str
    namespace: str
    uid: str
    spec: Spec
    documents: Documents = Documents()

    @property
    def selector(self) -> dict[str, str]:
        """Labels of all its pods, stable and canary. Not the chart's name: a release may be called the same."""
        return {
            "app.kubernetes.io/name": "sluice-inferenceservice",
            "app.kubernetes.io/instance": self.name,
            "app.kubernetes.io/component": "server",
        }

    @property
    def labels(self) -> dict[str, str]:
        """Labels of every object."""
        return {**self.selector, "app.kubernetes.io/managed-by": MANAGER, OWNER: self.uid}

    @property
    def api_key_secret(self) -> tuple[str, str]:
        """Name and key of the Secret with the first API key."""
        own = self.spec.auth.api_key
        return (own.name, own.key) if own else (f"{self.name}-api-key", "api-key")

    @property
    def deployment_secret(self) -> tuple[str, str]:
        """Name and key of the Secret behind key hashes and cache salts."""
        own = self.spec.auth.deployment_secret
        return (own.name, own.key) if own else (f"{self.name}-deployment", "secret")

    def manifest(self, api_version: str, kind: str, name: str, body: Manifest) -> Manifest:
        """An object of this service: named, labelled, and owned, so that the garbage collector knows it too."""
        owner = {
            "apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "name": self.name, "uid": self.uid,
            "controller": True, "blockOwnerDeletion": True,
        }  # fmt: skip
        metadata = {"name": name, "namespace": self.namespace, "labels": self.labels, "ownerReferences": [owner]}
        return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}


@dataclass(frozen=True)
class Track:
    """One of the two sets of pods: the stable ones, or the canary's."""

    name: str
    model: Model
    image: Image

    def labels(self, service: Service) -> dict[str, str]:
        """Labels of its Deployment's selector."""
        return {**service.selector, TRACK: self.name}

    def pod_labels(self, service: Service) -> dict[str, str]:
        """Labels of its pods."""
        return {**service.spec.pod.labels, **service.labels, TRACK: self.name, MODEL_VERSION: self.model.version}

    def object_name(self, service: Service) -> str:
        """What its Deployment and ConfigMap are called."""
        return service.name if self.name == STABLE else f"{service.name}-{self.name}"


def stable_track(service: Service) -> Track:
    """The stable pods."""
    return Track(STABLE, service.spec.model, service.spec.image)


def canary_track(service: Service, canary: Canary) -> Track:
    """The canary's pods: the stable choice, with what the canary says otherwise. Both answer to the same model name."""
    model, image = service.spec.model, service.spec.image
    changed = {
        "version": canary.version,
        **({"source": canary.source} if canary.source is not None else {}),
        **({"engine": canary.engine} if canary.engine is not None else {}),
    }
    if canary.tag is not None or canary.digest is not None:
        image = image.model_copy(update={"tag": canary.tag or image.tag, "digest": canary.digest})
    return Track(CANARY, model.model_copy(update=changed), image)


@dataclass(frozen=True)
class Situation:
    """What :func:`sluice_operator.manifests.desired` needs besides the service."""

    apis: Apis
    canary: CanaryPlan | None = None
