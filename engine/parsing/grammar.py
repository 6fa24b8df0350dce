"""Grammars that hold an answer to calls, written as xgrammar's structural tags (JSON).

Calls are plain JSON for every model, one after another on lines of their own: a grammar needs no trained format, and
arguments can leave while they are made (:class:`engine.parsing.json_calls.ForcedCalls`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from engine.structured.keywords import ANNOTATIONS, CONTAINERS
from engine.structured.lowered import lowered
from engine.types import Tool, ToolUse

#: An answer of text begins with none of these: what does is held to calls.
_TEXT_START: Final = {"type": "regex", "pattern": r"[^\s{\[]"}
_ANY_OBJECT: Final = {"type": "object"}
#: A model that cannot find an end may write white space for ever.
_WHITE: Final = {"max_whitespace_cnt": 1}


def callable_tools(use: ToolUse) -> Sequence[Tool]:
    """The tools that the answer may call."""
    return [tool for tool in use.tools if not use.only or tool.name in use.only]


def forced(use: ToolUse) -> str:
    """Nothing but calls, at least one, with arguments valid against their schemas."""
    return _tag(_calls(callable_tools(use), use.parallel, every_schema=True))


def strict(use: ToolUse) -> str:
    """Calls or text; the arguments of strict tools are valid against their schemas."""
    text = {"type": "sequence", "elements": [_TEXT_START, {"type": "any_text"}]}
    calls = _calls(callable_tools(use), use.parallel, every_schema=False)
    return _tag({"type": "or", "elements": [calls, text]})


def _calls(tools: Sequence[Tool], parallel: bool, *, every_schema: bool) -> dict[str, Any]:
    return {
        "type": "tags_with_separator",
        "tags": [_call(tool, held=every_schema or tool.strict) for tool in tools],
        "separator": "\n",
        "at_least_one": True,
        "stop_after_first": not parallel,
    }


def _call(tool: Tool, *, held: bool) -> dict[str, Any]:
    schema = dict(tool.parameters or {"type": "object", "properties": {}, "additionalProperties": False})
    if schema.keys() <= ANNOTATIONS | CONTAINERS:
        schema["type"] = "object"  # arguments are, also where their schema says nothing
    return {
        "type": "tag",
        "begin": f'{{"name": {json.dumps(tool.name)}, "arguments": ',
        "content": {"type": "json_schema", "json_schema": lowered(schema) if held else _ANY_OBJECT, **_WHITE},
        "end": "}",
    }


def _tag(form: dict[str, Any]) -> str:
    return json.dumps({"type": "structural_tag", "format": form}, ensure_ascii=False)
