"""The key administration's bodies: what may be said about a key, and what is told of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from gateway.protocol import strictjson
from gateway.protocol.validation import (
    bad_value,
    empty_string,
    first_problem,
    string_too_long,
    too_many_keys,
    wrong_type,
)

MAX_BODY_BYTES: Final = 256 * 1024
MAX_NAME: Final = 256
MAX_LABELS: Final = 64
MAX_ALLOWED_NAMES: Final = 1024
MAX_COUNT: Final = 2**53 - 1
MAX_TTL_SECONDS: Final = 100 * 365 * 86_400
MAX_OVERLAP_SECONDS: Final = 30 * 86_400
#: The end of the year 9999: later than that no calendar of ours goes.
LAST_MOMENT: Final = 253_402_300_799

_TENANT: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_ADAPTER: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_LABEL: Final = 64
_MAX_LABEL_VALUE: Final = 256

ScopeName = Literal["inference", "read_only", "training", "admin"]


def _printable(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise bad_value("Expected printable text that is not blank.").within()
    return value


def _tenant(value: str) -> str:
    if not _TENANT.fullmatch(value):
        raise bad_value("Expected 1 to 128 of the characters A-Z a-z 0-9 _ . -").within()
    return value


def adapter_name(value: str) -> str:
    """The name of an adapter, checked. Raises inside of pydantic only."""
    if not _ADAPTER.fullmatch(value):
        raise bad_value("Expected 1 to 64 of the characters A-Z a-z 0-9 _ -").within()
    return value


def _labels(value: object) -> Mapping[str, str | None]:
    if not isinstance(value, dict):
        raise wrong_type("an object", value).within()
    if len(value) > MAX_LABELS:
        raise too_many_keys(MAX_LABELS, len(value)).within()
    for name, text in value.items():
        at = "." + strictjson.json_path([str(name)])
        _label_part(name, _MAX_LABEL, at)
        if text is not None:
            _label_part(text, _MAX_LABEL_VALUE, at, empty=True)
    return value


def _label_part(text: object, limit: int, at: str, *, empty: bool = False) -> None:
    if not isinstance(text, str):
        raise wrong_type("a string", text).within(at)
    if not text and not empty:
        raise empty_string().within(at)
    if len(text) > limit:
        raise string_too_long(limit, len(text)).within(at)
    if not text.isprintable():
        raise bad_value("Expected printable text.").within(at)


Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_printable)]
Tenant = Annotated[str, AfterValidator(_tenant)]
Scopes = Annotated[list[ScopeName], Field(fail_fast=True, min_length=1, max_length=16)]
Models = Annotated[list[Name], Field(fail_fast=True, min_length=1, max_length=MAX_ALLOWED_NAMES)]
Adapters = Annotated[
    list[Annotated[str, AfterValidator(adapter_name)]], Field(fail_fast=True, max_length=MAX_ALLOWED_NAMES)
]
Labels = Annotated[Mapping[str, str | None], PlainValidator(_labels, json_schema_input_type=dict[str, str | None])]
Weight = Annotated[float, Field(ge=0.01, le=100.0)]
GuardPolicyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Moment = Annotated[int, Field(ge=0, le=LAST_MOMENT)]
Ttl = Annotated[int, Field(ge=1, le=MAX_TTL_SECONDS)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class KeyQuota(_Body):
    """Limits of a key; null or absent: the deployment's default."""

    requests_per_minute: Count | None = Field(None, description="In any 60 seconds.")
    tokens_per_minute: Count | None = Field(None, description="Prompt and completion tokens in any 60 seconds.")
    tokens_per_day: Count | None = Field(None, description="Prompt and completion tokens in any 24 hours.")
    concurrent: Count | None = Field(None, description="Requests at once.")


class _Settable(_Body):
    tenant: Tenant | None = Field(None, description="Who pays, and whose prefix cache it is; default: the caller's.")
    scopes: Scopes | None = Field(None, description="Default: inference and read_only.")
    models: Models | None = Field(None, description="Ids of the models it may use; null: all.")
    adapters: Adapters | None = Field(None, description="Names of the adapters it may use; null: all.")
    quota: KeyQuota | None = Field(None, description="Limits of this key.")
    weight: Weight | None = Field(None, description="Fair share relative to other tenants; default 1.")
    labels: Labels | None = Field(None, description="Up to 64 texts of your own.")
    guard_policy: GuardPolicyName | None = Field(
        None, description="One of the guard's policies for keys; null: the caller's, or the deployment's."
    )
    expires_at: Moment | None = Field(None, description="Unix seconds; null: never.")
    ttl_seconds: Ttl | None = Field(None, description="Instead of expires_at: seconds from now.")


class KeyCreate(_Settable):
    """A key to make. Null is the same as leaving a field out."""

    name: Name = Field(description="What people call it.")


