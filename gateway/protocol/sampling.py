"""The fields that every generating endpoint shares, and what they mean to the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator

from engine.types import Constraint, Parsing, Sampling
from gateway.protocol import refused
from gateway.protocol.validation import (
    above,
    array_too_long,
    bad_value,
    string_too_long,
    too_many_keys,
    wrong_type,
)

INT64_MAX: Final = 2**63 - 1
MAX_STOP: Final = 4
MAX_STOP_BYTES: Final = 1024
MAX_LOGIT_BIAS: Final = 300
MAX_MODEL_NAME: Final = 256
_TOKEN_DIGITS: Final = 10


@dataclass(frozen=True, slots=True)
class RequestBounds:
    """What one request may ask of this server.

    ``max_tokens`` (tokens per choice) clamps; the others refuse. ``max_choices`` bounds prompts times ``n``.
    """

    max_n: int = 128
    max_tokens: int = 8192
    max_messages: int = 2048
    max_prompts: int = 64
    max_choices: int = 128
    max_images: int = 16
    max_inputs: int = 256


def nullable_options(schema: dict[str, Any]) -> None:
    """Document that null is allowed wherever a field may be absent: :func:`without_nulls` makes it so."""
    optional = schema.get("properties", {}).keys() - set(schema.get("required", ()))
    for name in optional:
        schema["properties"][name] = _or_null(schema["properties"][name])


def _or_null(field: dict[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {key: field[key] for key in ("title", "description", "default") if key in field}
    core = {key: value for key, value in field.items() if key not in about}
    branches = core["anyOf"] if core.keys() == {"anyOf"} else [core]
    null = {"type": "null"}
    return {"anyOf": [*(each for each in branches if each != null), null], **about}


def without_nulls(fields: refused.Fields) -> refused.Fields:
    """``fields`` with null as what it means: absent."""
    if None not in fields.values():
        return fields
    return {name: value for name, value in fields.items() if value is not None}


def _model_name(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise bad_value("Expected the id of a model, as listed by /v1/models.").within()
    return value


def _stop(value: object) -> tuple[str, ...]:
    strings: list[Any] = value if isinstance(value, list) else [value]
    if len(strings) > MAX_STOP:
        raise array_too_long(MAX_STOP, len(strings)).within()
    if not all(isinstance(each, str) and each for each in strings):
        raise bad_value("Expected a non-empty string, or an array of such strings.").within()
    if any(len(each.encode()) > MAX_STOP_BYTES for each in strings):
        raise bad_value(f"Expected strings of at most {MAX_STOP_BYTES} bytes.").within()
    return tuple(strings)


def _logit_bias(value: object) -> Mapping[int, float]:
    if not isinstance(value, dict):
        raise wrong_type("an object", value).within()
    if len(value) > MAX_LOGIT_BIAS:
        raise too_many_keys(MAX_LOGIT_BIAS, len(value)).within()
    return {_token_id(key): _bias(bias) for key, bias in value.items()}


def _token_id(key: str) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) <= _TOKEN_DIGITS) or str(int(key)) != key:
        raise bad_value("Expected token ids, written as decimal strings, as keys.").within()
    return int(key)


def _bias(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -100 <= value <= 100:
        raise bad_value("Expected numbers between -100 and 100 as values.").within()
    return float(value)


def _top_p(value: float) -> float:
    if not 0 < value <= 1:
        raise bad_value("Expected a number above 0 and at most 1.").within()
    return value


def _metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise wrong_type("an object", value).within()
    if len(value) > 16:
        raise too_many_keys(16, len(value)).within()
    for key, text in value.items():
        _check_label(key, text)
    return value


def _check_label(key: str, text: object) -> None:
    if len(key) > 64:
        raise string_too_long(64, len(key)).within()
    if not isinstance(text, str):
        raise wrong_type("a string", text).within(f".{key}")
    if len(text) > 512:
        raise string_too_long(512, len(text)).within(f".{key}")


ModelName = Annotated[
    str, Field(max_length=MAX_MODEL_NAME, json_schema_extra={"minLength": 1}), AfterValidator(_model_name)
]
_StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_BYTES)]
Stop = Annotated[
    tuple[str, ...],
    PlainValidator(
        _stop, json_schema_input_type=_StopString | Annotated[list[_StopString], Field(max_length=MAX_STOP)]
    ),
]
_TokenId = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,9})$")]
_Bias = Annotated[float, Field(ge=-100, le=100)]
_BiasTable = Annotated[
    dict[_TokenId, _Bias], Field(max_length=MAX_LOGIT_BIAS, json_schema_extra={"additionalProperties": False})
]
LogitBias = Annotated[Mapping[int, float], PlainValidator(_logit_bias, json_schema_input_type=_BiasTable)]
_LabelName = Annotated[str, Field(max_length=64)]
_Label = Annotated[str, Field(max_length=512)]
Metadata = Annotated[
    dict[str, str],
    PlainValidator(_metadata, json_schema_input_type=Annotated[dict[_LabelName, _Label], Field(max_length=16)]),
]
TopP = Annotated[float, AfterValidator(_top_p), Field(json_schema_extra={"exclusiveMinimum": 0, "maximum": 1})]


class StreamOptions(BaseModel):
    """Options of a stream; only together with ``stream: true``."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra=nullable_options)

    include_usage: bool = Field(
        False, description="Send one more chunk before [DONE] whose `usage` counts the whole request."
    )


