"""What a stranger tries at the front door of a whole gateway: one clear answer each, and nothing is left behind.

More of the classes of tables H, J, U, M and P, as bytes. Values of fields are in `protocol/`, framing in `http/`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import httpx
import pytest

from tests.conformance.contract import assert_error
from tests.support.gateways import KEY, Threaded, eventually, threaded
from tests.support.stub_engine import StubConfig, StubEngine
from tests.support.wire import Connection

CANARY: Final = "canary-4711"
CHAT: Final = b"/v1/chat/completions"
AUTH: Final = f"Authorization: Bearer {KEY}\r\n".encode()
JSON: Final = b"Content-Type: application/json\r\n"
BODY: Final[dict[str, Any]] = {"model": "stub", "messages": [{"role": "user", "content": CANARY}], "max_tokens": 2}


class Try(NamedTuple):
    """Bytes to send, and what they must be answered. ``code`` None: no error."""

    data: bytes
    status: int
    code: str | None = None
    param: str | None = None


def get(path: bytes, headers: bytes = b"", *, auth: bytes = AUTH, method: bytes = b"GET") -> bytes:
    return method + b" " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + auth + headers + b"\r\n"


def post(
    body: object, headers: bytes = b"", *, path: bytes = CHAT, auth: bytes = AUTH, kind: bytes = JSON,
    method: bytes = b"POST",
) -> bytes:  # fmt: skip
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return get(path, kind + headers + b"Content-Length: %d\r\n" % len(data), auth=auth, method=method) + data


def bearer(value: bytes) -> bytes:
    return b"Authorization: " + value + b"\r\n"


PATHS = {
    path: Try(get(path), 404, "unknown_url")
    for path in (
        b"/", b"/v1", b"/V1/models", b"//v1/models", b"/v1//models", b"/v1/./models", b"/%76%31/models", b"/v1/models/",
        b"/v1/models/..", b"/v1/models/%2e%2e", b"/v1/models/%00", b"/v1/models/stub%0a", b"/v1/models/%ff",
        b"/v1/models/a/../stub", b"/v1/models/..%2f..%2fetc%2fpasswd", b"/v1/models/%E2%80%AEx", b"/v1/chat/x/",
        b"/v1/chat/completions%2f", b"/admin", b"/metrics/", b"/docs", b"/console", b"/tokenize", b"/pause",
        b"/invocations", b"/v1/load_lora_adapter", b"/server_info",
    )
}  # fmt: skip
MODELS = {
    path: Try(get(path), 404, "model_not_found", "model")
    for path in (b"/v1/models/%zz", b"/v1/models/stub%", b"/v1/models/stub%20", b"/v1/models/stub;x=1",
                 b"/v1/models/stub%5c", b"/v1/models/" + b"a" * 4000, b"/v1/models/%F0%9F%98%80")
}  # fmt: skip
METHODS = {
    method: Try(post(BODY, method=method), 405, "method_not_allowed")
    for method in (b"GET", b"OPTIONS", b"TRACE", b"PUT", b"PATCH", b"DELETE", b"CONNECT", b"PROPFIND", b"M-SEARCH")
} | {method: Try(get(b"/v1/models", method=method), 400, "malformed_request")
     for method in (b"get", b"Get", b"G-ET", b"X" * 32, b"X" * 33, b"GET\x00")}  # fmt: skip
MEDIA = {
    kind: Try(post(BODY, kind=b"Content-Type: " + kind + b"\r\n"), 415, "unsupported_media_type")
    for kind in (b"", b"text/json", b"application/json,", b"application/json, text/plain", b"application/jsonp",
                 b"application/json; charset=utf-8; charset=utf-16", b"application/vnd.api+json",
                 b"multipart/form-data; boundary=x", b"application/json\r\nContent-Type: text/plain",
                 b"text/plain\r\nContent-Type: application/json")
} | {kind: Try(post(BODY, kind=b"Content-Type: " + kind + b"\r\n"), 200)
     for kind in (b"APPLICATION/JSON", b'application/json; charset="UTF-8"', b"\tapplication/json\t")}  # fmt: skip
CODINGS = {
    coding: Try(post(BODY, b"Content-Encoding: " + coding + b"\r\n"), 415, "unsupported_content_encoding")
    for coding in (b"gzip", b"br", b"gzip, identity", b"identity\r\nContent-Encoding: gzip")
} | {
    coding: Try(post(BODY, b"Content-Encoding: " + coding + b"\r\n"), 200) for coding in (b"", b"identity", b"Identity")
}
DEADLINES = {
    value: Try(post(BODY, b"X-Request-Deadline-Ms: " + value + b"\r\n"), 400, "invalid_deadline")
    for value in (b"", b"0", b"1.5", b"+5", b"\xd9\xa1", b"5000\r\nX-Request-Deadline-Ms: soon",
                  b"5000\r\nX-Request-Deadline-Ms: 5000")
} | {b"blanks": Try(post(BODY, b"X-Request-Deadline-Ms: \t5000 \r\n"), 200)}  # fmt: skip
IGNORED = {
    header: Try(post(BODY, header + b"\r\n"), 200)
    for header in (b"X-Forwarded-For: 1.2.3.4", b"X-Scope: none\r\nX-Tenant: other\r\nX-Model: other", b"Cookie: a=b",
                   b"X-HTTP-Method-Override: DELETE", b"Range: bytes=0-1", b"Traceparent: 00-zz", b"Accept: text/html",
                   b"Origin: https://elsewhere.example", b"Idempotency-Key: x", b"X-Request-Id: a b",
                   b"X-Forwarded-For: " + b"1.1.1.1," * 1000)
}  # fmt: skip
KEYS = {
    value: Try(post(b"{broken", auth=bearer(value)), 401, "invalid_api_key")
    for value in (b"", b"Bearer", b"Bearer ", f"Bearer  {KEY}".encode(), f"Bearer\t{KEY}".encode(), KEY.encode(),
                  f"Bearer {KEY} ".encode(), f"Bearer {KEY} x".encode(), f"Bearer {KEY}, Bearer {KEY}".encode(),
                  f"Bearer {KEY}=".encode(), b"Basic c2s6", b"Digest username=x", b"Bearer \xff", b"Bearer a.b.c",
                  b"Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.", b"Bearer " + b"a" * 16_000,
                  b"Bearer sk-abcdefghijklmnop-" + b"A" * 43)
}  # fmt: skip
ELSEWHERE = {
    header: Try(get(b"/v1/models", header, auth=b""), 401, "missing_api_key")
    for header in (f"Cookie: authorization={KEY}\r\n".encode(), f"X-Api-Key: {KEY}\r\n".encode(),
                   f"Api-Key: {KEY}\r\n".encode(), f"Proxy-Authorization: Bearer {KEY}\r\n".encode())
} | {
    b"query": Try(get(f"/v1/models?api_key={KEY}".encode(), auth=b""), 401, "missing_api_key"),
    b"user": Try(f"GET http://{KEY}@localhost/v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), 400,
                 "malformed_request"),
    b"trailer": Try(get(CHAT, JSON + b"Transfer-Encoding: chunked\r\n", auth=b"", method=b"POST")
                    + b"2\r\n{}\r\n0\r\n" + AUTH + b"\r\n", 401, "missing_api_key"),
    b"lower case": Try(get(b"/v1/models", auth=f"authorization: bearer {KEY}\r\n".encode()), 200),
    b"twice": Try(get(b"/v1/admin/keys", auth=AUTH + AUTH), 400, "ambiguous_credentials"),
}  # fmt: skip
#: Whoever is not identified is not told that the body is too large, of other media, or awaited.
UNREAD = {
    b"huge": Try(get(CHAT, JSON + b"Content-Length: 9999999999\r\n", auth=b"", method=b"POST"), 401, "missing_api_key"),
    b"media": Try(post(BODY, auth=b"", kind=b"Content-Type: text/plain\r\n"), 401, "missing_api_key"),
    b"expected": Try(get(CHAT, JSON + b"Expect: 100-continue\r\nContent-Length: 5\r\n", auth=b"", method=b"POST"), 401,
                     "missing_api_key"),
    b"huge and known": Try(get(CHAT, JSON + b"Content-Length: 99999999999\r\n", method=b"POST"), 413,
                           "request_too_large"),
}  # fmt: skip
TEXTS: Final[dict[bytes, tuple[bytes, str, str | None]]] = {
    b"white": (b" \n\t", "invalid_json", None),
    b"two": (b"{}{}", "invalid_json", None),
    b"UTF-16": ('{"model":"stub"}'.encode("utf-16"), "invalid_json", None),
    b"hexadecimal": (b'{"n":0x1}', "invalid_json", None),
    b"leading zero": (b'{"n":01}', "invalid_json", None),
    b"bare control": (b'{"model":"a\nb"}', "invalid_json", None),
    b"bad escape": (b'{"model":"\\x"}', "invalid_json", None),
    b"overlong": (b'{"model":"\xc0\xaf"}', "invalid_json", None),
    b"half a character": (b'{"model":"\xf0\x9f\x98"}', "invalid_json", None),
    b"swapped surrogates": (b'{"model":"\\udc00\\ud800"}', "invalid_unicode", "model"),
    b"escaped name": (b'{"name":"x","n\\u0061me":"y"}', "duplicate_key", "name"),
    b"deep objects": (b'{"a":' * 70 + b"1" + b"}" * 70, "json_too_deep", None),
    b"empty name": (b'{"":1,"name":"x","model":"stub","prompt":"x"}', "unknown_parameter", None),
    b"format": (b'{"%s{path}":1,"name":"x","model":"stub","prompt":"x"}', "unknown_parameter", "%s{path}"),
}
BODIES = {
    b"%b %b" % (name, path): Try(post(text, path=path), 400, code, param)
    for name, (text, code, param) in TEXTS.items()
    for path in (CHAT, b"/v1/completions", b"/v1/tokenize", b"/v1/detokenize", b"/v1/admin/keys")
}
QUERIES = {
    query: Try(get(b"/v1/admin/" + query), 400, code, param)
    for query, code, param in (
        (b"usage?from=2026-02-30", "invalid_value", "from"),
        (b"usage?group_by=model,", "invalid_value", "group_by[1]"),
        (b"usage?limit=1_0", "invalid_value", "limit"),
        (b"usage?limit=+5", "invalid_value", "limit"),
        (b"usage?limit=5&", "invalid_query", None),
        (b"usage?offset=1000001", "integer_above_max_value", "offset"),
        (b"keys?after=nobody", "invalid_value", "after"),
        (b"audit?since=1e309", "invalid_value", "since"),
    )
} | {
    query: Try(get(b"/v1/admin/" + query), 200)
    for query in (b"usage?from=0001-01-01&to=9999-12-31", b"usage?to=0001-01-01", b"usage?model=%27", b"keys?%6cimit=5")
}
TRIES: Final[dict[str, Try]] = {
    f"{table}: {name[:50]!r}": each
    for table, tries in (
        ("path", PATHS), ("model", MODELS), ("method", METHODS), ("media", MEDIA), ("coding", CODINGS),
        ("deadline", DEADLINES), ("ignored", IGNORED), ("key", KEYS), ("elsewhere", ELSEWHERE), ("unread", UNREAD),
        ("body", BODIES), ("query", QUERIES),
    )
    for name, each in tries.items()
}  # fmt: skip


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Threaded]:
    flags: dict[str, Any] = {"with_store": True, "access": {"max_failures_per_minute": 10_000}}
    state = tmp_path_factory.mktemp("state")
    with threaded(lambda: StubEngine(StubConfig(reply_tokens=2)), state, **flags) as running:
        yield running
        assert running.live.store is not None
        running.live.store.close(5.0)


async def answer(port: int, data: bytes) -> httpx.Response:
    connection = await Connection.open("127.0.0.1", port)
    async with asyncio.timeout(20):
        await connection.send(data)
        status, headers = await connection.head()
        body = b"".join([piece async for piece in connection.pieces(headers)])
    await connection.close()
    return httpx.Response(status, headers=headers, content=body)


@pytest.mark.parametrize("each", TRIES.values(), ids=TRIES.keys())
def test_one_clear_answer(gateway: Threaded, each: Try) -> None:
    response = gateway.run(answer(gateway.live.port, each.data))
    for name in ("x-content-type-options", "x-frame-options", "cache-control", "x-request-id"):
        assert name in response.headers
    if each.code is None:
        assert response.status_code == each.status, response.text
    else:
        assert_error(response, each.status, each.code, each.param)
        assert CANARY not in response.text


def test_nothing_is_left_of_it(gateway: Threaded, caplog: pytest.LogCaptureFixture) -> None:
    live = gateway.live
    caplog.set_level(logging.INFO)

    async def all_of_them() -> None:
        for each in TRIES.values():
            await answer(live.port, each.data)

    def series() -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        return {(s.name, tuple(s.labels.items())) for family in live.metrics.registry.collect() for s in family.samples}

    gateway.run(all_of_them())
    before = series()
    gateway.run(all_of_them())
    assert series() == before
    gateway.run(eventually(lambda: not live.metric("sluice_requests_in_flight") and not live.engine.request_states))
    assert live.engine.leaks() == []
    assert live.ledger.violations == []
    said = repr(live.access_log.entries) + caplog.text
    assert CANARY not in said
    assert KEY not in said
    assert "Traceback" not in said


def test_each_request_is_one_line(gateway: Threaded) -> None:
    """Whatever came of it; what is no request at all has none."""
    live = gateway.live
    for each in TRIES.values():
        before = len(live.access_log.entries)
        gateway.run(answer(live.port, each.data))
        wanted = 0 if each.code == "malformed_request" else 1
        gateway.run(eventually(lambda before=before, wanted=wanted: len(live.access_log.entries) == before + wanted))


def test_the_document_is_made_once(gateway: Threaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes most of a second of CPU, and nobody needs a key for it."""
    first = gateway.run(answer(gateway.live.port, get(b"/openapi.yaml", auth=b"")))

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr("gateway.routes.system.yaml.safe_dump", fail)
    again = gateway.run(answer(gateway.live.port, get(b"/openapi.yaml", auth=b"")))
    assert (again.status_code, again.content) == (200, first.content)
