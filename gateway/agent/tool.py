"""What a tool of the server is, and what came of a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry

#: ``invalid_arguments``: the call was not made; ``unavailable``: the tool could not be reached.
Outcome = Literal["ok", "error", "timeout", "invalid_arguments", "unavailable"]

CUT: Final = "\n[the rest was cut]"


class ToolFailed(Exception):
    """A call that did not work. The message is told to the model: nothing in it is secret."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What a tool said. ``text`` is data: it is never more than its tool allows, and valid UTF-8."""

    text: str
    cut: bool = False


class ServerTool(Protocol):
    """A tool that the server may run."""

    @property
    def name(self) -> str:
        """What the model calls it by."""

    @property
    def description(self) -> str | None:
        """Tells the model what it does."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """JSON Schema of its arguments."""

    @property
    def tenants(self) -> frozenset[str] | None:
        """Who may use it; None: everyone."""

    @property
    def timeout(self) -> float:
        """Seconds that one call may take."""

    async def call(self, arguments: Mapping[str, Any]) -> ToolOutput:
        """Run it; cancelling gives the call up. Raises :class:`ToolFailed`."""


class Arguments:
    """Checks arguments against a schema. References out of it are not followed."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._validator = Draft202012Validator(dict(schema), registry=Registry())

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raises :class:`ToolFailed` saying what is wrong first."""
        try:
            self._validator.validate(dict(arguments))
        except ValidationError as error:
            where = "".join(f"[{step!r}]" for step in error.absolute_path)
            raise ToolFailed("invalid_arguments", f"invalid arguments{where}: {error.message[:300]}") from error
        except Exception as error:
            # A schema that cannot be used is the tool's fault; nothing is called with what cannot be checked.
            raise ToolFailed("error", "the arguments cannot be checked") from error


def bounded(text: str, limit: int) -> ToolOutput:
    """``text`` as valid UTF-8 of at most ``limit`` bytes (and a note where it was cut)."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return ToolOutput(data.decode())
    return ToolOutput(data[:limit].decode("utf-8", "ignore") + CUT, cut=True)
