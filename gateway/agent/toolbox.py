"""All tools that the server may run, by name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gateway.agent.http_tool import HttpTool
from gateway.agent.tool import Outcome, ServerTool, ToolFailed, ToolOutput
from gateway.settings.agent import AgentSettings, program_environment, secret_headers

if TYPE_CHECKING:
    from gateway.agent.mcp_server import McpServer

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class AgentMetrics:
    """What agents did. Labels are bounded: tools are those of the configuration and of its MCP servers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.runs = Counter("sluice_agent_runs", "Agent requests by why they stopped.", ["reason"], registry=registry)
        self.steps = Counter("sluice_agent_steps", "Model turns of agents.", registry=registry)
        self.calls = Counter(
            "sluice_agent_tool_calls", "Calls of server-side tools.", ["tool", "outcome"], registry=registry
        )
        self.seconds = Histogram(
            "sluice_agent_tool_seconds", "Seconds that calls took.", ["tool"], buckets=_SECONDS, registry=registry
        )
        self._servers = Gauge(
            "sluice_mcp_server_available", "1 while the MCP server is connected.", ["server"], registry=registry
        )

    def server_available(self, server: str, available: bool) -> None:
        """An MCP server came or went."""
        self._servers.labels(server).set(available)


@dataclass(frozen=True, slots=True)
class CallResult:
    """What came of one call. ``text`` is what the model is told, also of a failure."""

    outcome: Outcome
    text: str
    cut: bool
    seconds: float


class Toolbox:
    """HTTP tools, and those of MCP servers, which come and go. A :class:`gateway.lifecycle.Service`."""

    def __init__(self, http: Sequence[HttpTool], servers: Sequence[McpServer], metrics: AgentMetrics) -> None:
        self._http = tuple(http)
        self._servers = tuple(servers)
        self._metrics = metrics

    @classmethod
    def build(cls, settings: AgentSettings, metrics: AgentMetrics) -> Toolbox:
        """As configured. Raises :class:`gateway.settings.SettingsError` for a secret that is not there."""
        http = [
            HttpTool(name, each, secret_headers(each, f"agent.http.{name}")) for name, each in settings.http.items()
        ]
        servers: list[McpServer] = []
        if settings.mcp:
            # The SDK is heavy, and most deployments have no servers.
            from gateway.agent.mcp_server import McpServer

            servers = [
                McpServer(
                    name,
                    each,
                    headers=secret_headers(each, f"agent.mcp.{name}"),
                    environment=program_environment(each, f"agent.mcp.{name}"),
                    on_available=metrics.server_available,
                )
                for name, each in settings.mcp.items()
            ]
        return cls(http, servers, metrics)

    def of(self, tenant: str) -> dict[str, ServerTool]:
        """What ``tenant`` may use now, by name."""
        tools: list[ServerTool] = [*self._http, *(tool for server in self._servers for tool in server.tools)]
        return {tool.name: tool for tool in tools if tool.tenants is None or tenant in tool.tenants}

    async def run(self, tool: ServerTool, arguments: str, seconds: float) -> CallResult:
        """One call with ``arguments`` as the model wrote them, for at most ``seconds``. Never raises a failure."""
        started = time.monotonic()
        outcome: Outcome = "ok"
        try:
            async with asyncio.timeout(min(seconds, tool.timeout)):
                output = await tool.call(_object(arguments))
        except ToolFailed as failure:
            outcome, output = failure.outcome, ToolOutput(f"Error: {failure}")
        except TimeoutError:
            outcome, output = "timeout", ToolOutput("Error: the tool did not answer in time")
        took = time.monotonic() - started
        self._metrics.calls.labels(tool.name, outcome).inc()
        self._metrics.seconds.labels(tool.name).observe(took)
        return CallResult(outcome, output.text, output.cut, took)

    # -- a service ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect to all servers at once; those that are down are tried again."""
        await asyncio.gather(*(server.start() for server in self._servers))

    async def stop(self) -> None:
        """Disconnect. Idempotent."""
        await asyncio.gather(*(server.stop() for server in self._servers))
        await asyncio.gather(*(tool.close() for tool in self._http))

    def degraded(self) -> Sequence[str]:
        """The servers that are away."""
        return [f"mcp-{server.name}" for server in self._servers if not server.available]


def _object(arguments: str) -> Mapping[str, Any]:
    try:
        value = orjson.loads(arguments or "{}")
    except ValueError as error:
        raise ToolFailed("invalid_arguments", "the arguments are not JSON") from error
    if not isinstance(value, dict):
        raise ToolFailed("invalid_arguments", "the arguments are not an object")
    return value
