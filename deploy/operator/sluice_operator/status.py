"""The status of an InferenceService, from what was seen. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sluice_operator.api import HTTP_ROUTE, SCALED_OBJECT, SCALER, Apis, Manifest
from sluice_operator.canary import Pods, State
from sluice_operator.service import CanaryPlan, Service, stable_track

Answer = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Condition:
    """One condition without its times."""

    type: str
    status: Answer
    reason: str
    message: str = ""


def stamp(moment: datetime) -> str:
    """A time as Kubernetes writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _said(deployment: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    conditions = (deployment.get("status") or {}).get("conditions") or []
    return next((item for item in conditions if item["type"] == kind), {})


def current(deployment: Mapping[str, Any]) -> bool:
    """Whether the controller has seen the Deployment as it is now."""
    seen = (deployment.get("status") or {}).get("observedGeneration", 0)
    return bool(seen >= deployment["metadata"].get("generation", 0))


def pods_of(deployment: Mapping[str, Any] | None, version: str) -> Pods:
    """How far the pods of a canary's Deployment are."""
    if deployment is None or not current(deployment):
        return Pods.STARTING
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    if version not in labels.values():
        return Pods.STARTING
    if _said(deployment, "Progressing").get("reason") == "ProgressDeadlineExceeded":
        return Pods.FAILED
    status = deployment["status"]
    wanted = deployment["spec"].get("replicas", 1)
    ready = min(status.get("updatedReplicas", 0), status.get("availableReplicas", 0))
    return Pods.READY if ready >= max(1, wanted) else Pods.STARTING


def ready(deployment: Mapping[str, Any] | None) -> Condition:
    """Whether requests are served."""
    if deployment is None or not current(deployment):
        return Condition("Ready", "Unknown", "NotSeenYet", "the Deployment was not looked at yet")
    replicas = (deployment.get("status") or {}).get("readyReplicas", 0)
    if deployment["spec"].get("replicas") == 0:
        return Condition("Ready", "False", "ScaledToZero", "no pods are wanted")
    if replicas == 0:
        said = _said(deployment, "Progressing").get("message", "")
        return Condition("Ready", "False", "NoPodReady", said)
    return Condition("Ready", "True", "PodsReady", f"{replicas} ready")


def progressing(deployment: Mapping[str, Any] | None) -> Condition:
    """Whether a rollout is under way."""
    if deployment is None or not current(deployment):
        return Condition("Progressing", "True", "NotSeenYet")
    said, status = _said(deployment, "Progressing"), deployment.get("status") or {}
    if said.get("status") == "False":
        return Condition("Progressing", "False", said.get("reason", "Stuck"), said.get("message", ""))
    wanted = deployment["spec"].get("replicas", 1)
    if status.get("updatedReplicas", 0) == status.get("availableReplicas", 0) == status.get("replicas", 0) == wanted:
        return Condition("Progressing", "False", "Complete", "all pods are as specified")
    return Condition("Progressing", "True", "RollingOut", said.get("message", ""))


def optional(service: Service, apis: Apis) -> list[Condition]:
    """What depends on APIs that a cluster may not have."""
    found = []
    if service.spec.route is not None:
        there = apis.has(HTTP_ROUTE)
        found.append(
            Condition("Route", "True", "Applied", "weights by the route")
            if there
            else Condition("Route", "False", "ApiMissing", "the cluster has no HTTPRoute: weights by number of pods")
        )
    if service.spec.autoscaling is not None:
        kind = SCALED_OBJECT if service.spec.autoscaling.by == SCALED_OBJECT.name else SCALER
        there = apis.has(kind)
        found.append(
            Condition("Autoscaling", "True", "Applied", f"{kind.name} owns the number of pods")
            if there
            else Condition("Autoscaling", "False", "ApiMissing", f"the cluster has no {kind.name}: nobody scales")
        )
    return found


def of_canary(state: State | None) -> list[Condition]:
    """Whether the canary holds its rules."""
    if state is None:
        return []
    if state.phase == "RolledBack":
        return [Condition("Canary", "False", "RolledBack", state.message)]
    known: Answer = "Unknown" if state.phase == "Starting" or state.reason != "Judged" else "True"
    return [Condition("Canary", known, state.reason, state.message)]


def share(plan: CanaryPlan, stable: int) -> int:
    """The canary's share of the pods, in percent."""
    return round(100 * plan.replicas / (plan.replicas + stable))


def conditions(
    old: Sequence[Mapping[str, Any]], new: Sequence[Condition], generation: int, now: datetime
) -> list[Manifest]:
    """With their times: one that did not change keeps the time of its last change."""
    before = {item["type"]: item for item in old}
    rows = []
    for item in new:
        last = before.get(item.type, {})
        since = last["lastTransitionTime"] if last.get("status") == item.status else stamp(now)
        rows.append(
            {
                "type": item.type,
                "status": item.status,
                "reason": item.reason,
                # Never empty: old API servers read an empty text in a list as null.
                "message": item.message or item.reason,
                "observedGeneration": generation,
                "lastTransitionTime": since,
            }
        )
    return rows


def counts(service: Service, deployment: Mapping[str, Any] | None) -> Manifest:
    """Numbers and names for columns and the scale subresource."""
    status = (deployment or {}).get("status") or {}
    labels = stable_track(service).labels(service)
    return {
        "version": service.spec.model.version,
        "replicas": status.get("replicas", 0),
        "readyReplicas": status.get("readyReplicas", 0),
        "selector": ",".join(f"{key}={value}" for key, value in labels.items()),
        "url": f"http://{service.name}.{service.namespace}.svc:{service.spec.port}/v1",
    }