class GenerationFields(BaseModel):
    """A request to generate text. Optional fields may be null, which means the same as leaving them out."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra=nullable_options)

    default_max_tokens: ClassVar[int | None] = None

    model: ModelName = Field(description="A model id as listed by /v1/models.")
    max_tokens: int | None = Field(
        None, ge=1, le=INT64_MAX, description="Most tokens to generate per choice; clamped to the server's bound."
    )
    temperature: float = Field(1.0, ge=0.0, le=2.0, description="0 is greedy; higher is more random.")
    top_p: TopP = Field(1.0, description="Sample from the smallest set of tokens with this probability mass.")
    top_k: int = Field(0, ge=-1, le=INT64_MAX, description="Sample from this many likeliest tokens; 0 or -1: from all.")
    min_p: float = Field(
        0.0, ge=0.0, le=1.0, description="Drop tokens below this fraction of the likeliest token's probability."
    )
    presence_penalty: float = Field(0.0, ge=-2.0, le=2.0, description="Above 0 favours tokens not yet used.")
    frequency_penalty: float = Field(0.0, ge=-2.0, le=2.0, description="Above 0 disfavours tokens by how often used.")
    repetition_penalty: float = Field(
        1.0, gt=0.0, le=2.0, description="Above 1 disfavours tokens of the prompt and the output so far."
    )
    n: int = Field(1, ge=1, le=128, description="How many choices to generate.")
    seed: int | None = Field(
        None, ge=-(2**63), le=INT64_MAX, description="Equal requests with the same seed give the same output."
    )
    stop: Stop = Field((), description="Up to four strings that end the output; they are not part of it.")
    logit_bias: LogitBias | None = Field(None, description="Added to the logits of the tokens with these ids.")
    ignore_eos: bool = Field(False, description="Go on after the end-of-text token, up to max_tokens.")
    stream: bool = Field(False, description="Answer with server-sent events, chunk by chunk.")
    stream_options: StreamOptions | None = Field(None, description="Only together with `stream: true`.")
    user: str | None = Field(None, max_length=512, description="A label of your end user, kept for logs only.")

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def requested_max_tokens(self) -> int | None:
        """Tokens per choice that the caller asked for; None leaves it to the server."""
        return self.max_tokens

    def sampled_logprobs(self) -> int | None:
        """Alternatives per token in the answer, or None for no log probabilities."""
        return None

    def constraint(self) -> Constraint | None:
        """What the output must be, if the caller asks for more than text."""
        return None

    def parsing(self) -> Parsing | None:
        """What the output is taken apart into besides content."""
        return None

    def labels(self) -> Mapping[str, str]:
        """What the caller wants to find in the access log again."""
        return {} if self.user is None else {"user": self.user}

    def to_sampling(self, bounds: RequestBounds) -> Sampling:
        """What the engine needs. ``max_tokens`` is clamped to the server's bound, not yet to the context."""
        wanted = self.requested_max_tokens or self.default_max_tokens or bounds.max_tokens
        return Sampling(
            max_tokens=min(wanted, bounds.max_tokens),
            n=self.n,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(self.top_k, 0),
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            stop=self.stop,
            logit_bias=self.logit_bias,
            logprobs=self.sampled_logprobs(),
            ignore_eos=self.ignore_eos,
        )


def check_generation(request: GenerationFields, bounds: RequestBounds) -> None:
    """What no single field can know. Raises :class:`~gateway.errors.ApiError` 400."""
    if request.n > bounds.max_n:
        raise above(bounds.max_n, request.n).at("n")
    if request.stream_options is not None and not request.stream:
        raise bad_value("Only allowed when 'stream' is true.").at("stream_options")


def screen_body(body: refused.Fields, accepted: frozenset[str]) -> refused.Fields:
    """``body`` without nulls and neutral fields; refuses, by name, the fields this server does not honour."""
    fields = without_nulls(refused.screen(body, accepted, refused.BODY))
    options = fields.get("stream_options")
    if isinstance(options, dict):
        known = frozenset(StreamOptions.model_fields)
        screened = refused.screen(options, known, refused.STREAM_OPTIONS, "stream_options")
        fields = {**fields, "stream_options": without_nulls(screened)}
    return fields
