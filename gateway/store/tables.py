"""The one schema, for SQLite and PostgreSQL alike. Changed only together with a migration."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

#: SQLite numbers rows by themselves only in a column of its own INTEGER type.
_Serial: Final = BigInteger().with_variant(Integer, "sqlite")

metadata: Final = MetaData()

#: One counter per topic: raised in the transaction that changes a row, so readers know that, and what, changed.
revisions: Final = Table(
    "revisions",
    metadata,
    Column("topic", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

#: Facts about this store as a whole: the fingerprint of the secret its hashes were made with, the guard's policies that
#: an administrator set.
facts: Final = Table(
    "facts",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

#: API keys. Times are Unix seconds; hashes are hex. ``models`` and ``adapters`` None: all.
keys: Final = Table(
    "keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(256), nullable=False),
    Column("tenant", String(128), nullable=False, index=True),
    Column("secret_hash", String(64), nullable=False),
    Column("previous_hash", String(64)),
    Column("previous_until", Float),
    Column("scopes", JSON, nullable=False),
    Column("models", JSON(none_as_null=True)),
    Column("adapters", JSON(none_as_null=True)),
    Column("quota", JSON, nullable=False),
    Column("weight", Float, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("guard_policy", String(64)),
    Column("created_at", Float, nullable=False),
    Column("created_by", String(128), nullable=False),
    Column("rotated_at", Float),
    Column("expires_at", Float),
    Column("revoked_at", Float),
    Column("revision", BigInteger, nullable=False, index=True),
)

#: One row per admitted request, written once: a second insert of the same id changes nothing. Times are Unix seconds,
#: spans seconds; ``day`` is the UTC day of ``received`` (YYYY-MM-DD); ``cost_nanos`` is billionths of the currency in
#: which prices are configured, None where no price is.
usage: Final = Table(
    "usage",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("http_request_id", String(128)),
    Column("received", Float, nullable=False),
    Column("day", String(10), nullable=False),
    Column("tenant", String(128), nullable=False),
    Column("principal", String(128), nullable=False),
    Column("route", String(64), nullable=False),
    Column("model", String(256), nullable=False),
    Column("adapter", String(64)),
    Column("outcome", String(16), nullable=False),
    Column("code", String(64)),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("ttft", Float),
    Column("duration", Float, nullable=False),
    Column("cost_nanos", BigInteger),
    Column("arm", String(80)),
    Index("usage_day", "day"),
    Index("usage_tenant_day", "tenant", "day"),
    Index("usage_principal_day", "principal", "day"),
)

#: Administrative acts and denials.
audit: Final = Table(
    "audit",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("ts", Float, nullable=False, index=True),
    Column("actor", String(128), nullable=False),
    Column("act", String(64), nullable=False),
    Column("target", String(128)),
    Column("allowed", Boolean, nullable=False),
    Column("detail", JSON, nullable=False),
    Column("client_ip", String(64)),
    Column("request_id", String(128)),
)

#: Responses that are kept for their tenants. Times are Unix seconds; ``document`` and ``items`` are JSON.
responses: Final = Table(
    "responses",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False, index=True),
    Column("document", LargeBinary, nullable=False),
    Column("items", LargeBinary, nullable=False),
    Index("responses_tenant_created", "tenant", "created_at"),
)

#: Adapters registered at run time. ``sha256`` is of the content that is meant, ``source_sha256`` of an archive;
#: ``tenant`` None: everybody's. Times are Unix seconds.
adapters: Final = Table(
    "adapters",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("model", String(256), nullable=False),
    Column("source", Text, nullable=False),
    Column("source_sha256", String(64)),
    Column("source_revision", String(256)),
    Column("sha256", String(64)),
    Column("tenant", String(128)),
    Column("pinned", Boolean, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("created_by", String(128), nullable=False),
)

#: Public names of the registry. ``document`` is JSON: a name is changed as a whole.
registry: Final = Table(
    "registry",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("document", LargeBinary, nullable=False),
    Column("revision", BigInteger, nullable=False),
)

#: What each replica counted of a canary's arms in one step (epoch). ``document`` is JSON.
registry_outcomes: Final = Table(
    "registry_outcomes",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("replica", String(32), primary_key=True),
    Column("document", LargeBinary, nullable=False),
)
