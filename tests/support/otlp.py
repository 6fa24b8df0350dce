"""A collector of our own: takes OTLP over HTTP, decodes it with OpenTelemetry's own types, or misbehaves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True, slots=True)
class Received:
    """A span as the collector has it. Times in nanoseconds; ids in hexadecimal, ``parent`` empty for none."""

    trace: str
    id: str
    parent: str
    name: str
    kind: int
    begin: int
    end: int
    failed: bool
    attributes: dict[str, Any]

    @property
    def is_server(self) -> bool:
        return self.kind == ProtoSpan.SPAN_KIND_SERVER


@dataclass
class Collector:
    """``answer``: its status; ``hang``: answers wait for ``go_on``."""

    port: int = 0
    answer: int = 200
    hang: bool = False
    go_on: threading.Event = field(default_factory=threading.Event)
    paths: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    spans: list[Received] = field(default_factory=list)
    resource: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def named(self, name: str) -> Received:
        (span,) = [each for each in self.spans if each.name == name]
        return span

    def names(self) -> set[str]:
        return {each.name for each in self.spans}

    def children(self, of: Received) -> list[Received]:
        return [each for each in self.spans if each.parent == of.id]

    def servers(self) -> list[Received]:
        return [each for each in self.spans if each.is_server]

    def take(self, path: str, body: bytes) -> None:
        self.paths.append(path)
        self.bodies.append(body)
        if self.answer != 200:
            return
        request = ExportTraceServiceRequest()
        request.ParseFromString(body)
        for group in request.resource_spans:
            self.resource = _plain(group.resource.attributes)
            self.spans += [_received(span) for scope in group.scope_spans for span in scope.spans]


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector on a free port of loopback, for the length of a block."""
    taken = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if taken.hang:
                taken.go_on.wait(60.0)
            taken.take(self.path, body)
            self.send_response(taken.answer)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    taken.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, name="collector", daemon=True)
    thread.start()
    try:
        yield taken
    finally:
        taken.go_on.set()
        server.shutdown()
        server.server_close()


def _received(span: ProtoSpan) -> Received:
    return Received(
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        name=span.name,
        kind=span.kind,
        begin=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        attributes=_plain(span.attributes),
    )


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes if isinstance(each, KeyValue)}


def _value(value: AnyValue) -> Any:
    if value.HasField("array_value"):
        return [_value(each) for each in value.array_value.values]
    return getattr(value, str(value.WhichOneof("value")))
