"""Two gateways over stub engines and real sockets: who computes, who is accounted for, and what if it fails.

The cache itself moves in ``tests/faults/test_disaggregation.py``.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import httpx
import pytest

from gateway.disaggregation.seal import HEADER, PURPOSE, Seal
from gateway.disaggregation.wire import PREFILL, STATE, VERSION, PrefillRequest, WireFacts
from gateway.usage.records import Admitted, Settled
from tests.gateway.disaggregation.conftest import FACTS, Start, engine, eventually
from tests.support.client import Client
from tests.support.gateways import KEY, SECRET, Live
from tests.support.stub_engine import Faults, StubEngine

#: Longer than the stubs' `min_prompt_tokens`.
PROMPT = "a prompt that is long enough to be computed elsewhere " * 3


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "stub", "prompt": PROMPT, "max_tokens": 8, **fields}


async def complete(live: Live, **fields: Any) -> dict[str, Any]:
    answer = await Client("127.0.0.1", live.port, KEY).request("POST", "/v1/completions", body(**fields))
    assert answer.status == 200, answer.body
    parsed: dict[str, Any] = answer.json()
    return parsed


def where(live: Live, place: str) -> float:
    return live.metric("sluice_disaggregation_prompts_total", where=place)


def standing(live: Live, peer: Live, word: str) -> bool:
    return live.metric("sluice_disaggregation_peer", peer=f"127.0.0.1:{peer.port}", standing=word) == 1.0


async def usable(live: Live, *peers: Live) -> None:
    await eventually(lambda: all(standing(live, peer, "usable") for peer in peers))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_peer_computes_and_each_is_accounted_for_once(start: Start, stream: bool) -> None:
    async with start("prefill", engine()) as peer, start("decode", engine(), [peer.url]) as live:
        await usable(live, peer)
        client = Client("127.0.0.1", live.port, KEY)
        if stream:
            said = (await client.stream("/v1/completions", body(stream=True))).text()
        else:
            said = (await complete(live))["choices"][0]["text"]
        (asked,) = peer.engine.prefills
        assert live.engine.transferred == [{"tokens": len(asked.prompt.token_ids)}]
        assert asked.sampling.max_tokens == 1
        assert where(live, "peer") == 1
        assert live.metric("sluice_disaggregation_prefill_seconds_count") == 1
        assert peer.metric("sluice_disaggregation_served_total", outcome="completed") == 1
        admitted, settled = peer.ledger.entries
        assert isinstance(admitted, Admitted)
        assert isinstance(settled, Settled)
        assert (settled.principal, settled.tenant, settled.outcome) == ("prefill", "prefill", "completed")
        assert (settled.prompt_tokens, settled.completion_tokens) == (len(asked.prompt.token_ids), 1)
        own = [entry for entry in live.ledger.entries if isinstance(entry, Settled)]
        assert [(row.principal, row.prompt_tokens) for row in own] == [("static", len(asked.prompt.token_ids))]
        assert admitted.http_request_id == own[0].request_id
        assert {line.route for line in peer.access_log.entries} == {PREFILL}, "looks at its state are no news"
        assert not peer.engine.leaks()
        assert not live.engine.leaks()
    async with start("none", engine()) as alone:
        assert (await complete(alone))["choices"][0]["text"] == said


async def test_what_crosses(start: Start) -> None:
    async with start("prefill", engine()) as peer, start("decode", engine(), [peer.url]) as live:
        await usable(live, peer)
        await complete(live)
        (asked,), (own,) = peer.engine.prefills, live.engine.accounts
        assert asked.cache_salt is not None
        assert asked.request_id.startswith("prefill-")
        assert not asked.request_id.startswith(own), "ids of engines are each gateway's own"
        assert asked.transfer is None


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "short"},
        {"n": 2},
        {"prompt": [PROMPT, PROMPT]},
    ],
)
async def test_what_stays_here(start: Start, fields: dict[str, Any]) -> None:
    async with start("prefill", engine()) as peer, start("decode", engine(), [peer.url]) as live:
        await usable(live, peer)
        await complete(live, **fields)
        assert not peer.engine.prefills
        assert where(live, "unsuited") == 1


async def test_callers_cannot_say_where_a_cache_is(start: Start) -> None:
    async with start("prefill", engine()) as peer, start("decode", engine(), [peer.url]) as live:
        for each in (peer, live):
            client = Client("127.0.0.1", each.port, KEY)
            for name in ("kv_transfer_params", "transfer"):
                answer = await client.request("POST", "/v1/completions", body(**{name: {"sluice_cache": "0" * 32}}))
                assert (answer.status, answer.json()["error"]["param"]) == (400, name)


async def test_the_less_loaded_peer_is_asked(start: Start) -> None:
    class Busy(StubEngine):
        def state(self) -> Any:
            return replace(super().state(), queued_tokens=5000)

    busy = Busy()
    busy.transfer = FACTS
    async with AsyncExitStack() as stack:
        loaded = await stack.enter_async_context(start("prefill", busy))
        free = await stack.enter_async_context(start("prefill", engine()))
        live = await stack.enter_async_context(start("decode", engine(), [loaded.url, free.url]))
        await usable(live, loaded, free)
        for _ in range(3):
            await complete(live)
        assert not busy.prefills
        assert len(free.engine.prefills) == 3


async def test_our_own_prompts_count_at_once(start: Start) -> None:
    """Before a peer's next report, what was just sent to it is known."""
    slow = {"disaggregation": {"poll_interval": 60.0, "max_poll_interval": 60.0}}
    async with AsyncExitStack() as stack:
        peers = [
            await stack.enter_async_context(start("prefill", engine(faults=Faults(prefill_seconds=0.3))))
            for _ in range(3)
        ]
        live = await stack.enter_async_context(start("decode", engine(), [each.url for each in peers], **slow))
        await usable(live, *peers)
        await asyncio.gather(*(complete(live) for _ in range(6)))
        assert [len(each.engine.prefills) for each in peers] == [2, 2, 2]


async def test_the_next_peer_is_asked_once_and_then_nobody(start: Start) -> None:
    refusing = Faults(overload=1.0)
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(start("prefill", engine(faults=refusing))) for _ in range(3)]
        good = await stack.enter_async_context(start("prefill", engine()))
        live = await stack.enter_async_context(start("decode", engine(), [peers[0].url, good.url]))
        await usable(live, peers[0], good)
        for _ in range(4):
            await complete(live)
        assert where(live, "peer") == 4, "each time one of both did it"
        every = await stack.enter_async_context(start("decode", engine(), [each.url for each in peers]))
        await usable(every, *peers)
        await complete(every)
        assert sum(len(each.engine.prefills) for each in peers) - len(peers[0].engine.prefills) <= 2
        assert where(every, "here") == 1
        assert every.metric("sluice_disaggregation_fallbacks_total", reason="overloaded") == 1


async def test_a_slow_peer_is_given_up_and_hears_of_it(start: Start) -> None:
    slow = engine(faults=Faults(prefill_seconds=30.0))
    quick = {"disaggregation": {"timeout": 1.5}}
    async with start("prefill", slow) as peer, start("decode", engine(), [peer.url], **quick) as live:
        await usable(live, peer)
        await complete(live)
        assert live.metric("sluice_disaggregation_fallbacks_total", reason="timeout") == 1
        await eventually(lambda: len(peer.ledger.entries) == 2)
        settled = peer.ledger.entries[1]
        assert isinstance(settled, Settled)
        assert settled.outcome in ("cancelled", "error")
        await eventually(lambda: not peer.engine.leaks())


