"""The stub engine with a script: what the model says, turn by turn, calls included. For the loop around it only."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from engine.types import Conversation, Delta, DeltaSink, FinishReason, GenerationRequest, Prompt, ToolCallDelta
from tests.support import toy_model
from tests.support.stub_engine import StubEngine


@dataclass(frozen=True, slots=True)
class Says:
    """One turn. ``calls``: name and arguments."""

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    reasoning: str = ""
    finish: FinishReason | None = None
    seconds: float = 0.0


class ScriptedEngine(StubEngine):
    """Plays ``turns``, and says ``done`` when there are none left. ``heard``: what it was asked."""

    def __init__(self, *turns: Says) -> None:
        super().__init__()
        self._turns = list(turns)
        self.heard: list[Conversation] = []
        self.requests: list[GenerationRequest] = []

    async def render_chat(self, model: str, conversation: Conversation) -> Prompt:
        self.heard.append(conversation)
        texts = [f"{message.role}: {message.content}" for message in conversation.messages]
        return Prompt(toy_model.encode("\n".join(texts)))

    async def run(self, request: GenerationRequest, sink: DeltaSink) -> None:
        self.requests.append(request)
        turn = self._turns.pop(0) if self._turns else Says("done")
        await asyncio.sleep(turn.seconds)
        finish: FinishReason = turn.finish or ("tool_calls" if turn.calls else "stop")
        for delta in _split(turn, finish) if request.stream else _whole(turn, finish):
            sink.delta(delta)


def _whole(turn: Says, finish: FinishReason) -> Sequence[Delta]:
    calls = tuple(ToolCallDelta(index, *call) for index, call in enumerate(turn.calls))
    return [Delta(0, turn.text, _tokens(turn), finish, reasoning=turn.reasoning, tool_calls=calls)]


def _split(turn: Says, finish: FinishReason) -> Sequence[Delta]:
    deltas = [Delta(0, "", 0, reasoning=turn.reasoning)] if turn.reasoning else []
    deltas += [Delta(0, character, 1) for character in turn.text]
    for index, (name, arguments) in enumerate(turn.calls):
        half = len(arguments) // 2
        deltas.append(Delta(0, "", 1, tool_calls=(ToolCallDelta(index, name, arguments[:half]),)))
        deltas.append(Delta(0, "", 0, tool_calls=(ToolCallDelta(index, None, arguments[half:]),)))
    return [*deltas, Delta(0, "", _tokens(turn) - len(turn.text) - len(turn.calls), finish)]


def _tokens(turn: Says) -> int:
    return len(turn.text) + len(turn.calls) + 1
