"""F28, F30, F57-F59: signals, deaths and hangs of real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from gateway.serve import ECHO_SECONDS
from tests.faults.processes import KEY, Server, gone, serving
from tests.support.client import Client, Stream

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def streams(server: Server, count: int, tokens: int) -> list[Stream]:
    """So many streams at once; blocks until all have ended."""

    async def run() -> list[Stream]:
        client = Client("127.0.0.1", server.port, KEY, timeout=120)
        body = server.body(stream=True, max_tokens=tokens)
        return list(await asyncio.gather(*(client.stream("/v1/completions", body) for _ in range(count))))

    return asyncio.run(run())


class Background:
    """Streams that run while a test does something to the server."""

    def __init__(self, server: Server, count: int, tokens: int) -> None:
        self.result: list[Stream] = []
        self._thread = threading.Thread(target=lambda: self.result.extend(streams(server, count, tokens)))
        self._thread.start()
        server.wait_for(lambda: _in_flight(server) >= count, 30)

    def wait(self) -> list[Stream]:
        self._thread.join(150)
        return self.result


def _in_flight(server: Server) -> float:
    for line in httpx.get(f"{server.url}/metrics", timeout=10).text.splitlines():
        if line.startswith("sluice_requests_in_flight "):
            return float(line.split()[1])
    return 0.0


def _ledger(server: Server) -> list[dict[str, object]]:
    return [json.loads(line) for line in (server.directory / "state" / "ledger.jsonl").read_text().splitlines()]


def _balanced(server: Server) -> bool:
    rows = _ledger(server)
    admitted = sorted(str(row["request_id"]) for row in rows if row["event"] == "admitted")
    settled = sorted(str(row["request_id"]) for row in rows if row["event"] == "settled")
    return admitted == settled and len(set(settled)) == len(settled)


def test_f57_sigterm_lets_streams_finish(toy_model: Path, tmp_path: Path) -> None:
    # A drain time that a loaded machine keeps too: what is late here is another test's matter.
    with serving(toy_model, tmp_path, {"SLUICE_DRAIN_TIMEOUT": "140"}) as server:
        family = server.family()
        running = Background(server, 8, 600)
        server.signal(signal.SIGTERM)
        server.wait_for(lambda: server.status("/readyz") == 503, 5)
        refused = server.completion()
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["connection"] == "close"
        for stream in running.wait():
            assert stream.ending == "done"
            assert len(stream.events) > 600 // 8
        assert server.process.wait(150) == 0
        assert gone(family, 5)
        assert _balanced(server)


def test_f57_what_cannot_finish_gets_a_clear_error(toy_model: Path, tmp_path: Path) -> None:
    with serving(toy_model, tmp_path, {"SLUICE_DRAIN_TIMEOUT": "0.2"}) as server:
        running = Background(server, 8, 1000)
        server.signal(signal.SIGINT)
        for stream in running.wait():
            assert stream.ending == "error_event"
            assert json.loads(stream.events[-1])["error"]["code"] == "shutting_down"
            assert "[DONE]" not in stream.events
        assert server.process.wait(40) == 0
        assert _balanced(server)
        assert {row["code"] for row in _ledger(server) if row["event"] == "settled"} == {"shutting_down"}


def test_f58_a_second_signal_stops_at_once(toy_model: Path, tmp_path: Path) -> None:
    with serving(toy_model, tmp_path, {"SLUICE_DRAIN_TIMEOUT": "300"}) as server:
        family = server.family()
        server.engine().suspend()  # nothing will ever finish
        waiting = threading.Thread(target=lambda: _ignore_errors(server))
        waiting.start()
        server.wait_for(lambda: _in_flight(server) >= 1, 20)
        server.signal(signal.SIGTERM)
        server.wait_for(lambda: server.status("/readyz") == 503, 5)
        time.sleep(2 * ECHO_SECONDS)  # sooner it would be an echo
        server.signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        assert gone(family, 5)
        waiting.join(30)


def _ignore_errors(server: Server) -> None:
    try:
        server.completion(max_tokens=1000)
    except httpx.TransportError:
        return


def test_f58_sigterm_during_the_start(toy_model: Path, tmp_path: Path) -> None:
    server = Server(toy_model, tmp_path)
    try:
        server.wait_for(lambda: server.status("/healthz") == 200, 60)
        server.wait_for(lambda: len(server.family()) > 1, 60)
        family = server.family()
        assert server.status("/readyz") == 503
        server.signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert gone(family, 5)
    finally:
        server.close()


def test_f28_f30_f59_death_hang_and_kill(toy_model: Path, tmp_path: Path) -> None:
    """One process through the worst of its life: the engine is killed, then stopped, then the gateway is killed."""
    with serving(toy_model, tmp_path) as server:
        # F28: everybody gets one clear error at once, and it serves again without a human.
        running = Background(server, 16, 1000)
        first = server.engine()
        first.kill()
        for stream in running.wait():
            assert stream.ending in ("error_event", "error_response")
            error = json.loads(stream.events[-1])["error"] if stream.events else json.loads(stream.body)["error"]
            assert error["code"] == "engine_unavailable"
        refused = server.completion()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
        assert server.status("/readyz") == 503
        assert server.status("/healthz") == 200
        server.wait_ready()
        assert server.completion().status_code == 200
        assert "sluice_engine_restarts 1.0" in httpx.get(f"{server.url}/metrics").text

        # F30: a stopped engine is seen, new work is refused, and what had begun goes on afterwards.
        running = Background(server, 4, 1000)
        engine = server.engine()
        assert engine.pid != first.pid
        engine.suspend()
        server.wait_for(lambda: server.status("/readyz") == 503, 20)
        assert server.completion().status_code == 503
        engine.resume()
        server.wait_ready(30)
        for stream in running.wait():
            assert stream.ending in ("done", "error_event", "error_response")
        assert server.engine().pid == engine.pid
        assert server.completion().status_code == 200

        # F59: nobody survives a killed gateway, and the next one closes its books.
        family = server.family()
        server.wait_for(lambda: _balanced(server), 10)
        Background(server, 2, 1000)
        time.sleep(0.1)
        server.signal(signal.SIGKILL)
        server.process.wait(10)
        assert gone(family, 5)
        with (tmp_path / "state" / "ledger.jsonl").open("ab") as ledger:
            ledger.write(b'{"event": "settled", "request')  # torn

    impatient = {"SLUICE_HANG_TIMEOUT": "4", "SLUICE_ENGINE_KILL_TIMEOUT": "5", "SLUICE_SCHEMA_SECONDS": "0.001"}
    with serving(toy_model, tmp_path, impatient) as server:
        server.wait_for(lambda: _balanced(server), 10)
        lost = [row for row in _ledger(server) if row.get("code") == "process_lost"]
        assert len(lost) == 2

        fields = {f"field_{number}": {"type": "string", "maxLength": 20} for number in range(40)}
        form = {"name": "form", "schema": {"type": "object", "properties": fields}}
        body = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
        refused = httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=server.headers, timeout=60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "schema_too_complex")

        # One that hangs for good is killed, and a new one takes its place.
        hung = server.engine()
        hung.suspend()
        assert gone([hung], 40)
        assert _silent_seconds(server) < 8  # which is when it would have been noticed by default
        server.wait_for(lambda: "sluice_engine_restarts 1.0" in httpx.get(f"{server.url}/metrics").text, 120)
        server.wait_ready()
        assert server.completion().status_code == 200


def _silent_seconds(server: Server) -> float:
    """How long the engine had been silent when it was found to hang."""
    lines = [line for line in server.log.read_text().splitlines() if "the engine makes no progress" in line]
    return float(json.loads(lines[-1])["fields"]["silent_seconds"])


def test_f61_nobody_reads_our_log(toy_model: Path, tmp_path: Path) -> None:
    read, write = os.pipe()
    with serving(toy_model, tmp_path, {"SLUICE_LOG__FILE": f"/proc/{os.getpid()}/fd/{write}"}) as server:
        for _ in range(600):
            assert httpx.get(f"{server.url}/v1/nothing", timeout=10).status_code == 404
        assert server.completion().status_code == 200
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(
    ("settings", "status", "message"),
    [
        ({"SLUICE_API_KEY": ""}, 2, "no authentication is configured"),
        ({"SLUICE_MODEL": "/no/such/model"}, 2, "no such directory"),
        ({"SLUICE_ENGINE": '{"no_such_argument": 1}'}, 1, "no_such_argument"),
        ({"SLUICE_UNKNOWN": "1"}, 2, "SLUICE_UNKNOWN"),
        ({"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}, 1, "VLLM_ALLOW_INSECURE_SERIALIZATION"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_start_says_why(
    toy_model: Path, tmp_path: Path, settings: dict[str, str], status: int, message: str
) -> None:
    server = Server(toy_model, tmp_path, **settings)
    try:
        assert server.process.wait(90) == status
        assert message in server.log.read_text()
        assert "Traceback" not in server.log.read_text() or status == 1
    finally:
        server.close()


def test_a_taken_port_is_named(toy_model: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = Server(toy_model, tmp_path, SLUICE_PORT=str(taken.getsockname()[1]))
        try:
            assert server.process.wait(60) == 2
            assert str(taken.getsockname()[1]) in server.log.read_text()
        finally:
            server.close()


def test_print_config_masks_secrets() -> None:
    command = [sys.executable, "-m", "gateway.cli", "serve", "--print-config", "--port", "1234"]
    environment = {**os.environ, "SLUICE_API_KEY": "sk-very-secret"}
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert "port: 1234" in printed
    assert "very-secret" not in printed