async def test_who_leaves_takes_the_peers_work_with_it(start: Start) -> None:
    slow = engine(faults=Faults(prefill_seconds=30.0))
    async with start("prefill", slow) as peer, start("decode", engine(), [peer.url]) as live:
        await usable(live, peer)
        leaving = asyncio.ensure_future(complete(live))
        await eventually(lambda: bool(slow.prefills))
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await eventually(lambda: len(peer.ledger.entries) == 2)
        settled = peer.ledger.entries[1]
        assert isinstance(settled, Settled)
        assert settled.outcome == "cancelled"
        await eventually(lambda: peer.metric("sluice_disaggregation_served_total", outcome="cancelled") == 1)
        await eventually(lambda: not live.engine.leaks() and not slow.leaks())


async def test_a_peer_that_dies_is_left_alone_and_found_again(start: Start) -> None:
    first = engine()
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(start("prefill", first))
        live = await stack.enter_async_context(start("decode", engine(), [peer.url]))
        await usable(live, peer)
        await peer.gateway.stop()
        await complete(live)
        await complete(live)
        assert where(live, "here") == 2
        assert where(live, "peer") == 0
        await eventually(lambda: standing(live, peer, "unreachable"))
        assert live.gateway.degraded() == ["prefill peers"]
        await stack.enter_async_context(start("prefill", engine(), port=peer.port))
        await usable(live, peer)
        await complete(live)
        assert where(live, "peer") == 1
        assert live.gateway.degraded() == []


async def test_a_peer_that_drains_is_not_asked(start: Start) -> None:
    async with start("prefill", engine()) as peer, start("decode", engine(), [peer.url]) as live:
        await usable(live, peer)
        peer.engine.faults.hang = True
        await eventually(lambda: standing(live, peer, "not_ready"))
        await complete(live)
        assert live.metric("sluice_disaggregation_fallbacks_total", reason="no_peer") == 1
        peer.engine.faults.hang = False
        await usable(live, peer)


@pytest.mark.parametrize("field", ["connector", "weights", "dtype", "block_size"])
async def test_engines_with_too_little_in_common(start: Start, field: str, caplog: pytest.LogCaptureFixture) -> None:
    changed: dict[str, Any] = {field: 7 if field == "block_size" else "other"}
    other = replace(FACTS, **changed)
    with caplog.at_level(logging.WARNING, "sluice.disaggregation"):
        async with start("prefill", engine(other)) as peer, start("decode", engine(), [peer.url]) as live:
            await eventually(lambda: standing(live, peer, "incompatible"))
            await complete(live)
            assert not peer.engine.prefills
            assert where(live, "here") == 1
    assert any(f"another {field}" in record.getMessage() for record in caplog.records)


