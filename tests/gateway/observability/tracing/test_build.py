"""Where traces go: settings, and OpenTelemetry's own variables."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gateway.observability.metrics import Metrics
from gateway.observability.tracing.build import build_tracing, endpoint_of
from gateway.observability.tracing.span import NO_SPAN
from gateway.observability.tracing.tracer import RecordingTracer, Untraced
from gateway.settings.section import SettingsError
from gateway.settings.tracing import TracingSettings

BASE, EXACT = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@pytest.mark.parametrize(
    ("setting", "environ", "endpoint"),
    [
        (None, {}, None),
        ("http://c:4318", {}, "http://c:4318/v1/traces"),
        ("http://c:4318/", {}, "http://c:4318/v1/traces"),
        ("https://c/otel/v1/traces", {}, "https://c/otel/v1/traces"),
        (None, {BASE: "http://e:4318"}, "http://e:4318/v1/traces"),
        (None, {EXACT: "http://e/exactly", BASE: "http://other"}, "http://e/exactly"),
        ("http://c", {BASE: "http://e", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http://c/v1/traces"),
        (None, {BASE: "http://e", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "http://e/v1/traces"),
        (None, {BASE: "http://e", "OTEL_TRACES_EXPORTER": "none"}, None),
        ("http://c", {"OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_endpoint(setting: str | None, environ: dict[str, str], endpoint: str | None) -> None:
    assert endpoint_of(TracingSettings(otlp_endpoint=setting), environ) == endpoint


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({BASE: "http://e:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
        ({BASE: "collector:4317"}, BASE),
        ({EXACT: "collector:4317"}, EXACT),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(environ: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        endpoint_of(TracingSettings(), environ)


@pytest.mark.parametrize(
    "url", ["collector:4318", "ftp://c", "http://", "http://user:word@c", "http://c/?a=b", "http://c#x"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ValidationError):
        TracingSettings(otlp_endpoint=url)


def test_without_a_collector_nothing_is_made() -> None:
    tracer = build_tracing(TracingSettings(), {}, Metrics())
    assert isinstance(tracer, Untraced)
    span = tracer.begin([(b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")], 0.0)
    assert span is NO_SPAN
    with span.child("render") as inner:
        assert inner is NO_SPAN


def test_the_ratio_holds_for_traces_that_begin_here_only() -> None:
    def kept(ratio: float, headers: list[tuple[bytes, bytes]]) -> int:
        tracer = build_tracing(TracingSettings(otlp_endpoint="http://c", sample_ratio=ratio), {}, Metrics())
        assert isinstance(tracer, RecordingTracer)
        return sum(tracer.begin(headers, 0.0).recording for _ in range(1000))

    assert kept(0.0, []) == 0
    assert kept(1.0, []) == 1000
    assert 100 < kept(0.25, []) < 400
    sampled = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    unsampled = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
    assert kept(0.0, [sampled]) == 1000
    assert kept(1.0, [unsampled]) == 0
