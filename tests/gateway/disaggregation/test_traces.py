"""A request that two servers work on is one trace."""

from __future__ import annotations

from contextlib import AsyncExitStack

from tests.gateway.disaggregation.conftest import Start, engine
from tests.gateway.disaggregation.test_between_gateways import complete, usable
from tests.support.otlp import collector
from tests.support.stub_engine import Faults


async def test_both_servers_spans_are_in_one_trace(start: Start) -> None:
    with collector() as taken:
        tracing = {"tracing": {"otlp_endpoint": taken.url}}
        async with AsyncExitStack() as stack:
            peer = await stack.enter_async_context(start("prefill", engine(), **tracing))
            live = await stack.enter_async_context(start("decode", engine(), [peer.url], **tracing))
            await usable(live, peer)
            await complete(live)
        asked, served = taken.named("ask peer"), taken.named("POST /internal/v1/prefill")
        assert served.parent == asked.id
        assert served.trace == asked.trace == taken.named("POST /v1/completions").trace
        assert asked.attributes == {"sluice.peer": f"127.0.0.1:{peer.port}"}
        assert not asked.failed


async def test_a_peer_that_fails_is_a_failed_span(start: Start) -> None:
    with collector() as taken:
        tracing = {"tracing": {"otlp_endpoint": taken.url}}
        async with AsyncExitStack() as stack:
            refusing = engine(faults=Faults(overload=1.0))
            peer = await stack.enter_async_context(start("prefill", refusing))
            live = await stack.enter_async_context(start("decode", engine(), [peer.url], **tracing))
            await usable(live, peer)
            await complete(live)
        assert taken.named("ask peer").failed
        assert not taken.named("POST /v1/completions").failed
