"""Tools of real MCP servers, made with the official SDK: as programs, and over HTTP."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from gateway.usage.records import Settled
from tests.gateway.agent.test_loop import Agents
from tests.support.gateways import Live, eventually, running
from tests.support.scripted_engine import Says, ScriptedEngine
from tests.support.tool_server import MCP_PROGRAM

pytestmark = pytest.mark.slow

PROGRAM = [sys.executable, str(MCP_PROGRAM)]
START_SECONDS = 60.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class HttpServer:
    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [*PROGRAM, str(self.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def http_server() -> Iterator[HttpServer]:
    server = HttpServer()
    yield server
    server.stop()


@asynccontextmanager
async def agents(tmp_path: Path, server: dict[str, Any], *turns: Says) -> AsyncIterator[tuple[Live, ScriptedEngine]]:
    engine = ScriptedEngine(*turns)
    agent = {"mcp": {"demo": {"timeout": 20, "refresh": 0.5, "max_result_bytes": 200, **server}}}
    async with running(engine, tmp_path, agent=agent) as live:
        yield live, engine


async def connected(live: Live, *, wanted: float = 1.0) -> None:
    await eventually(lambda: live.metric("sluice_mcp_server_available", server="demo") == wanted, START_SECONDS)


SCRIPT = (
    Says(calls=(("demo__add", '{"a": 2, "b": 3}'), ("demo__shout", '{"text": "hi"}'))),
    Says(calls=(("demo__refuse", "{}"), ("demo__add", '{"a": "x"}'))),
    Says(calls=(("demo__variable", '{"name": "PASSED"}'), ("demo__variable", '{"name": "HIDDEN"}'))),
)


def assert_played(answer: Any) -> None:
    told = [message["content"] for message in answer["messages"] if message["role"] == "tool"]
    assert told[0] == "5"
    assert told[1].startswith("HI!!!")
    assert len(told[1]) < 300
    assert told[2].startswith("Error: ")
    assert "refuse" in told[2]
    outcomes = [[call["outcome"] for call in step["tool_calls"]] for step in answer["steps"]]
    assert outcomes == [["ok", "ok"], ["error", "invalid_arguments"], ["ok", "ok"], []]
    assert answer["stop_reason"] == "no_tools"


async def test_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSED", "yes")
    monkeypatch.setenv("HIDDEN", "no")
    own = psutil.Process()
    async with agents(tmp_path, {"command": PROGRAM, "env_from": ["PASSED"]}, *SCRIPT) as (live, _):
        await connected(live)
        programs = [each for each in own.children(recursive=True) if str(MCP_PROGRAM) in " ".join(each.cmdline())]
        assert programs
        listed = (await Agents(live).client.get("/v1/agent/tools")).json()
        assert "demo__add" in [tool["name"] for tool in listed["data"]]
        answer = await Agents(live).whole(agent={"on_tool_error": "continue"})
        assert_played(answer)
        told = [message["content"] for message in answer["messages"] if message["role"] == "tool"]
        assert told[4:] == ["yes", "(not set)"]
    # Nothing is left behind.
    await eventually(lambda: not any(program.is_running() for program in programs))


async def test_over_http_down_at_start_gone_and_back(tmp_path: Path, http_server: HttpServer) -> None:
    async with agents(tmp_path, {"url": http_server.url}) as (live, engine):
        # Down at the start: the gateway serves, says so, and the tools are not there.
        client = Agents(live).client
        assert (await client.get("/readyz")).headers["x-degraded"] == "mcp-demo"
        assert (await client.get("/v1/agent/tools")).json()["data"] == []
        assert (await Agents(live).whole(agent={"tools": []}))["stop_reason"] == "no_tools"
        engine._turns[:] = SCRIPT
        http_server.start()
        await connected(live)
        assert "x-degraded" not in (await client.get("/readyz")).headers
        assert_played(await Agents(live).whole(agent={"on_tool_error": "continue"}))
        # Gone in the middle: a call fails by name, the loop goes on, and it is found again.
        http_server.stop()
        engine._turns[:] = [Says(calls=(("demo__add", '{"a": 1, "b": 1}'),))]
        answer = await Agents(live).whole()
        assert answer["stop_reason"] == "tool_error"
        assert answer["steps"][0]["tool_calls"][0]["outcome"] in ("unavailable", "error")
        await connected(live, wanted=0.0)
        http_server.start()
        await connected(live)
        engine._turns[:] = [Says(calls=(("demo__add", '{"a": 1, "b": 1}'),))]
        assert (await Agents(live).whole())["messages"][1]["content"] == "2"


async def test_a_program_that_dies_is_started_again(tmp_path: Path) -> None:
    turns = [Says(calls=(("demo__leave", "{}"),)), Says(calls=(("demo__add", '{"a": 1, "b": 1}'),))]
    async with agents(tmp_path, {"command": PROGRAM, "tools": ["leave", "add"]}, *turns) as (live, _):
        await connected(live)
        answer = await Agents(live).whole()
        assert answer["stop_reason"] == "tool_error"
        assert answer["steps"][0]["tool_calls"][0]["outcome"] in ("unavailable", "error")
        await connected(live, wanted=0.0)
        await connected(live)
        assert (await Agents(live).whole())["messages"][1]["content"] == "2"


async def test_who_leaves_gives_the_call_up(tmp_path: Path) -> None:
    async with agents(tmp_path, {"command": PROGRAM}, Says(calls=(("demo__wait", "{}"),)), Says("x")) as (live, _):
        await connected(live)
        await Agents(live).client.post("/v1/agent", Agents.body(), leave_after=1.0)
        await eventually(lambda: live.metric("sluice_agent_runs_total", reason="cancelled") == 1)
        assert [row.outcome for row in live.ledger.entries if isinstance(row, Settled)] == ["completed"]
        # The connection is as good as before.
        assert live.metric("sluice_mcp_server_available", server="demo") == 1
        answer = await Agents(live).whole(agent={"step_timeout": 5.0})
        assert answer["message"]["content"] == "x"


async def test_a_program_that_does_not_exist(tmp_path: Path) -> None:
    async with agents(tmp_path, {"command": ["/no/such/program"]}) as (live, _):
        assert (await Agents(live).whole())["stop_reason"] == "no_tools"
        assert (await Agents(live).client.get("/readyz")).headers["x-degraded"] == "mcp-demo"
        await asyncio.sleep(0)
