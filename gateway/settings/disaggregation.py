"""Prompts that another process computes."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from gateway.settings.section import Section


class DisaggregationSettings(Section):
    """Prefill here, generation there (docs/disaggregation.md)."""

    role: Literal["none", "prefill", "decode"] = Field(
        "none",
        description="prefill: compute prompts for others, who know the same `secret`; decode: have `peers` compute the "
        "prompts of this server's requests; none: everything here.",
    )
    peers: list[str] = Field([], max_length=64, description="Addresses of the servers that compute prompts (decode).")
    min_prompt_tokens: int = Field(512, ge=1, description="Shorter prompts are computed here.")
    timeout: float = Field(
        10.0, gt=0, description="Seconds that peers get for one prompt; then it is computed here instead."
    )
    poll_interval: float = Field(1.0, gt=0, description="Seconds between looks at a peer that answers.")
    max_poll_interval: float = Field(30.0, gt=0, description="The same for one that has long been away.")

    @field_validator("peers")
    @classmethod
    def _check_peers(cls, value: list[str]) -> list[str]:
        for peer in value:
            parts = urlsplit(peer)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
                raise ValueError(f"{peer}: expected an http(s) address")
            if parts.path not in ("", "/") or parts.query or parts.fragment:
                raise ValueError(f"{peer}: expected an address without a path")
        addresses = [peer.rstrip("/") for peer in value]
        if len(set(addresses)) < len(addresses):
            raise ValueError("an address is listed twice")
        return addresses

    @model_validator(mode="after")
    def _check_role(self) -> DisaggregationSettings:
        if self.role == "decode" and not self.peers:
            raise ValueError("role decode needs peers, which compute its prompts")
        if self.role != "decode" and self.peers:
            raise ValueError("peers are asked by role decode only")
        return self
