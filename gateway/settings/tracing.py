"""Traces for an OpenTelemetry collector."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints

from gateway.settings.section import Section


def _collector(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("secrets do not belong in a settings file; use OTEL_EXPORTER_OTLP_HEADERS")
    if parts.query or parts.fragment:
        raise ValueError("must have no query and no fragment")
    return url


CollectorUrl = Annotated[str, AfterValidator(_collector)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class TracingSettings(Section):
    """Traces for an OpenTelemetry collector (docs/tracing.md)."""

    otlp_endpoint: CollectorUrl | None = Field(
        None,
        description="URL of a collector that takes OTLP over HTTP; spans go to its `/v1/traces`. Default: "
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT; without any of them nothing is traced.",
    )
    sample_ratio: float = Field(
        1.0, ge=0, le=1, description="Share of the traces beginning here that is kept; others follow their parent."
    )
    service_name: Name | None = Field(None, description="`service.name`; default: OTEL_SERVICE_NAME, else `sluice`.")
    resource_attributes: dict[Name, Name] = Field(
        {}, description="Further attributes of the resource, over those of OTEL_RESOURCE_ATTRIBUTES."
    )
    timeout: float = Field(5.0, gt=0, le=60, description="Seconds that the collector may take for one batch.")
    queue_size: int = Field(
        8192, ge=512, le=1_000_000, description="Spans that may wait for the collector; more are dropped."
    )
