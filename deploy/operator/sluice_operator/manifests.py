"""From one InferenceService to the objects that there are to be. Pure: no cluster, no clock, no chance."""

from __future__ import annotations

from typing import Final

from sluice_operator import config, pods
from sluice_operator.api import BUDGET, HTTP_ROUTE, MODEL_VERSION, MONITOR, SCALED_OBJECT, SCALER, TRACK, Kind, Manifest
from sluice_operator.service import CANARY, STABLE, Service, Situation, Track, canary_track, stable_track
from sluice_operator.spec import Autoscaling, Route

#: Track of the Service in front of all pods.
ALL: Final = "all"
#: One pod at a time and slowly: a model is quick to drop and slow to load.
SCALE_DOWN: Final[Manifest] = {
    "scaleDown": {
        "stabilizationWindowSeconds": 300,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
    }
}


def secrets(service: Service) -> list[tuple[str, str]]:
    """Names and keys of the Secrets that the operator makes once, with a random value, and never changes."""
    auth = service.spec.auth
    made = []
    if auth.api_key is None:
        made.append(service.api_key_secret)
    if auth.deployment_secret is None:
        made.append(service.deployment_secret)
    return made


def _service(service: Service, name: str, selector: dict[str, str]) -> Manifest:
    ports = [{"name": "http", "port": service.spec.port, "targetPort": "http", "protocol": "TCP"}]
    made = service.manifest(
        "v1", "Service", name, {"spec": {"type": "ClusterIP", "ports": ports, "selector": selector}}
    )
    made["metadata"]["labels"] = {**service.labels, TRACK: selector.get(TRACK, ALL)}
    return made


def _budget(service: Service, version: str) -> Manifest:
    body = {"maxUnavailable": 1, "selector": {"matchLabels": service.selector}}
    return service.manifest(version, BUDGET.name, service.name, {"spec": body})


def _scaler(service: Service, scaling: Autoscaling, version: str) -> Manifest:
    waiting = {
        "type": "Pods",
        "pods": {
            "metric": {"name": "sluice_requests_queued"},
            "target": {"type": "AverageValue", "averageValue": str(scaling.waiting_per_pod)},
        },
    }
    body = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": service.name},
        "minReplicas": scaling.min_replicas,
        "maxReplicas": scaling.max_replicas,
        "metrics": scaling.metrics or [waiting],
        "behavior": scaling.behavior or SCALE_DOWN,
    }
    return service.manifest(version, SCALER.name, service.name, {"spec": body})


def _scaled_object(service: Service, scaling: Autoscaling, version: str) -> Manifest:
    # Stable pods and a canary's are counted together, as they share the queue in front of them.
    series = f'namespace="{service.namespace}",pod=~"{service.name}-.*"'
    server = service.spec.metrics.prometheus_url

    def trigger(name: str, metric_type: str, query: str, threshold: float) -> Manifest:
        metadata = {"serverAddress": server, "query": query, "threshold": f"{threshold:g}"}
        return {"type": "prometheus", "name": name, "metricType": metric_type, "metadata": metadata}

    waiting = f"sum(vllm:num_requests_waiting{{{series}}}) + sum(sluice_requests_queued{{{series}}})"
    delay = (
        f"(histogram_quantile(0.9, sum by (le) (rate(sluice_queue_seconds_bucket{{{series}}}[2m]))) >= 0) or vector(0)"
    )
    body = {
        "scaleTargetRef": {"name": service.name},
        "minReplicaCount": scaling.min_replicas,
        "maxReplicaCount": scaling.max_replicas,
        "pollingInterval": 15,
        "cooldownPeriod": 300,
        "fallback": {"failureThreshold": 4, "replicas": max(1, min(2, scaling.max_replicas))},
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": scaling.behavior or SCALE_DOWN}},
        "triggers": [
            trigger("waiting", "AverageValue", waiting, scaling.waiting_per_pod),
            trigger("delay", "Value", delay, scaling.queue_seconds),
        ],
    }
    return service.manifest(version, SCALED_OBJECT.name, service.name, {"spec": body})


def _route(service: Service, route: Route, situation: Situation, version: str) -> Manifest:
    weight = situation.canary.weight if situation.canary else 0
    backends = [{"name": f"{service.name}-{STABLE}", "port": service.spec.port, "weight": 100 - weight}]
    if situation.canary is not None:
        backends.append({"name": f"{service.name}-{CANARY}", "port": service.spec.port, "weight": weight})
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": path}} for path in route.paths],
        "timeouts": {"request": route.timeout},
        "backendRefs": backends,
    }
    body: Manifest = {"parentRefs": route.parent_refs, "rules": [rule]}
    if route.hostnames:
        body["hostnames"] = route.hostnames
    return service.manifest(version, HTTP_ROUTE.name, service.name, {"spec": body})


def _monitor(service: Service, version: str) -> Manifest:
    endpoint: Manifest = {"port": "http", "path": "/metrics", "interval": "15s", "scrapeTimeout": "10s"}
    if config.metrics_need_key(service):
        name, key = service.api_key_secret
        endpoint["authorization"] = {"type": "Bearer", "credentials": {"name": name, "key": key}}
    # One of the Services, or each pod would be scraped twice. The version becomes a label of the series.
    body = {
        "selector": {"matchLabels": {**service.selector, TRACK: ALL}},
        "podTargetLabels": [MODEL_VERSION],
        "endpoints": [endpoint],
    }
    return service.manifest(version, MONITOR.name, service.name, {"spec": body})


def desired(service: Service, situation: Situation) -> list[Manifest]:
    """All objects but the made Secrets, in the order in which they are to be made.

    What the cluster has no API for is left out; the status says so. A canary without a plan has no objects.
    """
    spec, apis = service.spec, situation.apis

    def version(kind: Kind, wanted: object) -> str | None:
        return apis.version_of(kind) if wanted else None

    tracks: list[tuple[Track, int | None]] = [
        (stable_track(service), None if spec.autoscaling else (1 if spec.replicas is None else spec.replicas))
    ]
    if spec.canary is not None and situation.canary is not None:
        tracks.append((canary_track(service, spec.canary), situation.canary.replicas))

    account = service.manifest("v1", "ServiceAccount", service.name, {"automountServiceAccountToken": False})
    objects = [account, *(pods.config_map(service, track) for track, _ in tracks)]
    objects.append(_service(service, service.name, service.selector))
    routed = version(HTTP_ROUTE, spec.route)
    if routed:
        # A route weighs Services, so each track has one of its own beside the one for callers in the cluster.
        objects += [_service(service, f"{service.name}-{track.name}", track.labels(service)) for track, _ in tracks]
    objects += [pods.deployment(service, track, replicas) for track, replicas in tracks]
    if budget := version(BUDGET, True):
        objects.append(_budget(service, budget))
    scaling = spec.autoscaling
    if scaling and scaling.by == "HorizontalPodAutoscaler" and (found := version(SCALER, True)):
        objects.append(_scaler(service, scaling, found))
    if scaling and scaling.by == "ScaledObject" and (found := version(SCALED_OBJECT, True)):
        objects.append(_scaled_object(service, scaling, found))
    if spec.route and routed:
        objects.append(_route(service, spec.route, situation, routed))
    if found := version(MONITOR, spec.metrics.service_monitor):
        objects.append(_monitor(service, found))
    return objects
