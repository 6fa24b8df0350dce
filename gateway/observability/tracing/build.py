"""The tracer that settings and OpenTelemetry's standard environment variables ask for."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Final

from gateway.observability.tracing.tracer import RecordingTracer, Tracer, Untraced
from gateway.settings.section import SettingsError
from gateway.settings.tracing import TracingSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from gateway.observability.tracing.export import ExportObserver

PATH: Final = "/v1/traces"
_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_TRACES_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN: Final = "http/protobuf"


def build_tracing(settings: TracingSettings, environ: Mapping[str, str], observer: ExportObserver) -> Tracer:
    """A tracer for the collector that is named, or one that does nothing.

    Raises :class:`SettingsError` where the environment asks for a protocol that is not spoken.
    """
    endpoint = endpoint_of(settings, environ)
    if endpoint is None:
        return Untraced()
    # Only now: most deployments have no collector.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from gateway.observability.tracing.export import TraceExport

    # It logs each attempt; what matters is said once, by ourselves.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    export = TraceExport(
        OTLPSpanExporter(endpoint=endpoint, timeout=settings.timeout),
        _resource(settings),
        InstrumentationScope("sluice", metadata.version("sluice")),
        observer,
        capacity=settings.queue_size,
    )
    sampler = TraceIdRatioBased(settings.sample_ratio)

    def keeps(trace_id: int) -> bool:
        return sampler.should_sample(None, trace_id, "").decision is Decision.RECORD_AND_SAMPLE

    return RecordingTracer(keeps, export)


def endpoint_of(settings: TracingSettings, environ: Mapping[str, str]) -> str | None:
    """Where spans are posted to; None if tracing is off. Raises :class:`SettingsError`."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if settings.otlp_endpoint is not None:
        return with_path(settings.otlp_endpoint)
    if environ.get("OTEL_TRACES_EXPORTER", "otlp").strip() != "otlp":
        return None
    if exact := environ.get(_TRACES_ENDPOINT):
        return _required(_TRACES_ENDPOINT, exact, environ)
    if base := environ.get(_ENDPOINT):
        return _required(_ENDPOINT, with_path(base), environ)
    return None


def with_path(base: str) -> str:
    """The address of traces at the collector ``base``, which may name it already."""
    base = base.rstrip("/")
    return base if base.endswith(PATH) else base + PATH


def _required(variable: str, endpoint: str, environ: Mapping[str, str]) -> str:
    """``endpoint`` if it can be used. The value is not named: it may hold a secret."""
    if not endpoint.startswith(("http://", "https://")):
        raise SettingsError(f"{variable}: must be an http:// or https:// URL")
    named = next((name for name in _PROTOCOLS if environ.get(name)), None)
    if named is not None and environ[named].strip() != _SPOKEN:
        raise SettingsError(f"{named}: traces leave by {_SPOKEN} only, not {environ[named]!r}")
    return endpoint


def _resource(settings: TracingSettings) -> Resource:
    """Ours, over what the environment says, over what is known anyway."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    named = {} if settings.service_name is None else {"service.name": settings.service_name}
    known = {
        "service.name": "sluice",
        "service.version": metadata.version("sluice"),
        "service.instance.id": str(uuid.uuid4()),
    }
    said = OTELResourceDetector().detect().attributes
    return Resource.create({**known, **said, **settings.resource_attributes, **named})
