"""POST /v1/guard, /v1/guard/batch, /v1/guard/scan and /v1/moderations: bodies, and what is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, FailFast, Field, PlainValidator, ValidationError

from gateway.guardian.risks import RISKS, needs
from gateway.guardian.verdicts import Content, GraniteFormat
from gateway.protocol import refused, strictjson
from gateway.protocol.sampling import ModelName, RequestBounds, nullable_options, without_nulls
from gateway.protocol.validation import (
    array_too_long,
    bad_value,
    empty_array,
    empty_string,
    first_problem,
    missing,
    string_too_long,
    unsupported,
    wrong_type,
)

MAX_BATCH: Final = 256
MAX_RISKS: Final = 64
#: Characters of one text.
MAX_TEXT: Final = 200_000

M = TypeVar("M", bound=BaseModel)


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra=nullable_options)


class GuardInput(_Body):
    """What is judged: the assistant's answer if there is one, else the user's text."""

    user: str = Field(min_length=1, max_length=MAX_TEXT, description="What the user said.")
    assistant: str | None = Field(None, max_length=MAX_TEXT, description="What the assistant answered.")
    context: str | None = Field(
        None, max_length=MAX_TEXT, description="What the answer should come from; needs `assistant`."
    )


class _Question(_Body):
    model: ModelName | None = Field(None, description="The evaluator to ask, by its name; default: all of them.")
    format: GraniteFormat = Field(
        "3.2", description="How a Granite Guardian is asked; other evaluators are asked in one way only."
    )
    think: bool = Field(False, description="Let the guard think first, and return its `reasoning`; only with 3.3.")


_Risks = Annotated[list[str], FailFast(), Field(max_length=MAX_RISKS)]
_RISKS_ARE: Final = "The risks to look for; default: all that are judged here and fit the input."


class GuardRequest(_Question):
    """One input to judge."""

    input: GuardInput = Field(description="What to judge.")
    risks: _Risks = Field(default_factory=list, description=_RISKS_ARE)


class GuardBatchRequest(_Question):
    """Up to 256 inputs to judge."""

    inputs: Annotated[list[GuardInput], FailFast(), Field(min_length=1, max_length=MAX_BATCH)] = Field(
        description="What to judge."
    )
    risks: _Risks = Field(default_factory=list, description=_RISKS_ARE)


class GuardScanRequest(_Question):
    """One input to look through for every risk."""

    input: GuardInput = Field(description="What to judge.")


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RiskVerdict(_Answer):
    """What the guard says of one risk."""

    risk: str = Field(description="The risk's name.")
    unsafe: bool = Field(description="Whether it is there.")
    confidence: float = Field(ge=0, le=1, description="How sure the guard is of that.")
    reasoning: str | None = Field(description="What it thought, if it was asked to think.")


class GuardAnswer(_Answer):
    """The verdicts on one input."""

    model: str = Field(description="Who judged.")
    flagged: bool = Field(description="Whether any verdict is unsafe.")
    verdicts: list[RiskVerdict] = Field(description="One per risk.")
    latency_ms: float = Field(ge=0, description="How long it took, in milliseconds.")


class GuardScanAnswer(GuardAnswer):
    """The verdicts on one input, for every risk."""

    highest_risk: str | None = Field(description="The likeliest of the unsafe risks; null if there is none.")


class GuardResult(_Answer):
    """The verdicts on one input of a batch."""

    index: int = Field(ge=0, description="Its place among the inputs.")
    flagged: bool = Field(description="Whether any verdict is unsafe.")
    verdicts: list[RiskVerdict] = Field(description="One per risk.")


class GuardBatchAnswer(_Answer):
    """The verdicts on every input."""

    model: str = Field(description="Who judged.")
    results: list[GuardResult] = Field(description="In the order of the inputs.")
    latency_ms: float = Field(ge=0, description="How long it took, in milliseconds.")


def read_moderated(value: object) -> tuple[str, ...]:
    """The texts in one ``input`` field of a moderation."""
    if isinstance(value, str):
        return (_filled(value),)
    if not isinstance(value, list):
        raise wrong_type("a string or an array", value).within()
    if not value:
        raise empty_array().within()
    if len(value) > MAX_BATCH:
        raise array_too_long(MAX_BATCH, len(value)).within()
    return tuple(_moderated(each, f"[{index}]") for index, each in enumerate(value))


def _moderated(value: object, at: str) -> str:
    if isinstance(value, str):
        return _filled(value, at)
    if not isinstance(value, dict):
        raise wrong_type("a string or an object", value).within(at)
    part = cast(Mapping[str, Any], value)
    if part.get("type") != "text":
        raise unsupported("This guard reads text only.").within(f"{at}.type")
    text = part.get("text")
    if text is None:
        raise missing().within(f"{at}.text")
    if not isinstance(text, str):
        raise wrong_type("a string", text).within(f"{at}.text")
    return _filled(text, f"{at}.text")


def _filled(text: str, at: str = "") -> str:
    if not text:
        raise empty_string().within(at)
    if len(text) > MAX_TEXT:
        raise string_too_long(MAX_TEXT, len(text)).within(at)
    return text


class ModerationPart(_Body):
    """A piece of text."""

    type: Literal["text"] = Field(description="The kind of the part.")
    text: str = Field(min_length=1, description="The text itself.")


_Input = (
    Annotated[str, Field(min_length=1)]
    | Annotated[list[Annotated[str, Field(min_length=1)] | ModerationPart], Field(min_length=1, max_length=MAX_BATCH)]
)


class ModerationRequest(_Body):
    """Texts to judge, as OpenAI's moderations endpoint takes them."""

    input: Annotated[tuple[str, ...], PlainValidator(read_moderated, json_schema_input_type=_Input)] = Field(
        description="A text, or up to 256 texts or text parts; each has a result of its own."
    )
    model: ModelName | None = Field(
        None, description="The evaluator to ask, by its name; OpenAI's own names and none at all mean all of them."
    )


