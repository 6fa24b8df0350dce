"""What requests may ask for, how much callers may take, and who is served when."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.limits.quota import Quota
from gateway.settings.section import Section


class QuotaSettings(Section):
    """Limits of one key or model. Without a number there is no limit of that kind."""

    requests_per_minute: int | None = Field(None, ge=0, description="In any 60 seconds.")
    tokens_per_minute: int | None = Field(None, ge=0, description="Prompt and completion tokens in any 60 seconds.")
    tokens_per_day: int | None = Field(None, ge=0, description="Prompt and completion tokens in any 24 hours.")
    concurrent: int | None = Field(None, ge=0, description="Requests at once.")

    def quota(self) -> Quota:
        """As the limiter wants it."""
        return Quota(**self.model_dump())


class AddressLimitSettings(Section):
    """A token bucket per caller's address (IPv6: per /64)."""

    burst: int | None = Field(None, ge=1, description="Requests at once; without it addresses are not limited.")
    per_second: float = Field(0.0, ge=0, description="Requests that come back per second.")


class LimitSettings(Section):
    """What one request may ask for, and how much keys, addresses and models may take."""

    max_tokens: int = Field(8192, ge=1, description="Most completion tokens per choice; larger wishes are clamped.")
    max_n: int = Field(128, ge=1, le=128, description="Most choices per prompt.")
    max_messages: int = Field(2048, ge=1, description="Messages of one conversation.")
    max_prompts: int = Field(64, ge=1, description="Prompts of one completions request.")
    max_inputs: int = Field(256, ge=1, description="Texts of one embeddings, classify, rerank or score request.")
    key: QuotaSettings = QuotaSettings()
    model: dict[str, QuotaSettings] = Field({}, description="Limits of a model over all its callers, by model id.")
    address: AddressLimitSettings = AddressLimitSettings()
    redis_failure: Literal["local", "closed"] = Field(
        "local",
        description="With Redis away: each replica admits its share by itself, or everything limited is answered 503.",
    )
    replicas: int = Field(
        1, ge=1, description="Most replicas that run; each one's share with Redis away is 1/replicas."
    )
    lease_seconds: float = Field(
        30.0, ge=1, description="A dead replica's concurrency leases return after this; live ones are renewed."
    )
    redis_timeout: float = Field(0.05, gt=0, description="Seconds one decision may wait for Redis.")
    namespace: str = Field(
        "sluice", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Deployments that share it share their limits."
    )


class AdaptiveSettings(Section):
    """An adaptive bound on running sequences that holds a latency."""

    enabled: bool = Field(False, description="Adapt the number of running sequences.")
    min: int = Field(4, ge=1, description="Never fewer.")
    max: int | None = Field(None, ge=1, description="Never more; default: max_running.")
    target_latency: float = Field(1.0, gt=0, description="Time to first token, in seconds, to hold.")
    target_queue: int = Field(1, ge=0, description="Waiting requests above which the bound grows while latency allows.")


class AdmissionSettings(Section):
    """Who is served when: the queue in front of the engine."""

    max_running: int | None = Field(
        None, ge=1, description="Sequences generating at once; default: what the engine batches."
    )
    max_queue: int = Field(1024, ge=0, description="Requests waiting for a slot; more are answered 503.")
    max_wait: float = Field(60.0, gt=0, description="Seconds a request may wait for a slot; longer is answered 503.")
    fair_share: bool = Field(True, description="Divide the engine between tenants by tokens served and weight.")
    max_memory_fraction: float = Field(
        0.92,
        gt=0,
        le=1,
        description="Share of the machine's (or container's) memory in use above which new work is shed.",
    )
    adaptive: AdaptiveSettings = AdaptiveSettings()
