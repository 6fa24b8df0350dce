"""MCP servers as tools, by the official SDK: one lasting connection each, made again when it breaks.

Fence around ``mcp`` (checked against 2.3).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, TextIO

import httpx2
import mcp
from mcp.client.streamable_http import streamable_http_client
from mcp.types import EmbeddedResource, TextContent, TextResourceContents

from gateway.agent.tool import Arguments, ToolFailed, ToolOutput, bounded
from gateway.settings.agent import McpServerSettings

log = logging.getLogger("sluice.agent")

MAX_TOOLS: Final = 128
MAX_PAGES: Final = 16
#: Seconds between attempts to connect, at first; they double up to the server's ``refresh``.
FIRST_RETRY: Final = 0.5
STOP_SECONDS: Final = 8.0
_ILLEGAL: Final = re.compile(r"[^a-zA-Z0-9_-]")


class McpServer:
    """Keeps the connection in a task of its own, in which the SDK wants it to begin and to end.

    ``headers`` and ``environment`` hold the secrets; ``on_available`` is told when it comes and goes.
    """

    def __init__(
        self,
        name: str,
        settings: McpServerSettings,
        *,
        headers: Mapping[str, str],
        environment: Mapping[str, str],
        on_available: Callable[[str, bool], None],
    ) -> None:
        self.name = name
        self._settings = settings
        self._headers = dict(headers)
        self._environment = dict(environment)
        self._on_available = on_available
        self._client: mcp.Client | None = None
        self._tools: Sequence[McpTool] = ()
        self._look = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def tools(self) -> Sequence[McpTool]:
        """What it offered when it was last seen; also while it is away, when calls fail as ``unavailable``."""
        return self._tools

    @property
    def available(self) -> bool:
        """Whether it is connected."""
        return self._client is not None

    async def start(self) -> None:
        """Connect, and wait for that for a moment. A server that is down is retried, not an error."""
        self._on_available(self.name, False)
        connected = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep(connected), name=f"mcp server {self.name}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                await connected.wait()

    async def stop(self) -> None:
        """Disconnect; a program that was started is ended. Idempotent."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        keeper.cancel()
        await asyncio.wait([keeper], timeout=STOP_SECONDS)

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> ToolOutput:
        """Run ``tool``. Raises :class:`ToolFailed`."""
        client = self._client
        if client is None:
            raise ToolFailed("unavailable", "the tool's server cannot be reached")
        try:
            result = await client.call_tool(tool, dict(arguments), read_timeout_seconds=self._settings.timeout)
        except mcp.MCPError as error:
            self._look.set()  # it may also say that the connection is gone
            raise ToolFailed("error", f"the tool's server refused the call: {str(error)[:300]}") from error
        except Exception as error:
            self._look.set()
            raise ToolFailed("unavailable", "the tool's server did not answer") from error
        output = bounded(_text_of(result), self._settings.max_result_bytes)
        if result.is_error:
            raise ToolFailed("error", output.text)
        return output

    # -- the connection -------------------------------------------------------------------------------------------

    async def _keep(self, connected: asyncio.Event) -> None:
        delay = FIRST_RETRY
        while True:
            try:
                async with self._connected() as client:
                    delay = FIRST_RETRY
                    self._client = client
                    self._on_available(self.name, True)
                    connected.set()
                    log.info("MCP server %s is connected", self.name, extra={"fields": {"tools": len(self._tools)}})
                    await self._watch(client)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001 - whatever it is, the server is tried again
                log.warning("MCP server %s is away: %s", self.name, _reason(error))
            finally:
                self._client = None
                self._on_available(self.name, False)
            await asyncio.sleep(min(delay, self._settings.refresh))
            delay *= 2

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[mcp.Client]:
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(self._settings.timeout):
                client = await stack.enter_async_context(mcp.Client(await self._transport(stack), cache=None))
                await self._list(client)
            yield client

    async def _transport(self, stack: contextlib.AsyncExitStack) -> Any:
        if self._settings.url is not None:
            timeout = httpx2.Timeout(self._settings.timeout)
            http = httpx2.AsyncClient(headers=self._headers, timeout=timeout, trust_env=False)
            return streamable_http_client(self._settings.url, http_client=await stack.enter_async_context(http))
        assert self._settings.command is not None
        program, *arguments = self._settings.command
        parameters = mcp.StdioServerParameters(command=program, args=arguments, env=self._environment)
        return mcp.stdio_client(parameters, errlog=stack.enter_context(_nowhere()))

    async def _watch(self, client: mcp.Client) -> None:
        """Look at the tools again and again; raises when there is nobody any more."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.refresh):
                    await self._look.wait()
            self._look.clear()
            async with asyncio.timeout(self._settings.timeout):
                await self._list(client)

    async def _list(self, client: mcp.Client) -> None:
        found: dict[str, McpTool] = {}
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            for each in page.tools:
                self._offer(each, found)
            cursor = page.next_cursor
            if cursor is None:
                break
        self._tools = tuple(found.values())

    def _offer(self, tool: Any, found: dict[str, McpTool]) -> None:
        if self._settings.tools is not None and tool.name not in self._settings.tools:
            return
        name = f"{self.name}__{_ILLEGAL.sub('_', tool.name)}"
        if len(name) > 64 or name in found or len(found) >= MAX_TOOLS:
            log.warning("MCP server %s: a tool is left out: its name is too long or taken, or there are too many", name)
            return
        found[name] = McpTool(self, name, tool, self._settings)


class McpTool:
    """See :class:`gateway.agent.tool.ServerTool`."""

    def __init__(self, server: McpServer, name: str, tool: Any, settings: McpServerSettings) -> None:
        self.name = name
        self.description: str | None = tool.description
        self.parameters: Mapping[str, Any] = tool.input_schema
        self.tenants = None if settings.tenants is None else frozenset(settings.tenants)
        self.timeout = settings.timeout
        self._server = server
        self._own_name = tool.name
        self._arguments = Arguments(tool.input_schema)

    async def call(self, arguments: Mapping[str, Any]) -> ToolOutput:
        """See :class:`gateway.agent.tool.ServerTool`."""
        self._arguments.check(arguments)
        return await self._server.call(self._own_name, arguments)


def _nowhere() -> TextIO:
    """Where a program's errors go: they are not ours, and may hold what it was told in confidence."""
    return open(os.devnull, "w", encoding="utf-8")


def _text_of(result: Any) -> str:
    texts = []
    for block in result.content:
        if isinstance(block, TextContent):
            texts.append(block.text)
        elif isinstance(block, EmbeddedResource) and isinstance(block.resource, TextResourceContents):
            texts.append(block.resource.text)
        else:
            texts.append(f"[{block.type} that cannot be shown]")
    return "\n".join(texts)


def _reason(error: BaseException) -> str:
    """One line, from the innermost of grouped errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {str(error)[:200]}".splitlines()[0]
