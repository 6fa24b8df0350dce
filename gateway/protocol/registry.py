"""The registry routes' bodies: what may be said of a public name, and what is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError, field_validator

from gateway.protocol import strictjson
from gateway.protocol.keys import MAX_LABELS
from gateway.protocol.validation import bad_value, first_problem, string_too_long, too_many_keys, wrong_type
from gateway.registry.names import Stage, StickTo

MAX_BODY_BYTES: Final = 64 * 1024
MAX_METADATA_NAME: Final = 64
MAX_METADATA_TEXT: Final = 512
_STICK_TO: Final = (
    "What keeps somebody in an arm: `user` (the end user that a request names, else its key), `key`, or `request` "
    "(each is drawn by itself)."
)

B = TypeVar("B", bound=BaseModel)


def _plain(value: str) -> str:
    if not value.isprintable():
        raise bad_value("Expected printable text.").within()
    return value


def _metadata(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise wrong_type("an object", value).within()
    if len(value) > MAX_LABELS:
        raise too_many_keys(MAX_LABELS, len(value)).within()
    for name, text in value.items():
        at = "." + strictjson.json_path([str(name)])
        if not isinstance(text, str):
            raise wrong_type("a string", text).within(at)
        for part, limit in ((name, MAX_METADATA_NAME), (text, MAX_METADATA_TEXT)):
            if len(part) > limit:
                raise string_too_long(limit, len(part)).within(at)
            if not part.isprintable():
                raise bad_value("Expected printable text.").within(at)
    return value


PublicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Target = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_plain)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Metadata = Annotated[Mapping[str, str], PlainValidator(_metadata, json_schema_input_type=dict[str, str])]
VersionNumber = Annotated[int, Field(ge=1, le=2**31 - 1)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class VersionCreate(_Body):
    """A version of a public name; of a name that is new the first."""

    name: PublicName = Field(description="What requests send as `model`.")
    target: Target = Field(description="What it stands for: the id of a model, `model:adapter`, or an adapter's name.")
    sha256: Sha256 | None = Field(
        None, description="What the adapter's content must be; default: what it is now. Not for a model by itself."
    )
    metadata: Metadata = Field({}, description="Up to 64 texts of your own.")
    activate: bool = Field(False, description="It answers at once.")


class ArmWeight(_Body):
    """A version's part of the traffic."""

    version: VersionNumber = Field(description="Its number.")
    weight: Annotated[float, Field(ge=1e-6, le=1e6)] = Field(description="Relative to the other weights.")


class SplitRequest(_Body):
    """How to divide the traffic of a name."""

    arms: Annotated[list[ArmWeight], Field(min_length=1, max_length=16)] = Field(description="Each version once.")
    stick_to: StickTo = Field("user", description=_STICK_TO)

    @field_validator("arms")
    @classmethod
    def _each_once(cls, value: list[ArmWeight]) -> list[ArmWeight]:
        if len({arm.version for arm in value}) != len(value):
            raise bad_value("A version appears twice.").within()
        return value


class CanaryRequest(_Body):
    """A version that is to replace the active one, step by step."""

    version: VersionNumber = Field(description="Its number.")
    steps: Annotated[list[Annotated[float, Field(gt=0, le=100)]], Field(min_length=1, max_length=20)] = Field(
        [5, 25, 50, 100], description="Its shares of the traffic in percent, rising."
    )
    min_requests: Annotated[int, Field(ge=1, le=10**9)] = Field(100, description="Its requests in a step, at least.")
    min_seconds: Annotated[float, Field(ge=0, le=30 * 86_400)] = Field(
        300, description="How long a step takes, at least."
    )
    min_success_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.99, description="Share of its requests that must succeed, or it is rolled back."
    )
    max_latency_ratio: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        1.5, description="Its median request may take so many times the active version's; null: they are not compared."
    )
    stick_to: StickTo = Field("user", description=_STICK_TO)

    @field_validator("steps")
    @classmethod
    def _rising(cls, value: list[float]) -> list[float]:
        if any(later <= earlier for earlier, later in pairwise(value)):
            raise bad_value("Every step must be larger than the one before.").within()
        return value


