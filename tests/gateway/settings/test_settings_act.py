"""Settings that say what the front door lets in: with each of them set, the door does so."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from gateway.store.audit import AuditEntry, AuditFilter, read_audit, write_audit
from tests.gateway.test_strangers import BODY, answer, get, post
from tests.support.gateways import running
from tests.support.stub_engine import StubConfig, StubEngine

EMBED = b"/v1/embeddings"
TWO = {"model": "stub", "prompt": ["a", "b"], "max_tokens": 1}
LONG = [{"role": "user", "content": "x" * 2000}]
SAID = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("flags", "data", "status", "code"),
    [
        ({"http": {"max_header_line": 256}}, get(b"/healthz", b"X: " + b"a" * 300 + b"\r\n"), 431, "header_too_large"),
        ({"http": {"max_header_bytes": 1024}}, get(b"/healthz", (b"X: " + b"a" * 200 + b"\r\n") * 6), 431,
         "header_too_large"),
        ({"http": {"max_headers": 3}}, get(b"/v1/models", b"X: y\r\n" * 2), 431, "header_too_large"),
        ({"http": {"max_body_bytes": 1024}}, post({**BODY, "messages": LONG}), 413, "request_too_large"),
        ({"limits": {"max_n": 2}}, post({**BODY, "n": 3}), 400, "integer_above_max_value"),
        ({"limits": {"max_messages": 2}}, post({**BODY, "messages": SAID}), 400, "array_above_max_length"),
        ({"limits": {"max_prompts": 1}}, post(TWO, path=b"/v1/completions"), 400, "array_above_max_length"),
        ({"limits": {"max_inputs": 1}}, post({"model": "vectors", "input": ["a", "b"]}, path=EMBED), 400,
         "array_above_max_length"),
        ({"allowed_hosts": ["api.example"]}, get(b"/healthz"), 400, "invalid_host"),
        ({"metrics_need_key": True}, get(b"/metrics", auth=b""), 401, "missing_api_key"),
        ({"limits": {"key": {"requests_per_minute": 0}}}, post(BODY), 429, "rate_limit_exceeded"),
        ({"limits": {"key": {"tokens_per_minute": 1}}}, post(BODY), 400, "request_exceeds_limit"),
        ({"limits": {"key": {"concurrent": 0}}}, post(BODY), 429, "concurrency_limit_exceeded"),
        ({"admission": {"max_memory_fraction": 0.0001}}, post(BODY), 503, "engine_overloaded"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)  # fmt: skip
async def test_it_acts(tmp_path: Path, flags: dict[str, Any], data: bytes, status: int, code: str) -> None:
    def engine() -> StubEngine:
        return StubEngine(StubConfig(beside=(("vectors", "embed"),)))

    async with running(engine(), tmp_path / "set", **flags) as live:
        response = await answer(live.port, data)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    async with running(engine(), tmp_path / "default") as live:
        assert (await answer(live.port, data)).status_code == 200


async def test_a_key_opens_the_metrics(tmp_path: Path) -> None:
    async with running(StubEngine(), tmp_path, metrics_need_key=True) as live:
        assert (await answer(live.port, get(b"/metrics"))).status_code == 200


@pytest.mark.parametrize(("usage", "kept"), [({}, True), ({"audit_retention_days": 2}, False)], ids=str)
async def test_old_audit_rows_are_forgotten_if_it_is_set(tmp_path: Path, usage: dict[str, Any], kept: bool) -> None:
    def row(days: float, target: str) -> AuditEntry:
        return AuditEntry(time.time() - days * 86_400, "somebody", "key.create", True, target)

    async with running(StubEngine(), tmp_path, with_store=True, usage=usage) as live:
        assert live.store is not None
        write_audit(live.store.database, [row(3, "old"), row(1, "young")])
        live.store.audit.record(row(0, "new"))
        assert live.store.audit.close(10)
        rows, _ = read_audit(live.store.database, AuditFilter())
    assert [each.entry.target for each in rows] == ["new", "young", *(["old"] if kept else [])]
