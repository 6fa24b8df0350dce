"""Which parsers a started model is given."""

from __future__ import annotations

import logging
from typing import Any

from engine.config import AUTOMATIC, GENERIC
from engine.parsing.native import NativeCalls, detect, reasoning_marks
from engine.parsing.parsers import Parsers
from engine.types import EngineUnavailable

log = logging.getLogger("sluice.engine")


def parsers_of(llm: Any, tool_parser: str, chat_template: str | None) -> Parsers:
    """For ``llm`` (an ``AsyncLLM``) and the setting ``tool_parser``; reasoning as in vLLM's own ``reasoning_parser``.

    Raises :class:`EngineUnavailable` for a parser that was asked for by name and does not fit.
    """
    tokenizer = llm.get_tokenizer()
    reasoning = llm.vllm_config.structured_outputs_config.reasoning_parser
    marks = reasoning_marks(reasoning, tokenizer) if reasoning else None
    return Parsers(_native(tool_parser, tokenizer, chat_template), marks)


def _native(tool_parser: str, tokenizer: Any, chat_template: str | None) -> NativeCalls | None:
    if tool_parser == GENERIC:
        return None
    if tool_parser != AUTOMATIC:
        return NativeCalls(tool_parser, tokenizer)
    name = detect(chat_template)
    if name is None:
        return None
    try:
        return NativeCalls(name, tokenizer)
    except EngineUnavailable as error:
        log.warning("tool calls are read as plain JSON: %s", error)
        return None
