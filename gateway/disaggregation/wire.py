"""What peers say to each other: version 1 of the contract (docs/disaggregation.md)."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from engine.types import TransferFacts

VERSION: Final = 1
PREFILL: Final = "/internal/v1/prefill"
STATE: Final = "/internal/v1/state"


class _Wire(BaseModel):
    """Unknown fields are errors: a newer peer says so by its version."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WireFacts(_Wire):
    """See :class:`engine.types.TransferFacts`."""

    connector: str = Field(description="What moves the cache.")
    weights: str = Field(description="Digest of the model's configuration and files.")
    dtype: str = Field(description="Of model and cache.")
    block_size: int = Field(description="Tokens of a block.")

    @classmethod
    def of(cls, facts: TransferFacts) -> WireFacts:
        """``facts`` for the wire."""
        return cls(connector=facts.connector, weights=facts.weights, dtype=facts.dtype, block_size=facts.block_size)

    def facts(self) -> TransferFacts:
        """The facts."""
        return TransferFacts(self.connector, self.weights, self.dtype, self.block_size)


class PrefillRequest(_Wire):
    """One prompt to be computed. Who asks has identified, limited and judged its caller."""

    version: int = Field(description="Of this contract.")
    request_id: str = Field(min_length=1, max_length=256, description="The caller's request, for logs and ledger.")
    model: str = Field(min_length=1, max_length=256, description="Id of the model.")
    facts: WireFacts = Field(description="The engine that will go on; another kind is refused.")
    token_ids: list[int] = Field(min_length=1, description="The prompt.")
    cache_salt: str | None = Field(None, max_length=256, description="Only prompts of equal salt share cached ones.")
    tenant: str = Field(max_length=256, description="Whose share of this server it takes.")
    weight: float = Field(gt=0, description="The tenant's weight among others.")
    seconds: float = Field(gt=0, le=3600, description="How long it may take.")


class PrefillAnswer(_Wire):
    """What the engine that goes on must be told."""

    version: int = Field(description="Of this contract.")
    transfer: dict[str, Any] | None = Field(
        description="Parameters for its connector, as this engine's gave them; null: it finds the cache by itself."
    )


class PeerState(BaseModel):
    """How a peer is. Unknown fields are passed over, so that a peer of another version can be told by its version."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: int = Field(description="Of this contract.")
    ready: bool = Field(description="It takes work.")
    queued_tokens: int = Field(0, ge=0, description="Prompt tokens that wait to be computed.")
    models: dict[str, WireFacts] = Field({}, description="The models whose caches it hands on.")
