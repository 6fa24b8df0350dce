"""POST /v1/completions (legacy): from the bytes of a body to a checked request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final, TypeAlias, cast

from pydantic import Field, PlainValidator, ValidationError

from engine.types import Constraint
from gateway.protocol import refused, strictjson
from gateway.protocol.sampling import GenerationFields, RequestBounds, check_generation, screen_body
from gateway.protocol.structure import StructuredOutputsField
from gateway.protocol.validation import (
    above,
    array_too_long,
    bad_value,
    below,
    empty_array,
    empty_string,
    first_problem,
    unsupported,
    wrong_type,
)

MAX_TOKEN_ID: Final = 2**31 - 1
_PROMPT: Final = "a string, an array of strings, an array of token ids or an array of such arrays"
_PROMPT_ITEM: Final = "a string, a token id or an array of token ids"

TextOrTokens: TypeAlias = str | list[int]


def read_prompts(value: object) -> tuple[TextOrTokens, ...]:
    """The prompts in one ``prompt`` field. Token ids are checked at the speed of C: a list of them may be long."""
    if isinstance(value, str):
        return (_text(value),)
    if not isinstance(value, list):
        raise wrong_type(_PROMPT, value).within()
    if not value:
        raise empty_array().within()
    if isinstance(value[0], str | list):
        return tuple([_one_of_many(each, type(value[0]), f"[{index}]") for index, each in enumerate(value)])
    return (_tokens(value),)


def _one_of_many(value: object, kind: type, at: str) -> TextOrTokens:
    if isinstance(value, str) and kind is str:
        return _text(value)
    if isinstance(value, list) and kind is list:
        return _tokens(value, at)
    raise wrong_type("a string" if kind is str else "an array of token ids", value).within(at)


def _text(value: str) -> str:
    if not value:
        raise empty_string().within()
    return value


def _tokens(ids: list[object], at: str = "") -> list[int]:
    if not ids:
        raise empty_array().within()
    if set(map(type, ids)) != {int}:
        index = next(index for index, each in enumerate(ids) if type(each) is not int)
        raise wrong_type("an integer" if index or at else _PROMPT_ITEM, ids[index]).within(f"{at}[{index}]")
    return _in_range(cast(list[int], ids), at)


def _in_range(ids: list[int], at: str) -> list[int]:
    if min(ids) < 0:
        index = next(index for index, each in enumerate(ids) if each < 0)
        raise below(0, ids[index]).within(f"{at}[{index}]")
    if max(ids) > MAX_TOKEN_ID:
        index = next(index for index, each in enumerate(ids) if each > MAX_TOKEN_ID)
        raise above(MAX_TOKEN_ID, ids[index]).within(f"{at}[{index}]")
    return ids


_NonEmpty = Annotated[str, Field(min_length=1)]
_Tokens = Annotated[list[Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]], Field(min_length=1)]
_Prompt = (
    _NonEmpty
    | Annotated[list[_NonEmpty], Field(min_length=1)]
    | _Tokens
    | Annotated[list[_Tokens], Field(min_length=1)]
)
Prompts = Annotated[tuple[TextOrTokens, ...], PlainValidator(read_prompts, json_schema_input_type=_Prompt)]


class CompletionRequest(GenerationFields):
    """Text to continue. Optional fields may be null, which means the same as leaving them out."""

    # OpenAI's documented default for this endpoint, and vLLM's.
    default_max_tokens: ClassVar[int | None] = 16

    prompt: Prompts = Field(
        description="Text or token ids, or a list of either: at most 64 prompts unless the server is set otherwise."
    )
    echo: bool = Field(False, description="Return the prompt before the completion.")
    logprobs: int | None = Field(
        None, ge=0, le=5, description="Return log probabilities with this many alternatives per token."
    )
    best_of: int | None = Field(None, ge=1, le=128, description="Only a value equal to `n`.")
    structured_outputs: StructuredOutputsField | None = Field(
        None, description="vLLM's way to hold the output to a schema, a regular expression, choices or a grammar."
    )

    @property
    def prompts(self) -> Sequence[TextOrTokens]:
        """The prompts in order, texts or token ids; the vocabulary is the engine's to check."""
        return self.prompt

    def constraint(self) -> Constraint | None:
        """See :meth:`GenerationFields.constraint`."""
        return self.structured_outputs

    def sampled_logprobs(self) -> int | None:
        """Alternatives per token in the answer, or None for no log probabilities."""
        return self.logprobs


_FIELDS: Final = frozenset(CompletionRequest.model_fields) - {"best_of"}


def parse_completion(data: bytes, bounds: RequestBounds) -> CompletionRequest:
    """The request in ``data``. Pure: may run in a worker thread.

    Raises :class:`~gateway.errors.ApiError` 400 that names the field.
    """
    body = screen_body(_without_equal_best_of(strictjson.loads(data)), _FIELDS)
    _check_prompt_count(body.get("prompt"), bounds.max_prompts)
    try:
        request = CompletionRequest.model_validate(body)
    except ValidationError as error:
        raise first_problem(error) from None
    _check_together(request, bounds)
    return request


def _without_equal_best_of(body: refused.Fields) -> refused.Fields:
    n = 1 if body.get("n") is None else body["n"]
    best_of = body.get("best_of")
    if type(best_of) is int and type(n) is int and best_of == n:
        return {name: value for name, value in body.items() if name != "best_of"}
    return body


def _check_prompt_count(prompt: object, limit: int) -> None:
    if isinstance(prompt, list) and len(prompt) > limit and isinstance(prompt[0], str | list):
        raise array_too_long(limit, len(prompt)).at("prompt")


def _check_together(request: CompletionRequest, bounds: RequestBounds) -> None:
    check_generation(request, bounds)
    if request.n * len(request.prompt) > bounds.max_choices:
        raise bad_value(f"Prompts times 'n' must be at most {bounds.max_choices}.").at("n")
    if request.echo and request.logprobs is not None:
        raise unsupported("It cannot be combined with 'logprobs': prompts have none here.").at("echo")
