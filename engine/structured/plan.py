"""What a request's output is held to, in the engine's own words."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from vllm.sampling_params import StructuredOutputsParams

from engine.structured.grammars import check_grammar
from engine.structured.lowered import lowered_text
from engine.structured.patterns import check_pattern, plain_pattern
from engine.structured.refusal import UNICODE, UNSUPPORTED, VALUE, NotEnforceable
from engine.structured.schema import check_schema
from engine.types import Constraint, Tool

PlanKind = Literal["json", "regex", "grammar", "structural_tag"]


@dataclass(frozen=True, slots=True)
class Plan:
    """``text``: a schema or a structural tag as JSON, a regular expression, a grammar in EBNF.

    ``param``: the field of the request that it comes from.
    """

    kind: PlanKind
    text: str
    param: str

    def key(self) -> bytes:
        """The same for plans that are held to the same."""
        return hashlib.sha256(f"{self.kind}\n{self.text}".encode("utf-8", "surrogatepass")).digest()

    def to_vllm(self) -> StructuredOutputsParams:
        """As vLLM takes it."""
        fields: dict[str, Any] = {self.kind: self.text}
        return StructuredOutputsParams(**fields)


def plan_of(constraint: Constraint) -> Plan:
    """``constraint``, which is checked, as the engine takes it."""
    match constraint.kind:
        case "json_object":
            return Plan("json", '{"type":"object"}', constraint.param)
        case "json_schema":
            return Plan("json", lowered_text(constraint.text), constraint.param)
        case "choice":
            return Plan("grammar", _one_of(json.loads(constraint.text)), constraint.param)
        case "regex":
            return Plan("regex", plain_pattern(constraint.text, inside_json=False), constraint.param)
        case "grammar":
            return Plan("grammar", constraint.text, constraint.param)


def _one_of(choices: list[str]) -> str:
    # Literals of the grammar are quoted and escaped as JSON is.
    return "root ::= " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)


def check_constraint(constraint: Constraint) -> None:
    """Refuse, in bounded time, what cannot be held to or would cost too much to try.

    Raises :class:`~engine.types.RequestRejected` naming the constraint's field.
    """
    try:
        match constraint.kind:
            case "json_object":
                return
            case "json_schema":
                check_schema(_parsed(constraint.text))
            case "regex":
                _check_regex(constraint.text)
            case "grammar":
                check_grammar(constraint.text)
            case "choice":
                _check_choices(json.loads(constraint.text))
    except NotEnforceable as error:
        raise error.rejected(constraint.param) from error


def check_parameters(tool: Tool, *, held: bool) -> None:
    """The same for the schema of a tool's arguments; unless ``held``, it may say more than a grammar can."""
    if tool.parameters is None:
        return
    try:
        check_schema(dict(tool.parameters))
    except NotEnforceable as error:
        if error.code == UNSUPPORTED and not held:
            return
        raise error.rejected(tool.param) from error


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise NotEnforceable("schema_too_complex", "it is nested too deep.") from error


def _check_regex(pattern: str) -> None:
    check_pattern(pattern, inside_json=False, invalid=VALUE)
    if not plain_pattern(pattern, inside_json=False):
        raise NotEnforceable(VALUE, "expected a regular expression of more than the empty text.")


def _check_choices(choices: list[str]) -> None:
    for choice in choices:
        if any(0xD800 <= ord(character) <= 0xDFFF or character == "\x00" for character in choice):
            raise NotEnforceable(UNICODE, "a choice holds NUL or half of a surrogate pair.")