class ShadowRequest(_Body):
    """A version that is asked what the others are asked, and whose answers nobody sees."""

    version: VersionNumber = Field(description="Its number.")
    percent: Annotated[float, Field(gt=0, le=100)] = Field(100, description="Of the requests, how many.")


class VersionChoice(_Body):
    """Which version is meant."""

    version: VersionNumber = Field(description="Its number.")


class Nothing(_Body):
    """There is nothing to say."""


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VersionObject(_Told):
    """A version. Times are Unix seconds."""

    id: str = Field(description="`name@version`: what it is called in headers, logs and metrics.")
    version: int = Field(description="Its number.")
    target: str = Field(description="What it stands for.")
    model: str = Field(description="The model that runs.")
    adapter: str | None = Field(description="The adapter on it.")
    sha256: str | None = Field(description="Of the adapter's content; other content is not served in its place.")
    stage: Stage = Field(description="`failed` gets no traffic until it is reset.")
    reason: str | None = Field(description="Why it failed.")
    available: bool = Field(description="Whether what it stands for is there now, unchanged.")
    metadata: dict[str, str] = Field(description="As given.")
    created_at: int = Field(description="When it was made.")
    created_by: str = Field(description="By whom.")


class ArmObject(_Told):
    """A version's part of the traffic."""

    version: int = Field(description="Its number.")
    weight: float = Field(description="Relative to the other weights.")


class SplitObject(_Told):
    """How the traffic of a name is divided."""

    arms: list[ArmObject] = Field(description="The versions that answer.")
    stick_to: StickTo = Field(description=_STICK_TO)


class OutcomeObject(_Told):
    """How a version fares in this step, over all replicas."""

    version: int = Field(description="Its number.")
    succeeded: int = Field(description="Requests that succeeded.")
    failed: int = Field(description="Requests that failed, for a reason that is not the caller's.")
    median_seconds: float | None = Field(description="What half of those that succeeded took at most.")


class CanaryObject(_Told):
    """A canary that runs."""

    version: int = Field(description="The version that is tried.")
    step: int = Field(description="Which of the steps it is at, from 0.")
    percent: float = Field(description="Its share of the traffic now.")
    since: int = Field(description="When this step began, in Unix seconds.")
    steps: list[float] = Field(description="As given.")
    min_requests: int = Field(description="As given.")
    min_seconds: float = Field(description="As given.")
    min_success_rate: float = Field(description="As given.")
    max_latency_ratio: float | None = Field(description="As given.")
    stick_to: StickTo = Field(description=_STICK_TO)
    outcomes: list[OutcomeObject] | None = Field(description="Of this step; null in lists.")


class ShadowObject(_Told):
    """A version that is asked what the others are asked."""

    version: int = Field(description="Its number.")
    percent: float = Field(description="Of the requests, how many.")


class NameObject(_Told):
    """A public name."""

    id: str = Field(description="The name.")
    object: Literal["registry.name"] = Field(description="Always `registry.name`.")
    active: int | None = Field(description="The version that answers; null: none, requests are answered 404.")
    versions: list[VersionObject] = Field(description="Oldest first.")
    split: SplitObject | None = Field(description="How its traffic is divided; null: the active version gets all.")
    canary: CanaryObject | None = Field(description="The version that is to replace the active one, step by step.")
    shadow: ShadowObject | None = Field(description="The version that is asked too, and seen by nobody.")
    history: list[int] = Field(description="The versions that were active before, the last one last.")
    created_at: int = Field(description="When the name was made.")
    created_by: str = Field(description="By whom.")


class NameObjects(_Told):
    """Every public name."""

    object: Literal["list"] = Field(description="Always `list`.")
    data: list[NameObject] = Field(description="By name.")


class RemovedName(_Told):
    """A name or a version that is no more."""

    id: str = Field(description="As in the path.")
    object: Literal["registry.name"] = Field(description="Always `registry.name`.")
    deleted: bool = Field(description="Always true.")


def parse_body(model: type[B], data: bytes) -> B:
    """Raises :class:`~gateway.errors.ApiError` 400 that names the field."""
    fields: dict[str, Any] = strictjson.loads(data)
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise first_problem(error) from None
