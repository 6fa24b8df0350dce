"""POST /v1/agent and GET /v1/agent/tools."""

from __future__ import annotations

from functools import partial

import orjson

from gateway.access.principal import Principal, Scope
from gateway.agent.loop import Agent, Served
from gateway.agent.tool import ServerTool
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy
from gateway.limits.reserve import LimitClass
from gateway.protocol.agent import (
    AgentBounds,
    AgentCompletion,
    AgentEvent,
    AgentRequest,
    ServerToolList,
    parse_agent,
)
from gateway.routing import Route


def routes(served: Served, bounds: AgentBounds, request_timeout: float) -> list[Route]:
    """The routes of this resource; ``request_timeout`` in seconds, over all steps."""
    pipeline = served.pipeline

    async def run(exchange: Exchange) -> None:
        principal = pipeline.identify(exchange)
        ends_at = exchange.received + exchange.deadline(request_timeout)
        tools = served.toolbox.of(principal.tenant)
        declared = {name: _declared(tool) for name, tool in tools.items()}
        plan = await pipeline.read(exchange, partial(parse_agent, own=bounds, tools=declared))
        exchange.streaming = plan.chat.stream
        exchange.labels = plan.chat.labels()
        pipeline.resolve(exchange, plan.chat.model, principal)
        await Agent(served, exchange, principal, plan, tools, ends_at=ends_at).run()

    async def tools(exchange: Exchange) -> None:
        principal: Principal = await pipeline.enter(exchange)
        data = [
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
            for tool in served.toolbox.of(principal.tenant).values()
        ]
        exchange.respond(200, orjson.dumps({"object": "list", "data": data}))

    return [
        Route(
            "POST",
            "/v1/agent",
            run,
            "Let a model use tools until it has an answer",
            scope=Scope.INFERENCE,
            limit_class=LimitClass.GENERATION,
            guard=GuardPolicy.GENERATION,
            runs_model=True,
            request=AgentRequest,
            response=AgentCompletion,
            stream=AgentEvent,
        ),
        Route(
            "GET",
            "/v1/agent/tools",
            tools,
            "The tools that the server may run",
            scope=Scope.READ_ONLY,
            limit_class=LimitClass.REQUEST,
            guard=GuardPolicy.NONE,
            response=ServerToolList,
        ),
    ]


def _declared(tool: ServerTool) -> dict[str, object]:
    """As a chat declares it."""
    description = {} if tool.description is None else {"description": tool.description}
    return {"type": "function", "function": {"name": tool.name, **description, "parameters": dict(tool.parameters)}}
