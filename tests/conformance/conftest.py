from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.conformance.contract import Api
from tests.support.gateways import Threaded


@pytest.fixture(scope="session")
def api(real: Threaded) -> Iterator[Api]:
    with httpx.Client(base_url=real.live.url, headers=real.live.authorization, timeout=120) as http:
        yield Api(http, real, "smollm2-135m-instruct")


@pytest.fixture(autouse=True)
def _engine_unharmed(api: Api) -> Iterator[None]:
    """After every test: the same engine, no request left in it, every cache block free, the books balanced."""
    core = api.gateway.live.engine.core
    before = core.processes.pids
    yield
    live = api.gateway.live
    assert live.engine.core is core
    assert core.processes.pids == before

    async def at_rest() -> bool:
        from tests.support.gateways import eventually

        await eventually(lambda: core.unfinished == 0 and live.metric("sluice_requests_in_flight") == 0)
        return bool(await core.cache_is_free())

    assert api.gateway.run(at_rest())
    assert live.ledger.violations == []
    admitted = [entry.request_id for entry in live.ledger.entries if not hasattr(entry, "outcome")]
    settled = [entry.request_id for entry in live.ledger.entries if hasattr(entry, "outcome")]
    assert sorted(admitted) == sorted(settled)
    assert len(set(settled)) == len(settled)
