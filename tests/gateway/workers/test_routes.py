from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.conformance.contract import assert_error
from tests.support.gateways import running
from tests.support.stub_engine import StubEngine


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/v1/models/stub"), ("POST", "/v1/models/stub/load")],
)
async def test_what_would_change_one_worker_only_is_refused(tmp_path: Path, method: str, path: str) -> None:
    async with running(StubEngine(), tmp_path, workers=2) as live:
        async with httpx.AsyncClient(base_url=live.url, headers=live.authorization) as client:
            assert_error(await client.request(method, path, json={}), 409, code="not_with_workers")
            assert (await client.get("/v1/models")).status_code == 200
        async with httpx.AsyncClient(base_url=live.url) as stranger:
            assert (await stranger.request(method, path, json={})).status_code == 401
