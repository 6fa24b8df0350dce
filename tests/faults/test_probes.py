"""Probes and scrapes while it is hard: a long prefill, an overload, a start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.lifecycle import Gateway
from tests.faults.processes import KEY
from tests.support.client import Client
from tests.support.gateways import Threaded, eventually, running
from tests.support.stub_engine import Faults, StubConfig, StubEngine


@pytest.mark.engine
def test_probes_are_answered_in_the_middle_of_a_long_prefill(real: Threaded) -> None:
    async def both() -> tuple[list[tuple[float, int]], float, str]:
        client = Client("127.0.0.1", real.live.port, real.live.key, timeout=170)
        body = {"model": real.live.settings.served_model_name or "smollm2-135m-instruct", "stream": True}
        body |= {"prompt": f"{time.time()} " + "river " * 3500, "max_tokens": 1, "temperature": 0}
        stream = asyncio.ensure_future(client.stream("/v1/completions", body))
        probes: list[tuple[float, int]] = []
        while not stream.done():
            for path in ("/healthz", "/readyz", "/startupz"):
                status = (await client.get(path)).status
                probes.append((time.monotonic(), status))
            await asyncio.sleep(0.05)
        return probes, time.monotonic(), (await stream).ending

    probes, _end, ending = real.run(both(), timeout=175)
    assert ending == "done"
    assert len(probes) >= 3, "the prompt was read before a single round of probes"
    assert {status for _when, status in probes} == {200}


async def test_scrapes_and_probes_are_answered_while_requests_are_sent_away(tmp_path: Path) -> None:
    engine = StubEngine(StubConfig(step_seconds=0.01, max_running=4))
    async with running(engine, tmp_path, admission={"max_running": 4, "max_queue": 4}) as live:
        client = Client("127.0.0.1", live.port, live.key)
        body = {"model": "stub", "prompt": "x", "max_tokens": 30, "ignore_eos": True}
        stop = asyncio.Event()

        async def press() -> None:
            while not stop.is_set():
                await client.post("/v1/completions", body)

        workers = [asyncio.ensure_future(press()) for _ in range(40)]
        try:
            await eventually(lambda: live.metric("sluice_requests_shed_total", reason="queue_full") > 20)
            before = live.metric("sluice_requests_shed_total", reason="queue_full")
            for _ in range(10):
                scrape = await client.get("/metrics")
                assert scrape.status == 200
                assert b"sluice_requests_shed_total" in scrape.body
                assert (await client.get("/healthz")).status == 200
                assert (await client.get("/readyz")).status == 200, "overload is no reason to leave the Service"
            assert live.metric("sluice_requests_shed_total", reason="queue_full") > before
        finally:
            stop.set()
            await asyncio.gather(*workers)
        assert live.metric("sluice_requests_in_flight") == 0


async def test_a_gateway_that_is_told_to_stop_while_it_starts_says_so_and_ends(tmp_path: Path) -> None:
    """As `sluice serve` does it at SIGTERM (tests/faults/test_life_of_the_process.py has the process)."""
    from tests.support.gateways import listen

    class Slow(StubEngine):
        async def start(self) -> None:
            await asyncio.sleep(3600)

    live = await listen(Slow(faults=Faults()), tmp_path)
    gateway: Gateway = live.gateway
    starting = asyncio.ensure_future(gateway.start_engine())
    client = Client("127.0.0.1", live.port, live.key)
    assert (await client.get("/healthz")).status == 200
    assert [(await client.get(path)).status for path in ("/startupz", "/readyz")] == [503, 503]
    refused = await client.request("POST", "/v1/completions", {"model": "stub", "prompt": "x"})
    assert (refused.status, refused.json()["error"]["code"]) == (503, "engine_unavailable")
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    async with asyncio.timeout(10):
        await gateway.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("drain_timeuot: 30\n", "drain_timeuot: unknown setting"),
        ("limits: {key: {requests_per_minute: many}}\n", "limits.key.requests_per_minute"),
        ("model: /m\nengine: {max_mod", "not YAML"),
        ("", "no authentication is configured"),
    ],
    ids=["unknown key", "wrong type", "half written", "empty"],
)
def test_a_bad_config_map_ends_the_new_pod_at_once_and_names_what_is_wrong(
    tmp_path: Path, text: str, named: str
) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_text(text, "utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLUICE_")}
    environment |= {"SLUICE_STATE_DIR": str(tmp_path / "state")} | ({"SLUICE_API_KEY": KEY} if text else {})
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", "serve", "--config", str(file)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr
