"""What an ``InferenceService`` may say. The CRD's schema is made from these models, so the two cannot differ."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

#: An object that Kubernetes or Sluice checks itself when it gets it.
Free = dict[str, Any]
#: Kubernetes' own form. Old API servers answer a wrong one with 500 when it is in a pod.
Text = Annotated[
    str,
    Field(pattern=r"^[+]?([0-9]+|[0-9]+[.][0-9]*|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]+)?$", max_length=32),
]
Quantity = int | Text
Version = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,40}[a-z0-9])?$", max_length=42)]
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Weight = Annotated[int, Field(ge=1, le=99)]


class Part(BaseModel):
    """One object of the specification; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, strict=True)


class Model(Part):
    """The model that is served, and what this choice of it is called."""

    source: str = Field(min_length=1, max_length=2048, description="A directory, a hub id, or sample:NAME.")
    version: Version = Field("v1", description="Name of this choice; pods carry it as a label.")
    name: str | None = Field(
        None, min_length=1, max_length=256, description="What requests call it; default: the name of the service."
    )
    engine: Free = Field({}, description="vLLM's own arguments by their own names.")


class Image(Part):
    """The image of Sluice."""

    repository: str = Field("sluice", min_length=1, max_length=512, description="Image without a tag.")
    tag: str = Field("0.1.0", pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", description="Tag.")
    digest: str | None = Field(None, pattern=r"^sha256:[0-9a-f]{64}$", description="Digest; wins over the tag.")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field("IfNotPresent", description="When nodes pull it.")
    pull_secrets: list[ObjectName] = Field([], max_length=16, description="Names of Secrets for a private registry.")


class Resources(Part):
    """Requests and limits of one pod; /dev/shm counts towards the limit of memory."""

    requests: dict[str, Quantity] = Field({"cpu": "2", "memory": "6Gi"}, description="Requests.")
    limits: dict[str, Quantity] = Field({"memory": "8Gi"}, description="Limits.")


class Autoscaling(Part):
    """Pods by load. While it is there the operator never writes the number of pods."""

    min_replicas: int = Field(1, ge=0, le=1000, description="Fewest pods; 0 only with a ScaledObject.")
    max_replicas: int = Field(3, ge=1, le=1000, description="Most pods.")
    by: Literal["HorizontalPodAutoscaler", "ScaledObject"] = Field(
        "HorizontalPodAutoscaler",
        description="Kubernetes' own on a metrics adapter, or KEDA's, which asks Prometheus.",
    )
    waiting_per_pod: int = Field(4, ge=1, description="Waiting requests a pod above which there are to be more pods.")
    queue_seconds: float = Field(
        2, gt=0, description="Seconds that one request in ten waits above which there are to be more pods (KEDA)."
    )
    metrics: list[Free] = Field([], max_length=16, description="Other metrics of the HorizontalPodAutoscaler.")
    behavior: Free = Field({}, description="Speed of scaling, as in the HorizontalPodAutoscaler.")


class Adapter(Part):
    """A LoRA adapter that is always there, as in `adapters.listed`."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="What requests call it.")
    source: str = Field(min_length=1, max_length=2048, description="A directory, hub:org/name, or https://.../x.tar.")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="Of the archive or of the content.")
    revision: str | None = Field(None, max_length=256, description="Commit or branch of a hub source.")
    tenant: str | None = Field(None, max_length=256, description="Whose it is; default: everybody's.")
    pinned: bool = Field(False, description="It stays in the engine.")


class Reference(Part):
    """A key of a ConfigMap or Secret in the same namespace."""

    name: ObjectName = Field(description="Name of the object.")
    key: str = Field(pattern=r"^[-._a-zA-Z0-9]{1,253}$", description="Key of its data.")


class Auth(Part):
    """Secrets of yours in the place of those that the operator makes."""

    api_key: Reference | None = Field(None, description="The first API key; default: made once, <name>-api-key.")
    deployment_secret: Reference | None = Field(
        None, description="At least 32 characters behind key hashes; default: made once, <name>-deployment."
    )


class Probe(Part):
    """One probe of the kubelet."""

    period_seconds: int = Field(ge=1, description="Seconds between two looks.")
    timeout_seconds: int = Field(ge=1, description="Seconds to wait for an answer.")
    failure_threshold: int = Field(ge=1, description="Failures that count.")


class Health(Part):
    """How long a start may take, when a pod is restarted or taken out, and how it goes."""

    startup: Probe = Field(
        Probe(period_seconds=5, timeout_seconds=5, failure_threshold=120), description="/startupz: the longest start."
    )
    liveness: Probe = Field(
        Probe(period_seconds=10, timeout_seconds=5, failure_threshold=3), description="/healthz: restart."
    )
    readiness: Probe = Field(
        Probe(period_seconds=5, timeout_seconds=3, failure_threshold=2), description="/readyz: out of the Service."
    )
    pre_stop_seconds: int = Field(5, ge=0, le=600, description="Seconds between leaving the Service and SIGTERM.")


class Step(Part):
    """One step of a canary."""

    weight: Weight = Field(description="Share of the traffic, in percent.")
    seconds: int = Field(300, ge=1, le=86_400, description="Shortest time at this weight.")


class Rules(Part):
    """What a canary must hold. Requests that the caller broke off or that a limit refused do not count."""

    min_requests: int = Field(20, ge=1, description="Requests in the window below which nothing is judged.")
    min_success_rate: float = Field(0.99, gt=0, le=1, description="Least share of requests without a server's error.")
    max_latency_ratio: float | None = Field(None, ge=1, description="Most that it may be slower than the stable pods.")
    latency: Literal["timeToFirstToken", "interToken", "request"] = Field(
        "timeToFirstToken", description="Which latency is compared."
    )
    quantile: float = Field(0.95, gt=0, lt=1, description="At which quantile.")
    window_seconds: int = Field(300, ge=30, le=86_400, description="How far back the metrics are looked at.")


class Canary(Part):
    """Another choice of the model beside the stable one, for a share of the traffic."""

    version: Version = Field(description="Name of this choice. One that was rolled back stays so until it changes.")
    source: str | None = Field(None, min_length=1, max_length=2048, description="Its model; default: the same.")
    engine: Free | None = Field(None, description="Its engine arguments; default: the same.")
    tag: str | None = Field(None, max_length=128, description="Its image's tag; default: the same image.")
    digest: str | None = Field(None, pattern=r"^sha256:[0-9a-f]{64}$", description="Its image's digest.")
    weight: Weight = Field(10, description="Share of the traffic, in percent, when there are no steps.")
    steps: list[Step] = Field([], max_length=20, description="Weights one after the other.")
    rules: Rules = Field(Rules(), description="What it must hold.")


class Metrics(Part):
    """Where the metrics of the pods are."""

    prometheus_url: str | None = Field(
        None, alias="prometheusURL", pattern=r"^https?://[^\s]+$", max_length=2048,
        description="The Prometheus that scrapes the pods.",
    )  # fmt: skip
    version_label: str | None = Field(
        None, pattern=r"^[a-zA-Z_][a-zA-Z0-9_]{0,63}$",
        description="Label of the series that holds the version; default: told apart by the label `pod`.",
    )  # fmt: skip
    service_monitor: bool = Field(False, description="Make a ServiceMonitor, where its CRD is there.")


class Route(Part):
    """An HTTPRoute of the Gateway API."""

    parent_refs: list[Free] = Field(min_length=1, max_length=16, description="Gateways it hangs on.")
    hostnames: list[str] = Field([], max_length=16, description="Host names.")
    paths: list[Annotated[str, Field(pattern=r"^/", max_length=1024)]] = Field(
        ["/v1"], min_length=1, max_length=16, description="Path prefixes. Outside of /v1, /metrics needs a key."
    )
    timeout: str = Field("600s", pattern=r"^[0-9]{1,5}(s|m|h)$", description="Longest answer, streams included.")


class Storage(Part):
    """Volumes of a pod."""

    cache_claim: ObjectName | None = Field(None, description="A claim for models and compiled kernels.")
    cache_size: Text = Field("20Gi", description="Size of the cache while there is no claim.")
    state_size: Text = Field("4Gi", description="Size of the state directory with the usage ledger.")
    tmp_size: Text = Field("2Gi", description="Size of /tmp.")
    shm_size: Text = Field("1Gi", description="Size of /dev/shm, in memory.")


class Pod(Part):
    """Where pods run, and what else they have."""

    labels: dict[str, str] = Field({}, description="More labels.")
    annotations: dict[str, str] = Field({}, description="More annotations.")
    node_selector: dict[str, str] = Field({}, description="Labels that a node must have.")
    tolerations: list[Free] = Field([], max_length=64, description="Taints that pods tolerate.")
    affinity: Free = Field({}, description="Affinity.")
    runtime_class_name: str | None = Field(None, description="Runtime class, for instance nvidia.")
    priority_class_name: str | None = Field(None, description="Priority class.")
    env: list[Free] = Field([], max_length=128, description="More environment variables.")
    volumes: list[Free] = Field([], max_length=64, description="More volumes.")
    volume_mounts: list[Free] = Field([], max_length=64, description="Where the container sees them.")
    strategy: Literal["RollingUpdate", "Recreate"] = Field(
        "RollingUpdate", description="Recreate where there is no room for one more pod."
    )


class Spec(Part):
    """One model behind one Service."""

    model: Model = Field(description="The model.")
    image: Image = Field(Image(), description="The image.")
    replicas: int | None = Field(None, ge=0, le=1000, description="Pods, default 1; not together with autoscaling.")
    autoscaling: Autoscaling | None = Field(None, description="Pods by load.")
    resources: Resources = Field(Resources(), description="Requests and limits.")
    adapters: list[Adapter] = Field([], max_length=1000, description="LoRA adapters that are always there.")
    guard: Reference | None = Field(None, description="ConfigMap key with the settings of `guard`, shared by services.")
    limits: Reference | None = Field(None, description="ConfigMap key with the settings of `limits`.")
    config: Free = Field({}, description="More of sluice.yaml; see docs/configuration.md.")
    auth: Auth = Field(Auth(), description="Secrets of yours.")
    redis: Reference | None = Field(None, description="Secret key with the URL of Redis.")
    postgresql: Reference | None = Field(None, description="Secret key with the URL of PostgreSQL.")
    hugging_face_token: Reference | None = Field(None, description="Secret key with a token of the hub.")
    health: Health = Field(Health(), description="Probes.")
    canary: Canary | None = Field(None, description="Another version for a share of the traffic.")
    metrics: Metrics = Field(Metrics(), description="Where metrics are.")
    route: Route | None = Field(None, description="An HTTPRoute.")
    port: int = Field(8000, ge=1, le=65_535, description="Port of the Service.")
    storage: Storage = Field(Storage(), description="Volumes.")
    pod: Pod = Field(Pod(), description="Where pods run.")


#: What the operator sets in sluice.yaml and in the environment itself.
RESERVED: Final = (
    "host", "port", "api_key_file", "state_dir", "cache_dir", "secret_file", "redis_url_file", "allow_no_auth", "dev",
    "model", "models", "served_model_name", "engine",
)  # fmt: skip
