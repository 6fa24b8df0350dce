"""Who may come in."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, IPvAnyNetwork

from gateway.settings.section import Section


class AccessSettings(Section):
    """Who may come in, and what those see who may not."""

    trusted_proxies: list[IPvAnyNetwork] = Field(
        [], description="Networks whose X-Forwarded-For is believed; the right-most hop outside of them is the caller."
    )
    model_denied: Literal["404", "403"] = Field(
        "404", description="Answer for a model that exists and is not allowed: as if it did not exist, or openly."
    )
    max_failures_per_minute: int = Field(
        300, ge=1, description="Wrong credentials from one address; more are answered 429 before they are looked at."
    )


class JwtSettings(Section):
    """One issuer of bearer JWTs (OpenID Connect or plain)."""

    issuer: str = Field(min_length=1, description="Exact value of `iss`.")
    audience: str = Field(min_length=1, description="Must be `aud`, or one of its elements.")
    jwks_url: str | None = Field(None, description="Where its keys are; default: by OpenID Connect discovery.")
    algorithms: list[Literal["RS256", "ES256", "EdDSA"]] = Field(
        ["RS256", "ES256", "EdDSA"], min_length=1, description="Accepted signatures."
    )
    leeway: float = Field(30.0, ge=0, le=300, description="Seconds that clocks may differ.")
    refresh_interval: float = Field(300.0, ge=1, description="Seconds between fetches of the keys.")
    max_stale: float = Field(86_400.0, ge=1, description="Seconds that the last good keys work while fetches fail.")
    scope_claim: str = Field("scope", description="Claim with the scopes: words in a string, or a list.")
    scopes: dict[str, Literal["inference", "read_only", "training", "admin"]] = Field(
        {name: name for name in ("inference", "read_only", "training", "admin")},
        description="What a value of the scope claim means here.",
    )
    tenant_claim: str | None = Field(None, description="Claim with the tenant; default: the tenant is the issuer's.")
    tenant: str = Field("default", description="Tenant of tokens without a tenant claim.")
    models_claim: str | None = Field(None, description="Claim with the list of allowed models; default: all.")
    adapters_claim: str | None = Field(None, description="Claim with the list of allowed adapters; default: all.")
    quota_claim: str | None = Field(None, description="Claim with an object of limits, named as under limits.key.")
    weight_claim: str | None = Field(None, description="Claim with the fair-share weight.")
