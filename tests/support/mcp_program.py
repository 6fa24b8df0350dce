"""A real MCP server: ``python mcp_program.py`` on its standard streams, ``python mcp_program.py PORT`` over HTTP."""

from __future__ import annotations

import asyncio
import os
import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("tests")


@server.tool()
def add(a: int, b: int) -> str:
    """The sum of two numbers."""
    return str(a + b)


@server.tool()
def shout(text: str) -> str:
    """The text, and a lot after it."""
    return text.upper() + "!" * 100_000


@server.tool()
def refuse() -> str:
    """Always fails."""
    raise ValueError("not today")


@server.tool()
def variable(name: str) -> str:
    """A variable of the environment."""
    return os.environ.get(name, "(not set)")


@server.tool()
async def wait() -> str:
    """Takes a long time."""
    await asyncio.sleep(30)
    return "done"


@server.tool()
def leave() -> str:
    """Ends the server."""
    os._exit(3)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run("stdio")
