"""What was used, by whom, at what price, and where that is kept."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from gateway.settings.section import Section


class StoreSettings(Section):
    """The database of keys, usage and audit."""

    url: SecretStr | None = Field(
        None, description="SQLAlchemy URL (environment only); default: SQLite in the state directory."
    )
    url_file: Path | None = Field(None, description="A file that holds the URL.")
    poll_interval: float = Field(1.0, gt=0, description="Seconds between looks for changed keys.")
    max_stale: float = Field(3600.0, gt=0, description="Seconds that known keys go on working with the database away.")
    on_revoke: Literal["cut", "finish"] = Field("cut", description="What happens to a revoked key's running requests.")


class PriceSettings(Section):
    """Prices per million tokens, in a currency of your choice."""

    prompt: Decimal = Field(Decimal(0), ge=0, description="Prompt tokens that were not cached.")
    cached: Decimal | None = Field(None, ge=0, description="Cached prompt tokens; default: as prompt.")
    completion: Decimal = Field(Decimal(0), ge=0, description="Completion tokens, reasoning included.")


class UsageSettings(Section):
    """What becomes of the ledger: rows in the database, prices, how long they stay."""

    database: bool = Field(True, description="Copy the ledger to the database, for `sluice usage` and the admin API.")
    prices: dict[str, PriceSettings] = Field({}, description="By model id, or base:adapter.")
    retention_days: int | None = Field(None, ge=1, description="Days that usage rows stay; default: for ever.")
    audit_retention_days: int | None = Field(None, ge=1, description="Days that audit rows stay; default: for ever.")


class LedgerSettings(Section):
    """The record of what was used, by whom."""

    path: Path | None = Field(None, description="Append-only JSON lines; default: ledger.jsonl in the state directory.")
    max_bytes: int = Field(64 * 1024 * 1024, ge=4096, description="Size at which the file is rotated; none is deleted.")


class CacheSettings(Section):
    """Prefix-cache isolation between tenants."""

    isolation: bool = Field(True, description="Tenants never share cached prompts, so none can time another's.")
    groups: dict[str, list[str]] = Field({}, description="Groups of tenants that do share, by group name.")
