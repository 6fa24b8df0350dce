"""The loop itself: a model turn, the tools that it calls, the next turn, until there is a reason to stop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from gateway.access.principal import Principal
from gateway.agent.tool import ServerTool
from gateway.agent.toolbox import AgentMetrics, CallResult, Toolbox
from gateway.agent.turn import BudgetSpent, TurnEncoder, TurnExchange, TurnRequest, TurnSurface, event
from gateway.errors import ApiError, invalid
from gateway.exchange import Exchange
from gateway.guardian.check import Passage
from gateway.observability.tracing.inference import PROVIDER
from gateway.observability.tracing.span import NO_SPAN, Attributes, Span
from gateway.pipeline import Pipeline
from gateway.protocol.agent import AgentPlan, StopReason
from gateway.protocol.chat import Message
from gateway.protocol.encode import DONE, KEEP_ALIVE, Choice, Usage, new_call_id, new_id
from gateway.protocol.tools import ToolChoice

log = logging.getLogger("sluice.agent")

#: Turns that were not ended by the model, and whose calls are not run.
_CUT: Final[Mapping[str, StopReason]] = {"length": "max_tokens", "content_filter": "content_filter"}
#: Least seconds that tools get of a step whose turn took nearly all of it.
LEAST_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Call:
    """A call that the model made."""

    id: str
    name: str
    arguments: str

    def wire(self) -> dict[str, Any]:
        """As in a message."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(slots=True)
class Record:
    """What was done so far, in the form of the answer."""

    id: str
    created: int
    messages: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    used: Usage = field(default_factory=lambda: Usage(0, 0))
    last: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Served:
    """What every agent of this server shares. ``keep_alive``: seconds of silence in a stream."""

    pipeline: Pipeline
    toolbox: Toolbox
    metrics: AgentMetrics
    max_calls: int
    keep_alive: float


