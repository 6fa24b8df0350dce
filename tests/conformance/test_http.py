"""CONFORMANCE, HTTP: on the real engine, over real sockets."""

from __future__ import annotations

import socket
import uuid
from typing import Any

import httpx
import pytest
import yaml
from openapi_spec_validator import validate

from tests.conformance.contract import Api, assert_error

pytestmark = pytest.mark.engine


def test_health_needs_no_key(api: Api) -> None:
    for path, status in (("/healthz", "ok"), ("/readyz", "ready"), ("/startupz", "started")):
        response = httpx.get(api.gateway.live.url + path)
        assert (response.status_code, response.json()) == (200, {"status": status})
    for path in ("/openapi.yaml", "/metrics", "/version"):
        assert httpx.get(api.gateway.live.url + path).status_code == 200


def test_docs_only_in_development(api: Api) -> None:
    assert_error(api.http.get("/docs"), 404, "unknown_url")


def test_models(api: Api) -> None:
    listed = api.http.get("/v1/models").json()
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert model["id"] == api.model
    assert model["object"] == "model"
    assert model["owned_by"]
    assert isinstance(model["created"], int)
    assert api.http.get(f"/v1/models/{api.model}").json() == model
    assert_error(api.http.get("/v1/models/no/such/model"), 404, "model_not_found", "model")
    assert_error(api.http.get("/v1/models/"), 404, "unknown_url")


def test_objects_and_ids(api: Api) -> None:
    chat = [api.chat(max_tokens=1).json() for _ in range(3)]
    text = [api.completion("a", max_tokens=1).json() for _ in range(3)]
    assert {answer["object"] for answer in chat} == {"chat.completion"}
    assert {answer["object"] for answer in text} == {"text_completion"}
    assert all(answer["id"].startswith("chatcmpl-") for answer in chat)
    assert all(answer["id"].startswith("cmpl-") for answer in text)
    assert len({answer["id"] for answer in chat + text}) == 6


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/nowhere", "/v1/chat/completions"])
def test_headers_on_every_answer(api: Api, path: str) -> None:
    headers = api.http.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"
    assert uuid.UUID(headers["x-request-id"]).version == 4


def test_headers_on_a_stream(api: Api) -> None:
    body = {"model": api.model, "stream": True, "max_tokens": 1, "messages": [{"role": "user", "content": "a"}]}
    with api.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-request-id"]
        response.read()


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("abc-123_x.Y", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ("a;b", False), ("é", False)],
)
def test_request_id_is_echoed_or_replaced(api: Api, sent: str, kept: bool) -> None:
    got = api.http.get("/v1/models", headers=[(b"x-request-id", sent.encode())]).headers["x-request-id"]
    assert (got == sent) is kept
    assert any(entry.request_id == got for entry in api.gateway.live.access_log.entries)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"authorization": "Bearer sk-wrong"}, "invalid_api_key"),
        ({"authorization": "Basic abc"}, "invalid_api_key"),
        ({"authorization": "Bearer"}, "invalid_api_key"),
        ({"authorization": "Bearer  two-spaces"}, "invalid_api_key"),
        ({"authorization": "bearer sk-wrong"}, "invalid_api_key"),
    ],
)
@pytest.mark.parametrize("body", [b"", b"{", b'{"model": "x"}', b"\xff"])
def test_who_is_not_known_learns_nothing(api: Api, headers: dict[str, str], code: str, body: bytes) -> None:
    url = api.gateway.live.url + "/v1/chat/completions"
    assert_error(httpx.post(url, content=body, headers=headers), 401, code)


