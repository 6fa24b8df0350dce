"""One model's ways to read answers: which splitter and which grammar a request needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.parsing import grammar
from engine.parsing.json_calls import CallReader, ForcedCalls, HeldCalls
from engine.parsing.native import NativeCalls
from engine.parsing.piece import PlainText, Splitter
from engine.parsing.reasoning import Marks, Thinking, ThoughtCounter
from engine.structured.plan import check_parameters
from engine.types import Parsing, RequestRejected, ToolUse


@dataclass(frozen=True, slots=True)
class Reading:
    """How one request's answer is read. ``counter`` counts reasoning tokens, if the model reasons."""

    use: ToolUse | None
    parsers: Parsers
    begun: bool
    counter: ThoughtCounter | None
    keeps_special_tokens: bool

    def splitter(self) -> Splitter:
        """A new one, for one choice."""
        calls = self.parsers.calls(self.use) if self.use is not None else PlainText()
        marks = self.parsers.marks
        return calls if marks is None else Thinking(marks, calls, begun=self.begun)


class Parsers:
    """``native`` None: calls are read as plain JSON. ``marks`` None: the model does not reason."""

    def __init__(self, native: NativeCalls | None, marks: Marks | None) -> None:
        self.native = native
        self.marks = marks

    def reading(self, parsing: Parsing | None, prompt: Sequence[int]) -> Reading | None:
        """How the answer to ``prompt`` is read; None if all of it is content."""
        use = None if parsing is None or parsing.tools is None or parsing.tools.choice == "none" else parsing.tools
        marks = self.marks if parsing is not None else None
        if use is None and marks is None:
            return None
        begun = marks is not None and marks.open_at_end_of(prompt)
        counter = None if marks is None else ThoughtCounter(marks, begun=begun)
        # Marks of reasoning and of trained formats may be special tokens, which are otherwise left out of the text.
        keeps = marks is not None or (use is not None and use.choice == "auto" and self.native is not None)
        return Reading(use, self, begun, counter, keeps)

    def calls(self, use: ToolUse) -> Splitter:
        """A splitter of calls for ``use``."""
        names = [tool.name for tool in grammar.callable_tools(use)]
        if use.choice == "required":
            return ForcedCalls(names, parallel=use.parallel)
        if self.native is not None:
            return self.native.splitter(use, names)
        return HeldCalls(CallReader(names, parallel=use.parallel))

    def check_tools(self, parsing: Parsing | None) -> None:
        """Refuse tools whose parameters are no schema, or that must be held to more than a grammar can.

        Raises :class:`RequestRejected` naming the schema.
        """
        use = None if parsing is None else parsing.tools
        if use is None or use.choice == "none":
            return
        callable_now = grammar.callable_tools(use)
        for tool in use.tools:
            check_parameters(tool, held=tool in callable_now and (use.choice == "required" or tool.strict))

    def grammar(self, parsing: Parsing | None) -> str | None:
        """The structural tag that the answer is held to; None if it is free.

        Raises :class:`RequestRejected` for a strict tool that no grammar is known for.
        """
        use = None if parsing is None else parsing.tools
        if use is None or use.choice == "none":
            return None
        if use.choice == "required":
            return grammar.forced(use)
        held = [tool for tool in grammar.callable_tools(use) if tool.strict]
        if not held:
            return None
        found = grammar.strict(use) if self.native is None else self.native.strict_grammar(use)
        if found is None:
            param = held[0].param.removesuffix(".parameters") + ".strict"
            raise RequestRejected(
                f"Unsupported parameter: '{param}'. This model's calls can be held to a schema only with tool_choice "
                "'required' or a named function.",
                param=param,
                code="unsupported_parameter",
            )
        return found
