"""The adapter routes' bodies: what may be said of an adapter, and what is told of it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from gateway.errors import invalid
from gateway.protocol import strictjson
from gateway.protocol.keys import adapter_name
from gateway.protocol.validation import bad_value, first_problem

MAX_BODY_BYTES: Final = 64 * 1024

Name = Annotated[str, AfterValidator(adapter_name)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _plain(value: str) -> str:
    if not value.isprintable():
        raise bad_value("Expected printable text.").within()
    return value


Text = Annotated[str, Field(min_length=1, max_length=2048), AfterValidator(_plain)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class AdapterCreate(_Body):
    """An adapter to serve; of a name that is known a new version. Exactly one of ``path`` and ``source``."""

    name: Name = Field(description="What requests call it, alone or as base:name.")
    path: Text | None = Field(None, description="A directory on the server, inside one that is allowed.")
    source: Text | None = Field(None, description="hub:organisation/name, or the https URL of a tar archive.")
    model: Text | None = Field(None, description="Id of its model; default: the first.")
    sha256: Sha256 | None = Field(
        None, description="What it must be: of the archive behind a URL (required there), else of the content."
    )
    revision: Text | None = Field(None, description="Commit or branch on the hub.")
    pinned: bool = Field(False, description="It stays in the engine.")
    shared: bool = Field(False, description="For all tenants, not for the caller's alone; needs the scope admin.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) is (self.source is None):
            raise bad_value("Give either this or 'source'.").within("path")
        return self


class AdapterChange(_Body):
    """What can be changed of an adapter. What is absent stays."""

    pinned: bool | None = Field(None, description="Whether it stays in the engine.")
    enabled: bool | None = Field(None, description="Whether requests may name it.")


class AdapterRemoval(BaseModel):
    """How to remove an adapter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    drain: bool = Field(False, description="Wait for the requests that run on it, instead of refusing.")


class AdapterObject(BaseModel):
    """An adapter. Times are Unix seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(description="Its full name, to send as `model`.")
    object: Literal["adapter"] = Field(description="Always `adapter`.")
    name: str = Field(description="Its plain name, which may be sent as `model` too.")
    model: str = Field(description="The model it belongs to.")
    status: Literal["cold", "loading", "resident", "broken", "pending", "disabled"] = Field(
        description="Whether it is in the engine; pending: not fetched yet."
    )
    sha256: str | None = Field(description="Of its content: its version.")
    rank: int | None = Field(description="Its largest rank.")
    size: int | None = Field(description="Bytes of weights.")
    pinned: bool = Field(description="Whether it stays in the engine.")
    running: int = Field(description="Requests on it now.")
    tenant: str | None = Field(description="Whose it is; null: everybody's.")
    origin: Literal["listed", "directory", "registered"] = Field(description="Who wants it to be there.")
    fault: str | None = Field(description="What is wrong with it.")
    created_at: int = Field(description="When this version came.")
    created_by: str | None = Field(description="By whom it was registered.")


class AdapterObjects(BaseModel):
    """The adapters that the caller may know of, by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    object: Literal["list"] = Field(description="Always `list`.")
    data: list[AdapterObject] = Field(description="The adapters.")


def parse_adapter_create(data: bytes) -> AdapterCreate:
    """Raises :class:`~gateway.errors.ApiError` 400 that names the field, as both of these."""
    fields = strictjson.loads(data)
    try:
        return AdapterCreate.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        raise first_problem(error) from None


def parse_adapter_change(data: bytes) -> AdapterChange:
    """Raises :class:`~gateway.errors.ApiError` 400."""
    fields: dict[str, Any] = strictjson.loads(data)
    if not fields:
        raise invalid("Say what to change: 'pinned', 'enabled'.", code="missing_required_parameter")
    try:
        return AdapterChange.model_validate(fields)
    except ValidationError as error:
        raise first_problem(error) from None