def test_two_credentials_are_ambiguous(api: Api) -> None:
    key = api.gateway.live.authorization["Authorization"]
    response = httpx.get(
        api.gateway.live.url + "/v1/models", headers=[("Authorization", key), ("Authorization", "Bearer other")]
    )
    assert_error(response, 400, "ambiguous_credentials")


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/v1",
        "/v1/",
        "/v1/models/",
        "/v1/chat/completions/",
        "//v1/models",
        "/v1//models",
        "/V1/models",
        "/v1/Models",
        "/v1/./models",
        "/v1/x/../models",
        "/v1/%6dodels",
        "/v1/models%00",
        "/v1/models/%2e%2e",
        "/v1/models/a%00b",
        "/healthz/",
    ],
)
def test_unknown_paths_are_404_and_never_redirects(api: Api, path: str) -> None:
    with socket.create_connection(("127.0.0.1", api.gateway.live.port)) as raw:  # clients tidy paths up
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert_error(httpx.Response(int(head.split()[1]), headers=headers, content=body), 404, "unknown_url")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET"),
        ("PUT", "/healthz", "GET"),
        ("HEAD", "/v1/models", "GET"),
        ("OPTIONS", "/v1/completions", "POST"),
    ],
)
def test_wrong_methods(api: Api, method: str, path: str, allow: str) -> None:
    response = api.http.request(method, path)
    assert response.headers["allow"] == allow
    if method == "HEAD":
        assert (response.status_code, response.content) == (405, b"")
    else:
        assert_error(response, 405, "method_not_allowed")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"content-type": "text/plain"}, "unsupported_media_type"),
        ({"content-type": ""}, "unsupported_media_type"),
        ({"content-type": "application/json; charset=utf-16"}, "unsupported_media_type"),
        ({"content-type": "application/jsonx"}, "unsupported_media_type"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, "unsupported_content_encoding"),
    ],
)
def test_other_media_are_415(api: Api, headers: dict[str, str], code: str) -> None:
    assert_error(api.http.post("/v1/chat/completions", content=b"{}", headers=headers), 415, code)


def test_json_with_utf8_charset_is_taken(api: Api) -> None:
    headers = {"content-type": "application/json; charset=UTF-8"}
    assert_error(api.http.post("/v1/chat/completions", content=b"{", headers=headers), 400, "invalid_json")


def test_large_bodies(api: Api) -> None:
    limit = 10 * 1024 * 1024
    assert_error(api.post(b"[" + b" " * limit), 413, "request_too_large")
    assert_error(api.post(b"[" + b" " * (limit - 1)), 400, "invalid_json")

    def pieces() -> Any:
        for _ in range(11 * 16):
            yield b" " * 65_536

    chunked = api.http.post("/v1/chat/completions", content=pieces(), headers={"content-type": "application/json"})
    assert_error(chunked, 413, "request_too_large")


def test_the_openapi_document_is_valid_and_whole(api: Api) -> None:
    from gateway.protocol.chat import ChatCompletionRequest
    from gateway.protocol.completions import CompletionRequest

    document = yaml.safe_load(api.http.get("/openapi.yaml").text)
    validate(document)
    front = api.gateway.live.gateway._front
    assert front is not None
    routes = {(route.path, route.method.lower()) for route in front._routes.routes}
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert described == routes
    for model in (ChatCompletionRequest, CompletionRequest):
        properties = document["components"]["schemas"][model.__name__]["properties"]
        assert set(properties) == set(model.model_fields)
        assert all(field.get("description") for field in properties.values())
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert ("security" in operation) is path.startswith("/v1/")


def test_metrics_are_ours_and_vllms(api: Api) -> None:
    api.chat(max_tokens=2)
    api.chat(max_tokens=2, stream=True)
    text = api.http.get("/metrics").text
    for name in (
        'sluice_requests_total{code="",outcome="completed",route="/v1/chat/completions",status="200"}',
        "sluice_time_to_first_token_seconds_count",
        "sluice_event_loop_lag_seconds_bucket",
        'sluice_engine_phase{phase="ready"} 1.0',
        "vllm:num_requests_waiting",
        "vllm:generation_tokens_total",
    ):
        assert name in text


def test_access_log_has_what_was_used_and_no_text(api: Api) -> None:
    response = api.chat("a secret word: canary-0123456789", max_tokens=3, user="alice", metadata={"team": "blue"})
    entry = next(e for e in api.gateway.live.access_log.entries if e.request_id == response.headers["x-request-id"])
    usage = response.json()["usage"]
    assert (entry.prompt_tokens, entry.completion_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert entry.labels == {"user": "alice", "metadata.team": "blue"}
    assert entry.outcome == "completed"
    assert 0 < (entry.ttft_ms or 0) <= entry.duration_ms
    assert "canary" not in repr(entry)
