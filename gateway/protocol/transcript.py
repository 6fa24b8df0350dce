"""A conversation put together piece by piece, for surfaces whose requests are no plain list of messages."""

from __future__ import annotations

from typing import Literal

from engine.types import ChatMessage, Image, ToolCall
from gateway.protocol.validation import bad_value

#: A text, or pieces of text and pictures in order.
Said = str | tuple[str | Image, ...]


class Transcript:
    """Collects what was said. What an assistant thought, said and called in a row becomes one message.

    ``at`` says where in the request a piece stands; methods that take it raise :class:`~gateway.errors.ApiError` 400.
    """

    def __init__(self) -> None:
        self._messages: list[ChatMessage] = []
        self._called: set[str] = set()
        self._thought: str | None = None
        self._text: Said | None = None
        self._calls: list[ToolCall] = []

    def say(self, role: Literal["system", "developer", "user"], content: Said) -> None:
        """Anybody but the model says something."""
        self._end_answer()
        self._messages.append(ChatMessage(role, content))

    def think(self, text: str) -> None:
        """The model thinks."""
        if self._text is not None or self._calls:
            self._end_answer()
        self._thought = text if self._thought is None else f"{self._thought}\n{text}"

    def answer(self, content: Said) -> None:
        """The model says something."""
        if self._text is not None or self._calls:
            self._end_answer()
        self._text = content

    def call(self, call: ToolCall, at: str) -> None:
        """The model calls a tool; ``at`` is where the call's id stands."""
        if call.id in self._called:
            raise bad_value("Another call has this id.").at(at)
        self._called.add(call.id)
        self._calls.append(call)

    def result(self, call_id: str, content: Said, at: str) -> None:
        """A tool answers; ``at`` is where the call's id stands."""
        if call_id not in self._called:
            raise bad_value("Expected the id of an earlier call.").at(at)
        self._end_answer()
        self._messages.append(ChatMessage("tool", content, tool_call_id=call_id))

    def messages(self) -> list[ChatMessage]:
        """Everything so far."""
        self._end_answer()
        return list(self._messages)

    def _end_answer(self) -> None:
        if self._thought is None and self._text is None and not self._calls:
            return
        calls = tuple(self._calls)
        self._messages.append(ChatMessage("assistant", self._text or "", None, calls, None, self._thought))
        self._thought, self._text, self._calls = None, None, []