async def test_another_version_of_the_contract(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.disaggregation.serving.VERSION", VERSION + 1)
    with caplog.at_level(logging.WARNING, "sluice.disaggregation"):
        async with start("prefill", engine()) as peer, start("decode", engine(), [peer.url]) as live:
            await eventually(lambda: standing(live, peer, "other_version"))
            await complete(live)
            assert not peer.engine.prefills
    assert any(f"version {VERSION + 1}" in record.getMessage() for record in caplog.records)


async def test_another_secret_on_either_side(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async with start("prefill", engine()) as peer:
        monkeypatch.setattr("gateway.disaggregation.build.PURPOSE", "of another secret")
        async with start("decode", engine(), [peer.url]) as live:
            await eventually(lambda: standing(live, peer, "refuses"))
            await complete(live)
            assert not peer.engine.prefills


# -- the small surface, by hand ------------------------------------------------------------------------------------


def caller(live: Live) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=live.url, timeout=60.0)


def sealed(path: str, content: bytes, seal: Seal | None = None) -> dict[str, str]:
    method = "POST" if content else "GET"
    made = (seal or Seal(SECRET.derive(PURPOSE))).of_request(method, path, content)
    return {HEADER: made} | ({"content-type": "application/json"} if content else {})


def asking(**fields: Any) -> bytes:
    whole: dict[str, Any] = {
        "version": VERSION,
        "request_id": "r",
        "model": "stub",
        "facts": WireFacts.of(FACTS),
        "token_ids": list(range(1, 40)),
        "tenant": "t",
        "weight": 1.0,
        "seconds": 10.0,
    }
    return PrefillRequest.model_construct(**(whole | fields)).model_dump_json(warnings=False).encode()


async def test_no_key_opens_it(start: Start) -> None:
    key = {"Authorization": f"Bearer {KEY}"}
    async with start("prefill", engine()) as peer, caller(peer) as client:
        for headers in ({}, key, {HEADER: "v1 1 2 3"}, sealed(STATE, b"", Seal(b"x" * 32))):
            answer = await client.get(STATE, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_seal")
        good = asking()
        for headers in (key, sealed(PREFILL, asking(request_id="another body")), sealed(STATE, good)):
            answer = await client.post(PREFILL, content=good, headers={**headers, "content-type": "application/json"})
            assert answer.status_code == 401
        assert not peer.engine.prefills
        assert not peer.ledger.entries
        assert (await client.post(PREFILL, content=good, headers=sealed(PREFILL, good))).status_code == 200
        assert (await client.get(STATE, headers=sealed(STATE, b""))).json()["ready"] is True


async def test_who_guesses_is_slowed_down(start: Start) -> None:
    few = {"access": {"max_failures_per_minute": 3}}
    async with start("prefill", engine(), **few) as peer, caller(peer) as client:
        statuses = [(await client.get(STATE, headers={HEADER: "v1"})).status_code for _ in range(4)]
        assert statuses == [401, 401, 401, 429]


async def test_it_is_there_in_that_role_only(start: Start) -> None:
    for role, peers in (("none", None), ("decode", ["http://127.0.0.1:9"])):
        async with start(role, engine(), peers) as live, caller(live) as client:
            assert (await client.get(STATE, headers=sealed(STATE, b""))).status_code == 404
            document = await client.get("/openapi.yaml")
            assert PREFILL not in document.text
    async with start("prefill", engine()) as peer, caller(peer) as client:
        document = await client.get("/openapi.yaml")
        assert PREFILL in document.text
        assert "x-sluice-seal" in document.text
        assert "Tokens of a block." in document.text


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"version": 2}, 400, "unsupported_version", "version"),
        ({"token_ids": []}, 400, "invalid_value", "token_ids"),
        ({"token_ids": ["a"]}, 400, "invalid_value", "token_ids.0"),
        ({"seconds": 0}, 400, "invalid_value", "seconds"),
        ({"model": "unknown"}, 404, "model_not_found", "model"),
        ({"facts": WireFacts.of(replace(FACTS, block_size=1))}, 409, "incompatible_engine", "facts"),
        ({"token_ids": [1] * 9000}, 400, "context_length_exceeded", "token_ids"),
    ],
)
async def test_what_it_refuses(start: Start, fields: dict[str, Any], status: int, code: str, param: str) -> None:
    async with start("prefill", engine()) as peer, caller(peer) as client:
        content = asking(**fields)
        answer = await client.post(PREFILL, content=content, headers=sealed(PREFILL, content))
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
        assert not peer.ledger.entries
        assert not peer.engine.leaks()


async def test_unknown_fields_are_refused(start: Start) -> None:
    async with start("prefill", engine()) as peer, caller(peer) as client:
        content = asking()[:-1] + b',"surprise":1}'
        answer = await client.post(PREFILL, content=content, headers=sealed(PREFILL, content))
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "surprise"


async def test_a_failed_prefill_is_accounted_for_too(start: Start) -> None:
    failing = engine(faults=Faults(fail_requests=frozenset({1})))
    async with start("prefill", failing) as peer, start("decode", engine(), [peer.url]) as live:
        await usable(live, peer)
        await complete(live)
        assert live.metric("sluice_disaggregation_fallbacks_total", reason="failed") == 1
        settled = peer.ledger.entries[1]
        assert isinstance(settled, Settled)
        assert settled.outcome == "error"
