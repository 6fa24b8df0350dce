"""POST /v1/agent on the wire: a chat completion whose tools the server may run itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.protocol import refused, strictjson
from gateway.protocol.chat import ChatCompletionRequest, read_chat
from gateway.protocol.responses import AssistantMessage, Usage
from gateway.protocol.sampling import RequestBounds, nullable_options, without_nulls
from gateway.protocol.validation import above, bad_value, unsupported, worst_problem, wrong_type

DEFAULT_STEPS: Final = 8

StopReason = Literal["no_tools", "max_steps", "tool_error", "max_tokens", "client_tools", "content_filter"]

#: Fields of a chat that make no sense over several turns, and the values of them that ask for nothing.
_ONE_ANSWER: Final = "An agent gives one answer, as text, and always its usage."
_REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "stream_options": ({"include_usage": True},),
}


class AgentOptions(BaseModel):
    """What the server may do by itself."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra=nullable_options)

    tools: Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=128)] | None = Field(
        None, description="Names of the server's tools that it may run, as /v1/agent/tools lists them; all by default."
    )
    max_steps: int | None = Field(None, ge=1, le=1000, description="Most model turns; 8 by default.")
    max_total_tokens: int | None = Field(
        None, ge=1, le=2**31, description="Most tokens over all turns, prompts included; the server's bound by default."
    )
    step_timeout: float | None = Field(
        None, gt=0, le=86_400, description="Most seconds of one step: a model turn and its tools."
    )
    on_tool_error: Literal["stop", "continue"] = Field(
        "stop", description="What happens when a tool fails; `continue`: the model is told, and may try otherwise."
    )


class AgentRequest(ChatCompletionRequest):
    """As for /v1/chat/completions, with `agent`; without `n`, log probabilities and structured output."""

    agent: AgentOptions = Field(AgentOptions(), description="What the server may do by itself.")


@dataclass(frozen=True, slots=True)
class AgentBounds:
    """The server's bounds; ``step_timeout`` in seconds."""

    max_steps: int = 16
    max_total_tokens: int = 131_072
    step_timeout: float = 120.0


@dataclass(frozen=True, slots=True)
class AgentPlan:
    """A checked request. ``chat`` has all tools in ``chat.tools``, ``server`` are the names of the server's own."""

    chat: ChatCompletionRequest
    server: frozenset[str]
    max_steps: int
    max_total_tokens: int
    step_timeout: float
    on_tool_error: Literal["stop", "continue"]


def parse_agent(
    data: bytes, bounds: RequestBounds, own: AgentBounds, tools: Mapping[str, Mapping[str, Any]]
) -> AgentPlan:
    """The request in ``data``; ``tools`` are the server's, as a chat declares them, by name. Pure.

    Raises :class:`~gateway.errors.ApiError` 400 that names the field.
    """
    fields = dict(strictjson.loads(data))
    options = _options(fields.pop("agent", None), own)
    for name, neutral in _REFUSED.items():
        value = fields.pop(name, None)
        if value is not None and not any(type(value) is type(each) and value == each for each in neutral):
            raise unsupported(_ONE_ANSWER).at(name)
    chosen = _chosen(options.tools, tools)
    declared = fields.get("tools") or []
    if isinstance(declared, list):
        _check_names(declared, chosen)
        # An empty list of the caller's own stays one, and is refused as in chats.
        fields["tools"] = [*declared, *(tools[name] for name in chosen)] if chosen else fields.get("tools")
    chat = read_chat(fields, bounds)
    return AgentPlan(
        chat,
        frozenset(chosen),
        min(options.max_steps or DEFAULT_STEPS, own.max_steps),
        options.max_total_tokens or own.max_total_tokens,
        options.step_timeout or own.step_timeout,
        options.on_tool_error,
    )


def _options(value: object, own: AgentBounds) -> AgentOptions:
    if value is None:
        return AgentOptions()
    if not isinstance(value, dict):
        raise wrong_type("an object", value).at("agent")
    fields = refused.screen(cast(refused.Fields, value), frozenset(AgentOptions.model_fields), {}, "agent")
    try:
        options = AgentOptions.model_validate(without_nulls(fields))
    except ValidationError as error:
        path, problem = worst_problem(error)
        raise problem.at(f"agent.{path}") from None
    for name in ("max_steps", "max_total_tokens", "step_timeout"):
        wanted, most = getattr(options, name), getattr(own, name)
        if wanted is not None and wanted > most:
            raise above(most, wanted).at(f"agent.{name}")
    return options