class KeyChange(_Settable):
    """A change of a key, as a merge patch (RFC 7396): what is absent stays, null removes."""

    name: Name | None = Field(None, description="What people call it.")


class KeyRotation(_Body):
    """A new secret for a key."""

    overlap_seconds: Annotated[int, Field(ge=0, le=MAX_OVERLAP_SECONDS)] = Field(
        0, description="How long the secret of before goes on working."
    )


class KeyListQuery(BaseModel):
    """Which keys to list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: Tenant | None = Field(None, description="Only this tenant's.")
    include_revoked: bool = Field(False, description="Revoked ones too.")
    after: str | None = Field(None, max_length=64, description="The last id of the page before.")
    limit: int = Field(100, ge=1, le=1000, description="Most keys in the answer.")


class AuditQuery(BaseModel):
    """Which audit entries to list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    actor: str | None = Field(None, max_length=128, description="Only acts of this principal.")
    act: str | None = Field(None, max_length=64, description="Only this act, such as key.create.")
    target: str | None = Field(None, max_length=128, description="Only acts on this key.")
    allowed: bool | None = Field(None, description="Only acts (true), or only denials (false).")
    since: float | None = Field(None, ge=0, le=LAST_MOMENT, allow_inf_nan=False, description="Unix seconds, inclusive.")
    until: float | None = Field(None, ge=0, le=LAST_MOMENT, allow_inf_nan=False, description="Unix seconds, exclusive.")
    before: int | None = Field(None, ge=0, le=MAX_COUNT, description="The last id of the page before.")
    limit: int = Field(100, ge=1, le=1000, description="Most entries in the answer.")


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KeyObject(_Answer):
    """A key, without its secret. Times are Unix seconds."""

    id: str = Field(description="The public id, part of the key itself.")
    object: Literal["api_key"] = Field(description="Always `api_key`.")
    status: Literal["active", "expired", "revoked"] = Field(description="Whether it works.")
    name: str = Field(description="What people call it.")
    tenant: str = Field(description="Who pays.")
    scopes: list[ScopeName] = Field(description="What it may do.")
    models: list[str] | None = Field(description="Models it may use; null: all.")
    adapters: list[str] | None = Field(description="Adapters it may use; null: all.")
    quota: KeyQuota = Field(description="Its limits.")
    weight: float = Field(description="Fair share.")
    guard_policy: str | None = Field(description="Its guard policy; null: the deployment's.")
    labels: dict[str, str] = Field(description="Texts of yours.")
    created_at: int = Field(description="When it was made.")
    created_by: str = Field(description="By whom.")
    rotated_at: int | None = Field(description="When it got its present secret, if not at first.")
    previous_until: int | None = Field(description="Until when the secret of before works.")
    expires_at: int | None = Field(description="When it ends.")
    revoked_at: int | None = Field(description="When it was ended.")


class KeyWithSecret(KeyObject):
    """A new key, or a new secret of a key."""

    key: str = Field(description="The whole key. It is shown this once and kept nowhere.")


class KeyObjects(_Answer):
    """Part of a list, newest first."""

    object: Literal["list"] = Field(description="Always `list`.")
    data: list[KeyObject] = Field(description="The keys.")
    has_more: bool = Field(description="Whether there are more behind the last one.")


class AuditObject(_Answer):
    """An administrative act, or a denial."""

    id: int = Field(description="Its number.")
    object: Literal["audit_entry"] = Field(description="Always `audit_entry`.")
    ts: float = Field(description="When, in Unix seconds.")
    actor: str = Field(description="Who.")
    act: str = Field(description="What.")
    target: str | None = Field(description="To what.")
    allowed: bool = Field(description="Whether it was done.")
    detail: dict[str, Any] = Field(description="Particulars.")
    client_ip: str | None = Field(description="From where.")
    request_id: str | None = Field(description="X-Request-Id of the answer.")


class AuditObjects(_Answer):
    """Part of a list, newest first."""

    object: Literal["list"] = Field(description="Always `list`.")
    data: list[AuditObject] = Field(description="The entries.")
    has_more: bool = Field(description="Whether there are more behind the last one.")


B = TypeVar("B", bound=_Body)


def parse_key_create(data: bytes) -> KeyCreate:
    """Raises :class:`~gateway.errors.ApiError` 400 that names the field, as all of these."""
    return checked(KeyCreate, strictjson.loads(data))


def parse_key_change(data: bytes) -> KeyChange:
    """Raises :class:`~gateway.errors.ApiError` 400."""
    return checked(KeyChange, strictjson.loads(data))


def parse_key_rotation(data: bytes) -> KeyRotation:
    """Raises :class:`~gateway.errors.ApiError` 400."""
    return checked(KeyRotation, strictjson.loads(data))


def checked(model: type[B], fields: Mapping[str, object]) -> B:
    """``fields`` as ``model``. Raises :class:`~gateway.errors.ApiError` 400 that names the field."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise first_problem(error) from None
