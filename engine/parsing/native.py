"""vLLM's tool and reasoning parsers by their names.

Fence around vllm/tool_parsers, vllm/reasoning and tool_parsers/structural_tag_registry.py (checked against 0.32.0). Of
the tool parsers only the one for complete texts is used: their ways for streams are known to differ from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.tool_parsers.structural_tag_registry import limit_to_single_tool_call

from engine.parsing.held import Extract, HeldBack
from engine.parsing.json_calls import CallReader
from engine.parsing.piece import Splitter
from engine.parsing.reasoning import Marks
from engine.structured.lowered import lowered
from engine.types import EngineUnavailable, Tool, ToolUse

CHECKED_VERSION: Final = "0.32.0"

#: What a call begins with. A parser that is not listed has its whole reply held back. No mark may begin inside another.
_MARKS: Final[Mapping[str, tuple[str, ...]]] = {
    "hermes": ("<tool_call>",),
    "qwen3_coder": ("<tool_call>",),
    "qwen3_xml": ("<tool_call>",),
    "glm45": ("<tool_call>",),
    "glm47": ("<tool_call>",),
    "granite4": ("<tool_call>",),
    "granite": ("<|tool_call|>", "<tool_call>"),
    "llama3_json": ("<|python_tag|>", "{"),
    "llama4_json": ("<|python_tag|>", "{"),
    "mistral": ("[TOOL_CALLS]",),
    "pythonic": ("[",),
    "deepseek_v3": ("<｜tool▁calls▁begin｜>",),
    "deepseek_v31": ("<｜tool▁calls▁begin｜>",),
    "kimi_k2": ("<|tool_calls_section_begin|>",),
}

#: Formats that are our own plain JSON behind a mark. vLLM's parser of them takes seconds for some replies of 4 KB.
_JSON_BEHIND_MARK: Final = frozenset({"granite"})

#: Parsers that do not look at the tools, and take too long to make (0.1 s) to make one for every answer.
_SHARED: Final = frozenset({"mistral"})

#: Signs in a chat template that tell which parser reads what the model was trained to write; the first that fits.
_SIGNS: Final[Sequence[tuple[str, str]]] = (
    ("<function=", "qwen3_coder"),
    ("<tool_call>", "hermes"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|python_tag|>", "llama3_json"),
    ("<｜tool▁calls▁begin｜>", "deepseek_v3"),
    ("<|tool_call|>", "granite"),
)


def detect(chat_template: str | None) -> str | None:
    """The parser for what ``chat_template`` shows the model, if it is one we know."""
    return next((name for sign, name in _SIGNS if sign in (chat_template or "")), None)


class NativeCalls:
    """One of vLLM's tool parsers. ``name`` as vLLM knows it.

    Raises :class:`EngineUnavailable` for a name that vLLM does not know or a tokeniser that the parser cannot use.
    """

    def __init__(self, name: str, tokenizer: Any) -> None:
        self.name = name
        self._tokenizer = tokenizer
        try:
            self._parser = ToolParserManager.get_tool_parser(name)
            self._shared = self._parser(tokenizer)
        except Exception as error:
            raise EngineUnavailable(f"the tool parser {name!r} does not fit this model: {error}") from error

    def splitter(self, use: ToolUse, names: Sequence[str]) -> Splitter:
        """For one choice of a request that may call ``names``."""
        marks = _MARKS.get(self.name, ())
        extract = _behind(marks, names) if self.name in _JSON_BEHIND_MARK else self._extract(use)
        return HeldBack(marks, extract, names, parallel=use.parallel)

    def _extract(self, use: ToolUse) -> Extract:
        request = _request(use)
        parser = self._shared if self.name in _SHARED else self._parser(self._tokenizer, request.tools)

        def extract(text: str) -> tuple[str, Sequence[tuple[str, str]]]:
            found = parser.extract_tool_calls(text, request)
            calls = [(call.function.name, _object_text(call.function.arguments)) for call in found.tool_calls]
            return found.content or "", calls if found.tools_called else []

        return extract

    def strict_grammar(self, use: ToolUse) -> str | None:
        """A structural tag that holds calls of strict tools to their schemas; None if vLLM has none for this model."""
        request = _request(replace(use, tools=tuple(_held(tool) for tool in use.tools)))
        tag = self._parser(self._tokenizer, request.tools).get_structural_tag(request)
        if tag is None:
            return None
        if not use.parallel:
            tag = limit_to_single_tool_call(tag)
        return str(tag.model_dump_json(exclude_none=True))


def _held(tool: Tool) -> Tool:
    return replace(tool, parameters=lowered(tool.parameters)) if tool.strict else tool


def _behind(marks: Sequence[str], names: Sequence[str]) -> Extract:
    reader = CallReader(names)

    def extract(text: str) -> tuple[str, Sequence[tuple[str, str]]]:
        mark = next(mark for mark in marks if text.startswith(mark))
        return "", [(call.name or "", call.arguments) for call in reader.read(text[len(mark) :])]

    return extract


def _object_text(arguments: str) -> str:
    if not isinstance(json.loads(arguments), dict):
        raise ValueError("arguments are an object")
    return arguments


def _request(use: ToolUse) -> ChatCompletionRequest:
    return ChatCompletionRequest(messages=[], model="", tools=[wire(tool) for tool in use.tools], tool_choice="auto")


def wire(tool: Tool) -> dict[str, Any]:
    """``tool`` as chat templates and parsers know it."""
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = dict(tool.parameters or {"type": "object", "properties": {}})
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def reasoning_marks(name: str, tokenizer: Any) -> Marks:
    """The marks of vLLM's reasoning parser ``name``.

    Raises :class:`EngineUnavailable` unless it is known and its marks are single tokens of ``tokenizer``.
    """
    try:
        parser = ReasoningParserManager.get_reasoning_parser(name)(tokenizer)
    except Exception as error:
        raise EngineUnavailable(f"the reasoning parser {name!r} does not fit this model: {error}") from error
    vocabulary = tokenizer.get_vocab()
    start, end = parser.reasoning_start_str, parser.reasoning_end_str
    if start not in vocabulary or end not in vocabulary:
        raise EngineUnavailable(f"the reasoning parser {name!r} is not supported: its marks are not single tokens")
    return Marks(start, end, vocabulary[start], vocabulary[end])