class Agent:
    """One request. ``tools``: the server's, as they were when it came."""

    def __init__(
        self,
        served: Served,
        exchange: Exchange,
        principal: Principal,
        plan: AgentPlan,
        tools: Mapping[str, ServerTool],
        *,
        ends_at: float,
    ) -> None:
        self._served = served
        self._exchange = exchange
        self._principal = principal
        self._plan = plan
        self._tools = tools
        self._ends_at = ends_at
        self._record = Record(new_id("agent-"), int(time.time()))
        self._span: Span = NO_SPAN
        #: Messages of the record that a turn was told, and that the guard saw as its input.
        self._told = 0

    async def run(self) -> None:
        """Answer. Raises :class:`ApiError`: before the first token an answer by itself, then a stream's last event."""
        reason: str = "failed"
        try:
            with self._exchange.span.child("invoke_agent", self._asked()) as self._span:
                stopped = await self._loop()
                await self._judge_unread()
            self._answer(stopped)
            reason = stopped
        except asyncio.CancelledError:
            reason = "cancelled"
            raise
        finally:
            self._served.metrics.runs.labels(reason).inc()
            self._log(reason)

    def _asked(self) -> Attributes:
        return {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.agent.id": self._record.id,
        }

    async def _loop(self) -> StopReason:
        for step in range(1, self._plan.max_steps + 1):
            step_ends = min(self._ends_at, time.monotonic() + self._plan.step_timeout)
            try:
                answer, usage = await self._turn(step, step_ends, self._left())
            except BudgetSpent:
                if step > 1:
                    return "max_tokens"
                hint = "Invalid 'agent.max_total_tokens': the prompt alone takes more."
                raise invalid(hint, code="invalid_value", param="agent.max_total_tokens") from None
            except ApiError as error:
                if step > 1 and error.code == "context_length_exceeded":
                    return "max_tokens"  # what was done so far is worth more than an error
                raise
            calls = [Call(new_call_id(), call.name, call.arguments) for call in answer.tool_calls]
            self._keep(step, answer, usage, calls)
            if answer.finish_reason in _CUT:
                return _CUT[answer.finish_reason]
            if not calls:
                return "no_tools"
            own = [call for call in calls if call.name in self._plan.server]
            if step == self._plan.max_steps and len(own) == len(calls):
                return "max_steps"
            failed = await self._run_tools(step, own, step_ends)
            if len(own) < len(calls):
                return "client_tools"
            if failed and self._plan.on_tool_error == "stop":
                return "tool_error"
        raise AssertionError("the last step returns")

    async def _judge_unread(self) -> None:
        """What tools said behind the last turn was seen by no guard yet, and the answer shows it."""
        unread = [each["content"] for each in self._record.messages[self._told :] if each["role"] == "tool"]
        if unread:
            passages = [Passage(text, "tool") for text in unread]
            await self._served.pipeline.judge(
                self._exchange, self._principal, self._plan.chat.model, passages, TurnSurface.prompt_param
            )

    def _left(self) -> int:
        return self._plan.max_total_tokens - self._record.used.prompt_tokens - self._record.used.completion_tokens

    # -- the model --------------------------------------------------------------------------------------------------

    async def _turn(self, step: int, ends_at: float, room: int) -> tuple[Choice, Usage]:
        chat = self._plan.chat
        added = [Message.model_validate(message) for message in self._record.messages]
        update: dict[str, Any] = {"messages": [*chat.messages, *added]}
        if step > 1 and chat.tool_choice is not None and chat.tool_choice.mode == "required":
            # Who is forced to call something calls it for ever.
            update["tool_choice"] = ToolChoice("auto", chat.tool_choice.only)
        request = TurnRequest(chat.model_copy(update=update), room)
        encoder = TurnEncoder(step, show_reasoning=chat.include_reasoning)
        exchange = TurnExchange(self._exchange, ends_at, self._span)
        self._served.metrics.steps.inc()
        try:
            await self._served.pipeline.generate(exchange, TurnSurface(request, encoder), principal=self._principal)
        except ApiError as error:
            if (life := exchange.accounted) is not None and not life.ended:
                life.failed(error.code or "error", completion_tokens=exchange.tokens[1])
            raise
        except asyncio.CancelledError:
            if (life := exchange.accounted) is not None and not life.ended:
                life.cancelled(completion_tokens=exchange.tokens[1])
            raise
        self._told = len(self._record.messages)
        return encoder.answer, encoder.used

    def _keep(self, step: int, answer: Choice, usage: Usage, calls: Sequence[Call]) -> None:
        record, used = self._record, self._record.used
        record.used = Usage(
            used.prompt_tokens + usage.prompt_tokens,
            used.completion_tokens + usage.completion_tokens,
            used.cached_tokens + usage.cached_tokens,
            None if usage.reasoning_tokens is None else (used.reasoning_tokens or 0) + usage.reasoning_tokens,
        )
        content = None if calls and not answer.text else answer.text
        made = {"tool_calls": [call.wire() for call in calls]} if calls else {}
        thought = {"reasoning_content": answer.reasoning} if answer.reasoning else {}
        record.messages.append({"role": "assistant", "content": content, **made, **thought})
        shown = {**thought, "reasoning": answer.reasoning} if thought and self._plan.chat.include_reasoning else {}
        record.last = {"role": "assistant", "content": content, "refusal": None, **made, **shown}
        record.steps.append(
            {"step": step, "finish_reason": answer.finish_reason, "usage": usage.wire(), "tool_calls": []}
        )

    # -- the tools --------------------------------------------------------------------------------------------------

    async def _run_tools(self, step: int, calls: Sequence[Call], ends_at: float) -> bool:
        """Run ``calls`` at once and add what they say to the conversation; whether one of them failed."""
        seconds = max(LEAST_SECONDS, ends_at - time.monotonic())
        for call in calls:
            self._show("agent.tool_call.started", step, call={**_named(call), "arguments": call.arguments})
        tasks = [asyncio.ensure_future(self._run_tool(step, call, seconds, place)) for place, call in enumerate(calls)]
        try:
            await self._wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        results = [task.result() for task in tasks]
        for call, result in zip(calls, results, strict=True):
            self._record.messages.append({"role": "tool", "tool_call_id": call.id, "content": result.text})
            self._record.steps[-1]["tool_calls"].append(_came_of(call, result))
        return any(result.outcome != "ok" for result in results)

    async def _run_tool(self, step: int, call: Call, seconds: float, place: int) -> CallResult:
        if place >= self._served.max_calls:
            result = CallResult("error", f"Error: at most {self._served.max_calls} calls at once", cut=False, seconds=0)
        else:
            with self._span.child(f"execute_tool {call.name}", _execution(call)) as span:
                result = await self._served.toolbox.run(self._tools[call.name], call.arguments, seconds)
                if result.outcome != "ok":
                    span.fail(result.outcome)
        self._show("agent.tool_call.completed", step, call=_came_of(call, result))
        if result.outcome != "ok":
            log.warning(
                "tool %s: %s",
                call.name,
                result.outcome,
                extra={"request_id": self._exchange.request_id, "fields": {"seconds": round(result.seconds, 3)}},
            )
        return result

    async def _wait(self, tasks: Sequence[asyncio.Task[CallResult]]) -> None:
        waiting = set(tasks)
        while waiting:
            _, waiting = await asyncio.wait(waiting, timeout=self._served.keep_alive)
            if waiting and self._exchange.started and not self._exchange.stream.paused:
                self._exchange.stream.write(KEEP_ALIVE)

    # -- the answer -------------------------------------------------------------------------------------------------

    def _show(self, kind: str, step: int | None, **fields: Any) -> None:
        if self._plan.chat.stream:
            self._exchange.begin_stream()
            self._exchange.stream.write(event(kind, step, **fields))

    def _answer(self, reason: StopReason) -> None:
        record = self._record
        whole = {
            "id": record.id,
            "object": "agent.completion",
            "created": record.created,
            "model": self._plan.chat.model,
            "stop_reason": reason,
            "message": record.last,
            "messages": record.messages,
            "steps": record.steps,
            "usage": record.used.wire(),
        }
        if not self._plan.chat.stream:
            self._exchange.respond(200, orjson.dumps(whole))
            return
        self._exchange.begin_stream()
        self._exchange.stream.finish(event("agent.completed", None, response=whole) + DONE)

    def _log(self, reason: str) -> None:
        calls = sum(len(step["tool_calls"]) for step in self._record.steps)
        fields = {
            "agent": self._record.id,
            "reason": reason,
            "steps": len(self._record.steps),
            "tool_calls": calls,
            "prompt_tokens": self._record.used.prompt_tokens,
            "completion_tokens": self._record.used.completion_tokens,
        }
        log.info("agent finished", extra={"request_id": self._exchange.request_id, "fields": fields})


def _execution(call: Call) -> Attributes:
    return {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": call.name,
        "gen_ai.tool.call.id": call.id,
        "gen_ai.tool.type": "extension",
    }


def _named(call: Call) -> dict[str, Any]:
    return {"id": call.id, "name": call.name}


def _came_of(call: Call, result: CallResult) -> dict[str, Any]:
    return {
        **_named(call),
        "outcome": result.outcome,
        "seconds": round(result.seconds, 6),
        "characters": len(result.text),
        "cut": result.cut,
    }
