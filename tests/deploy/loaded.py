"""What a Sluice looks like to Prometheus while everything happens at once: two processes, a dozen kinds of callers."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from tests.deploy.prometheus import Prometheus, scraping
from tests.faults.processes import ENGINE, KEY, Server
from tests.support.client import Client
from tests.support.lora import make_adapter
from tests.support.otlp import collector
from tests.support.redis_server import RedisServer

#: A start takes 20 s on a quiet machine, minutes on one where everybody starts engines.
START_SECONDS: Final = 400.0
TENANTS: Final = ("team-a", "team-b", "greedy")
ADAPTERS: Final = ("law", "sql")
SECRET: Final = "what both processes are given, and nobody else"
#: Longer prompts are computed by the peer.
MOVES_FROM: Final = 300


@dataclass(frozen=True)
class Observed:
    """What Prometheus saw of a loaded Sluice between ``start`` and ``end``."""

    prometheus: Prometheus
    start: float
    end: float

    def lines(self, expr: str) -> list[tuple[dict[str, str], Any]]:
        """See :meth:`Prometheus.lines`."""
        return self.prometheus.lines(expr, self.start, self.end)


@contextmanager
def observed(model: Path, directory: Path, seconds: float = 20.0) -> Iterator[Observed]:
    """A real `sluice serve` and a peer for its prompts, under every kind of load at once for ``seconds``, scraped."""
    for seed, name in enumerate(ADAPTERS):
        make_adapter(directory / "adapters" / name, model, seed=seed)
    with ExitStack() as stack:
        redis = RedisServer(directory).start()
        stack.callback(redis.kill)
        peer = _server(model, directory / "peer", _transfer(directory, "prefill"), stack)
        traces = stack.enter_context(collector())
        own = _transfer(directory, "decode") | {
            "SLUICE_DISAGGREGATION__PEERS": json.dumps([peer.url]),
            "SLUICE_DISAGGREGATION__MIN_PROMPT_TOKENS": str(MOVES_FROM),
            "SLUICE_DISAGGREGATION__MAX_POLL_INTERVAL": "1",
            "SLUICE_DISAGGREGATION__TIMEOUT": "60",
            "SLUICE_REDIS_URL": redis.url,
            "SLUICE_LIMITS__REDIS_TIMEOUT": "2",
            "SLUICE_ADMISSION__MAX_RUNNING": "6",
            "SLUICE_ADMISSION__MAX_QUEUE": "12",
            "SLUICE_GUARD": json.dumps({"evaluators": [{"kind": "rules"}], "policy": {"output": True}}),
            "SLUICE_USAGE__PRICES": json.dumps({"toy": {"prompt": 1, "completion": 2}}),
            "SLUICE_ADAPTERS": json.dumps(_one_at_a_time(directory / "adapters")),
            "SLUICE_TRACING__OTLP_ENDPOINT": traces.url,
            "SLUICE_TRACING__SAMPLE_RATIO": "0.2",
        }
        server = _server(model, directory / "own", own, stack)
        for each in (peer, server):
            each.wait_ready(START_SECONDS)
        server.wait_for(lambda: _peer_is_usable(server), 60)
        prometheus = stack.enter_context(scraping([server.port, peer.port], directory / "prometheus"))
        start = time.time()
        asyncio.run(_load(server, seconds))
        time.sleep(2.5)  # the last of it must have been scraped
        yield Observed(prometheus, start, time.time())


def _peer_is_usable(server: Server) -> bool:
    lines = httpx.get(f"{server.url}/metrics", timeout=30).text.splitlines()
    return any(
        line.startswith("sluice_disaggregation_peer") and 'standing="usable"' in line and line.endswith(" 1.0")
        for line in lines
    )


def _server(model: Path, directory: Path, settings: Mapping[str, str], stack: ExitStack) -> Server:
    directory.mkdir()
    server = Server(model, directory, **settings)
    stack.callback(server.close)
    return server


def _transfer(directory: Path, role: str) -> dict[str, str]:
    transfer = {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"shared_storage_path": str(directory / "kv")},
    }
    return {
        "SLUICE_SECRET": SECRET,
        "SLUICE_ENGINE": json.dumps(ENGINE | {"kv_transfer_config": transfer}),
        "SLUICE_DISAGGREGATION__ROLE": role,
    }


def _one_at_a_time(directory: Path) -> dict[str, object]:
    """One place in the engine for both adapters, so that they come and go."""
    listed = [{"name": name, "source": str(directory / name)} for name in ADAPTERS]
    return {"listed": listed, "batch": 1, "resident": 1}


async def _load(server: Server, seconds: float) -> None:
    keys = dict(zip(TENANTS, await asyncio.gather(*(_key(server, tenant) for tenant in TENANTS)), strict=True))
    await _public_names(server)
    await asyncio.sleep(1.5)  # until the key ring has them
    clients = {tenant: Client("127.0.0.1", server.port, key, timeout=60) for tenant, key in keys.items()}
    await _one_after_the_other(clients["team-b"], server)
    end = time.monotonic() + seconds
    kinds = [
        *(_streams(clients["team-a"], end) for _ in range(3)),
        *(_asks_by_name(clients["team-a"], server, name, end) for name in ("assistant", "next")),
        *(_answers(clients["team-b"], server, end) for _ in range(2)),
        *(_asks_by_name(clients["team-b"], server, f"toy:{name}", end) for name in ADAPTERS),
        _long_prompts(clients["team-b"], server, end),
        _refused_by_limits(clients["greedy"], server, end),
        _is_guarded(clients["team-b"], server, end),
        _leaves(clients["team-b"], server, end),
        _floods(clients["team-a"], server, end),
        _nonsense(server, end),
    ]
    await asyncio.gather(*kinds)


async def _one_after_the_other(client: Client, server: Server) -> None:
    """What a flood might leave no room for: adapters that take turns in the engine, prompts that the peer computes."""
    for turn in range(3):
        for name in ADAPTERS:
            await client.post("/v1/completions", server.body(model=f"toy:{name}", max_tokens=4))
        await client.post("/v1/completions", server.body(prompt=_long_prompt(random.Random(turn)), max_tokens=4))
        await asyncio.sleep(1.1)  # a scrape


def _long_prompt(drawn: random.Random) -> list[int]:
    return drawn.choices(range(1000, 20_000), k=2 * MOVES_FROM)


async def _key(server: Server, tenant: str) -> str:
    quota = {"requests_per_minute": 3 if tenant == "greedy" else 100_000}
    body = {"name": tenant, "tenant": tenant, "scopes": ["inference"], "quota": quota}
    return str((await _act(server, "POST", "/v1/admin/keys", body))["key"])


async def _public_names(server: Server) -> None:
    """``assistant`` is divided between two versions and shadowed by a third; ``next`` has a canary."""
    for name, versions in (("assistant", 3), ("next", 2)):
        for number in range(versions):
            body = {"name": name, "target": "toy", "activate": number == 0}
            await _act(server, "POST", "/v1/admin/registry", body)
    arms = [{"version": 1, "weight": 70}, {"version": 2, "weight": 30}]
    of = "/v1/admin/registry"
    await _act(server, "PUT", f"{of}/assistant/split", {"arms": arms, "stick_to": "request"})
    await _act(server, "PUT", f"{of}/assistant/shadow", {"version": 3})
    rules = {"steps": [25, 50, 100], "min_requests": 2, "min_seconds": 6, "max_latency_ratio": None}
    await _act(server, "PUT", f"{of}/next/canary", {"version": 2, "stick_to": "request", **rules})


async def _act(server: Server, method: str, path: str, body: Mapping[str, object]) -> Any:
    answer = await Client("127.0.0.1", server.port, KEY, timeout=60).request(method, path, body)
    assert answer.status in (200, 201), answer.body
    return answer.json()


async def _streams(client: Client, end: float) -> None:
    question = [{"role": "user", "content": "Tell me of rivers, canals and locks. " * 8}]
    while time.monotonic() < end:
        body = {"model": "toy", "messages": question, "stream": True, "max_tokens": 48}
        await client.stream("/v1/chat/completions", body)


async def _answers(client: Client, server: Server, end: float) -> None:
    while time.monotonic() < end:
        await client.post("/v1/completions", server.body(prompt="one two three " * 20, max_tokens=24))
        await asyncio.sleep(0.1)


async def _asks_by_name(client: Client, server: Server, name: str, end: float) -> None:
    """Another name than the model's: an adapter's, or a public one."""
    while time.monotonic() < end:
        await client.post("/v1/completions", server.body(model=name, max_tokens=8))
        await asyncio.sleep(0.2)


async def _long_prompts(client: Client, server: Server, end: float) -> None:
    """Each one new, and long enough for the peer."""
    drawn = random.Random(7)
    while time.monotonic() < end:
        await client.post("/v1/completions", server.body(prompt=_long_prompt(drawn), max_tokens=4))
        await asyncio.sleep(0.3)


async def _refused_by_limits(client: Client, server: Server, end: float) -> None:
    while time.monotonic() < end:
        await client.post("/v1/completions", server.body(max_tokens=4))
        await asyncio.sleep(0.5)


async def _is_guarded(client: Client, server: Server, end: float) -> None:
    """Says what the guard does not let through."""
    while time.monotonic() < end:
        await client.post("/v1/completions", server.body(prompt="Write to jane.doe@example.org", max_tokens=4))
        await asyncio.sleep(0.5)


async def _leaves(client: Client, server: Server, end: float) -> None:
    while time.monotonic() < end:
        await client.stream("/v1/completions", server.body(stream=True, max_tokens=500), leave_after_events=2)
        await asyncio.sleep(0.3)


async def _floods(client: Client, server: Server, end: float) -> None:
    """More at once than the queue holds: some are sent away."""
    while time.monotonic() < end:
        await asyncio.sleep(3)
        await asyncio.gather(*(client.post("/v1/completions", server.body(max_tokens=16)) for _ in range(24)))


async def _nonsense(server: Server, end: float) -> None:
    """What the front, the door and the schema refuse."""
    stranger, own = (Client("127.0.0.1", server.port, key, timeout=60) for key in ("sk-wrong-key-0123456789", KEY))
    while time.monotonic() < end:
        await stranger.post("/v1/completions", server.body())
        await own.post("/v1/completions", {"model": "toy", "prompt": "x", "n": "three"})
        await own.get("/v1/nothing")
        await asyncio.to_thread(_garbage, server.port)
        await asyncio.sleep(0.5)


def _garbage(port: int) -> None:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        connection.recv(1024)
