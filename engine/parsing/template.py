"""Conversations with tools as chat templates take them.

A template that renders tools gets them in the form it was written for. For others the tools stand as JSON in the
system message, with instructions to answer in JSON (:mod:`engine.parsing.json_calls`), and calls and results are
turned into ordinary turns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, Final

from engine.types import ChatMessage, Conversation, ReasoningEffort, RequestRejected, Tool, ToolCall, ToolUse

Entry = dict[str, Any]

_INSTRUCTIONS: Final = """You can call functions. These are the functions, as JSON:
{tools}
To call a function, answer with nothing but a JSON object: {{"name": <function name>, "arguments": <object>}}
{parallel}If no function is needed, answer with text."""
_SEVERAL: Final = "To call several functions, write one such object per line.\n"
_ONE: Final = "Call at most one function at a time.\n"


def native_entries(messages: Sequence[ChatMessage]) -> list[Entry]:
    """For templates that render tools, their calls and their results."""
    return [_native_entry(message) for message in messages]


def _native_entry(message: ChatMessage) -> Entry:
    entry: Entry = {"role": message.role, "content": content_of(message)}
    if message.name is not None:
        entry["name"] = message.name
    if message.tool_calls:
        entry["tool_calls"] = [_native_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        entry["tool_call_id"] = message.tool_call_id
    if message.reasoning is not None:
        # The one name or the other is read, depending on the model's family.
        entry |= {"reasoning_content": message.reasoning, "reasoning": message.reasoning}
    return entry


def _native_call(call: ToolCall) -> Entry:
    # Templates expect the object, as OpenAI's text of it would be quoted once more.
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": _object_or_text(call.arguments)},
    }


def _object_or_text(arguments: str) -> object:
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def plain_entries(messages: Sequence[ChatMessage], use: ToolUse | None) -> list[Entry]:
    """For templates that know only turns."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    entries: list[Entry] = []
    for message in messages:
        entry = _plain_entry(message, names)
        if message.role == "tool" and entries and entries[-1].get("tool"):
            entries[-1]["content"] += "\n" + entry["content"]
        else:
            entries.append({**entry, "tool": message.role == "tool"})
    entries = [{key: value for key, value in entry.items() if key != "tool"} for entry in entries]
    return entries if use is None else _with_instructions(entries, use)


def _plain_entry(message: ChatMessage, names: Mapping[str, str]) -> Entry:
    content = content_of(message)
    if not isinstance(content, str):
        return {"role": message.role, "content": content, **({} if message.name is None else {"name": message.name})}
    if message.role == "tool":
        # Not every template knows the role; all of them know that the user speaks after the assistant.
        return {
            "role": "user",
            "content": f"Result of {names.get(message.tool_call_id or '', 'the function')}: {content}",
        }
    calls = [
        f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments or "{}"}}}' for call in message.tool_calls
    ]
    entry: Entry = {"role": message.role, "content": "\n".join([content, *calls] if content else calls)}
    if message.name is not None:
        entry["name"] = message.name
    if message.reasoning is not None:
        entry |= {"reasoning_content": message.reasoning, "reasoning": message.reasoning}
    return entry


def _with_instructions(entries: list[Entry], use: ToolUse) -> list[Entry]:
    tools = "\n".join(json.dumps(described(tool), ensure_ascii=False) for tool in use.tools)
    text = _INSTRUCTIONS.format(tools=tools, parallel=_SEVERAL if use.parallel else _ONE)
    if entries and entries[0]["role"] in ("system", "developer"):
        first = {**entries[0], "content": f"{entries[0]['content']}\n\n{text}"}
        return [first, *entries[1:]]
    return [{"role": "system", "content": text}, *entries]


def described(tool: Tool) -> Entry:
    """What a model needs to know of ``tool``."""
    about: Entry = {"name": tool.name}
    if tool.description is not None:
        about["description"] = tool.description
    about["parameters"] = dict(tool.parameters or {"type": "object", "properties": {}})
    return about


def shown_tools(conversation: Conversation) -> ToolUse | None:
    """The tools that the model is told of: none where it must not call any."""
    use = conversation.tools
    return None if use is None or use.choice == "none" else use


def content_of(message: ChatMessage) -> str | list[Entry]:
    """The text of ``message``, or its parts where there is more to it, which only users may send.

    Raises :class:`RequestRejected`.
    """
    if isinstance(message.content, str):
        return message.content
    if message.role != "user":
        raise RequestRejected("Only users may send images.", param="messages", code="unsupported_modality")
    return [
        {"type": "text", "text": piece} if isinstance(piece, str) else {"type": "image"} for piece in message.content
    ]


def in_parts(entries: Sequence[Entry]) -> list[Entry]:
    """For templates that take contents as lists of parts."""
    return [
        {**entry, "content": [{"type": "text", "text": entry["content"]}]}
        if isinstance(entry["content"], str)
        else entry
        for entry in entries
    ]


def in_texts(entries: Sequence[Entry], placeholder: Callable[[int], str]) -> list[Entry]:
    """For templates that take contents as texts; ``placeholder`` stands for the picture of a number, from 1."""
    numbers = count(1)

    def text(content: str | list[Entry]) -> str:
        if isinstance(content, str):
            return content
        return "\n".join(part["text"] if part["type"] == "text" else placeholder(next(numbers)) for part in content)

    return [{**entry, "content": text(entry["content"])} for entry in entries]


def effort_variables(template: str | None, effort: ReasoningEffort | None, *, reasons: bool) -> Entry:
    """What ``template`` is told about the wished ``effort``, by the names it knows.

    Levels are given to templates that know levels; others are told to think, or with ``none`` not to. Raises
    :class:`RequestRejected` for a wish that the model cannot fulfil.
    """
    if effort is None or (effort == "none" and not reasons):
        return {}
    names = ("reasoning_effort", "enable_thinking", "thinking")
    known = [name for name in names if re.search(rf"\b{name}\b", template or "")]
    if not reasons:
        raise _no_effort("This model does not reason.")
    if not known or (effort == "none" and known == ["reasoning_effort"]):
        raise _no_effort("This model's reasoning cannot be steered.")
    told: Entry = {"reasoning_effort": effort, "enable_thinking": effort != "none", "thinking": effort != "none"}
    return {name: told[name] for name in known}


def _no_effort(hint: str) -> RequestRejected:
    return RequestRejected(
        f"Unsupported parameter: 'reasoning_effort'. {hint}", param="reasoning_effort", code="unsupported_parameter"
    )