class ModerationResult(_Answer):
    """What the guard says of one text, by OpenAI's categories."""

    flagged: bool = Field(description="Whether any risk was flagged, also one that is none of OpenAI's categories.")
    categories: dict[str, bool] = Field(description="Whether the category was flagged.")
    category_scores: dict[str, float] = Field(description="How likely it is.")
    category_applied_input_types: dict[str, list[Literal["text"]]] = Field(description="What was looked at.")
    categories_not_checked: list[str] = Field(
        description="Categories that no evaluator here judges: their false says nothing."
    )


class ModerationAnswer(_Answer):
    """What the guard says of every text."""

    id: str = Field(description="Unique; begins with `modr-`.")
    model: str = Field(description="Who judged.")
    results: list[ModerationResult] = Field(description="In the order of the inputs.")


def content_of(given: GuardInput, question: GuardRequest | GuardBatchRequest | GuardScanRequest) -> Content:
    """As evaluators take it."""
    return Content(given.user, given.assistant, given.context, question.format, question.think)


def parse_guard(data: bytes, bounds: RequestBounds) -> GuardRequest:  # noqa: ARG001 - one shape for all
    """The request in ``data``. Pure: may run in a worker thread. Raises :class:`~gateway.errors.ApiError` 400."""
    request = _checked(GuardRequest, data)
    _check_question(request)
    _check_input(request.input, request.risks, "input")
    return request


def parse_guard_batch(data: bytes, bounds: RequestBounds) -> GuardBatchRequest:  # noqa: ARG001
    """As :func:`parse_guard`."""
    request = _checked(GuardBatchRequest, data)
    _check_question(request)
    for index, each in enumerate(request.inputs):
        _check_input(each, request.risks, f"inputs[{index}]")
    return request


def parse_guard_scan(data: bytes, bounds: RequestBounds) -> GuardScanRequest:  # noqa: ARG001
    """As :func:`parse_guard`."""
    request = _checked(GuardScanRequest, data)
    _check_question(request)
    _check_input(request.input, (), "input")
    return request


def parse_moderation(data: bytes, bounds: RequestBounds) -> ModerationRequest:  # noqa: ARG001
    """As :func:`parse_guard`."""
    return _checked(ModerationRequest, data)


def _checked(model: type[M], data: bytes) -> M:
    body = without_nulls(refused.screen(strictjson.loads(data), frozenset(model.model_fields), {}))
    for name in ("input", "inputs"):
        body = {**body, name: _without_nulls(body[name])} if name in body else body
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise first_problem(error) from None


def _without_nulls(value: object) -> object:
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return without_nulls(cast(refused.Fields, value)) if isinstance(value, dict) else value


def _check_question(question: _Question) -> None:
    if question.think and question.format != "3.3":
        raise bad_value("Only format '3.3' can think.").at("think")


def _check_input(given: GuardInput, risks: Sequence[str], at: str) -> None:
    if given.context is not None and given.assistant is None:
        raise bad_value("It needs 'assistant'.").at(f"{at}.context")
    for index, risk in enumerate(risks):
        need = needs(risk) - {name for name in ("assistant", "context") if getattr(given, name) is not None}
        if need:
            raise bad_value(f"'{risk}' needs '{at}.{min(need)}'.").at(f"risks[{index}]")


def known_risk(risk: str) -> bool:
    """Whether it is one of the standard risks."""
    return risk in RISKS