def _chosen(wanted: list[str] | None, tools: Mapping[str, object]) -> list[str]:
    if wanted is None:
        return list(tools)
    for place, name in enumerate(wanted):
        if name not in tools:
            raise bad_value("The server has no such tool; /v1/agent/tools lists them.").at(f"agent.tools[{place}]")
        if name in wanted[:place]:
            raise bad_value("It is named twice.").at(f"agent.tools[{place}]")
    return wanted


def _check_names(declared: list[object], chosen: list[str]) -> None:
    for place, tool in enumerate(declared):
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if name in chosen:
            raise bad_value("A tool of the server has this name; see 'agent.tools'.").at(
                f"tools[{place}].function.name"
            )


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AgentToolCall(_Answer):
    """A call that the server ran."""

    id: str = Field(description="The call's id, as in the message that made it.")
    name: str = Field(description="The tool.")
    outcome: Literal["ok", "error", "timeout", "invalid_arguments", "unavailable"] = Field(
        description="`invalid_arguments`: it was not made; `unavailable`: the tool could not be reached."
    )
    seconds: float = Field(ge=0, description="How long it took.")
    characters: int = Field(ge=0, description="Length of what the model is told of it.")
    cut: bool = Field(description="Whether it said more than the model is told.")


class AgentStep(_Answer):
    """One model turn and the calls that the server ran after it."""

    step: int = Field(ge=1, description="Its number.")
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] = Field(
        description="As of a chat completion."
    )
    usage: Usage = Field(description="Tokens of the turn.")
    tool_calls: list[AgentToolCall] = Field(description="The calls that the server ran.")


class AgentMessage(_Answer):
    """A message of the loop, in the form in which it can be sent back."""

    role: Literal["assistant", "tool"] = Field(description="Who speaks.")
    content: str | None = Field(description="The text; null where there are only calls.")
    tool_calls: list[dict[str, Any]] | None = Field(None, description="Of an assistant: its calls.")
    tool_call_id: str | None = Field(None, description="Of a tool: the call that it answers.")
    reasoning_content: str | None = Field(None, description="Of an assistant: what it thought.")


class AgentCompletion(_Answer):
    """The answer of /v1/agent."""

    id: str = Field(description="Unique; begins with `agent-`.")
    object: Literal["agent.completion"] = Field(description="Always `agent.completion`.")
    created: int = Field(description="Unix time in seconds.")
    model: str = Field(description="The model that answered.")
    stop_reason: StopReason = Field(
        description="`no_tools`: the model answered; `client_tools`: it called tools of the caller; `max_steps`, "
        "`max_tokens`: a bound; `tool_error`: a tool failed; `content_filter`: the guard cut the last turn."
    )
    message: AssistantMessage = Field(description="The last turn.")
    messages: list[AgentMessage] = Field(description="All that was added to the conversation, the last turn included.")
    steps: list[AgentStep] = Field(description="What was done.")
    usage: Usage = Field(description="Tokens over all turns.")


class AgentEvent(_Answer):
    """One event of a stream. It ends with one `agent.completed` and `[DONE]`, or with one error event."""

    type: Literal[
        "agent.step.started",
        "agent.reasoning.delta",
        "agent.message.delta",
        "agent.step.completed",
        "agent.tool_call.started",
        "agent.tool_call.completed",
        "agent.completed",
    ] = Field(description="What happened.")
    step: int | None = Field(None, description="In which step.")
    delta: str | None = Field(None, description="Text to append.")
    finish_reason: str | None = Field(None, description="Of a completed step.")
    usage: Usage | None = Field(None, description="Of a completed step.")
    call: dict[str, Any] | None = Field(None, description="A call: id, name, arguments; at its end what came of it.")
    response: AgentCompletion | None = Field(None, description="Of `agent.completed`: the whole answer.")


class ServerToolInfo(_Answer):
    """A tool that the server may run."""

    name: str = Field(description="What it is called by.")
    description: str | None = Field(description="What it does.")
    parameters: dict[str, Any] = Field(description="JSON Schema of its arguments.")


class ServerToolList(_Answer):
    """The server's tools that the caller may use now."""

    object: Literal["list"] = Field(description="Always `list`.")
    data: list[ServerToolInfo] = Field(description="The tools.")
