"""sluice.yaml of one track of pods."""

from __future__ import annotations

import copy
from typing import Any

import yaml

from sluice_operator.service import Service, Track

DEFAULTS: dict[str, Any] = {"drain_timeout": 30, "log": {"level": "info"}}


def most_replicas(service: Service) -> int:
    """Most stable pods that will ever run at once."""
    spec = service.spec
    if spec.autoscaling is not None:
        return spec.autoscaling.max_replicas
    return 1 if spec.replicas is None else spec.replicas


def metrics_need_key(service: Service) -> bool:
    """Whether ``/metrics`` asks for a key: where more than the API can be asked from outside of the cluster."""
    said = service.spec.config.get("metrics_need_key")
    if isinstance(said, bool):
        return said
    route = service.spec.route
    return route is not None and not all(path.startswith("/v1") for path in route.paths)


def tree(service: Service, track: Track) -> dict[str, Any]:
    """The settings as a tree: ``config``, and what follows from the other fields."""
    spec = service.spec
    settings: dict[str, Any] = {**copy.deepcopy(DEFAULTS), **copy.deepcopy(spec.config)}
    settings["model"] = track.model.source
    settings["served_model_name"] = track.model.name or service.name
    if track.model.engine:
        settings["engine"] = copy.deepcopy(track.model.engine)
    if spec.adapters:
        listed = [
            {key: value for key, value in adapter.model_dump(exclude_none=True).items() if value is not False}
            for adapter in spec.adapters
        ]
        settings["adapters"] = {**settings.get("adapters", {}), "listed": listed}
    if service.documents.guard is not None:
        settings["guard"] = dict(service.documents.guard)
    if service.documents.limits is not None:
        settings["limits"] = dict(service.documents.limits)
    if spec.redis is not None:
        # While Redis is away each replica enforces its share; a canary's pods may run beside the others.
        limits = dict(settings.get("limits", {}))
        limits.setdefault("replicas", max(1, most_replicas(service)))
        settings["limits"] = limits
    if metrics_need_key(service):
        settings["metrics_need_key"] = True
    return settings


def text(service: Service, track: Track) -> str:
    """``sluice.yaml``; equal settings are equal bytes, because pods are replaced when they change."""
    return yaml.safe_dump(tree(service, track), sort_keys=True, allow_unicode=True)
