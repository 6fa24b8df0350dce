"""The repository's bodies: what is announced, and what is told of uploads and models."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.artifacts.names import MAX_FILES, check_name
from engine.artifacts.refusal import ArtifactRefused
from gateway.protocol import strictjson
from gateway.protocol.validation import Problem, bad_value, first_problem

MAX_BODY_BYTES: Final = 512 * 1024


_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def model_name(value: str) -> str:
    """A name that is one segment of a path, and leads nowhere else."""
    if not _NAME.fullmatch(value) or value.startswith("."):
        raise bad_value("Expected 1 to 64 letters, digits or '_', '-', '.', and no '.' at the beginning.").within()
    return value


def _sha256(value: str) -> str:
    if not _SHA256.fullmatch(value):
        raise bad_value("Expected 64 hexadecimal digits in lower case.").within()
    return value


def _file_name(value: str) -> str:
    try:
        check_name(value)
    except ArtifactRefused as refused:
        code = "invalid_value" if refused.code == "invalid_model" else refused.code
        raise Problem(code, f"Invalid '{{path}}': {refused}").within() from None
    return value


Name = Annotated[str, AfterValidator(model_name), Field(json_schema_extra={"pattern": f"^(?![.]){_NAME.pattern}$"})]
Sha256 = Annotated[str, AfterValidator(_sha256), Field(json_schema_extra={"pattern": f"^{_SHA256.pattern}$"})]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class FileAnnounced(_Body):
    """One file that is to come."""

    path: Annotated[str, Field(min_length=1, max_length=260), AfterValidator(_file_name)] = Field(
        description="Its name, in one directory at most."
    )
    size: int = Field(ge=1, le=2**48, description="Its size in bytes.")
    sha256: Sha256 = Field(description="Of its content, in hex.")


class ModelAnnounced(_Body):
    """A model that is to come: every file with its size and sha256."""

    name: Name = Field(description="What the repository is to call it.")
    files: list[FileAnnounced] = Field(min_length=1, max_length=MAX_FILES, description="Its files.")

    @model_validator(mode="after")
    def _files_apart(self) -> Self:
        paths = {file.path for file in self.files}
        if len(paths) != len(self.files) or any(path.partition("/")[0] in paths for path in paths if "/" in path):
            raise bad_value("Two files have one name, or one is the directory of another.").within("files")
        return self


class PartOf(BaseModel):
    """Where the bytes of a part belong."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(min_length=1, max_length=260, description="Path of an announced file.")
    offset: int = Field(ge=0, le=2**48, description="Bytes of it that are here already.")


class FileReceived(BaseModel):
    """How far a file is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="Its name.")
    size: int = Field(description="Its size in bytes, when it is whole.")
    sha256: str = Field(description="What its content must have.")
    received: int = Field(description="Bytes that are here: where to go on.")


class UploadObject(BaseModel):
    """An upload that is open. Times are Unix seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(description="Its id.")
    object: Literal["repository.upload"] = Field(description="Always `repository.upload`.")
    name: str = Field(description="What the model is to be called.")
    files: list[FileReceived] = Field(description="Its files.")
    created_at: int = Field(description="When it was announced.")
    expires_at: int = Field(description="When it is thrown away if nothing more comes.")


class FileStored(BaseModel):
    """A file of a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="Its name.")
    size: int = Field(description="Its size in bytes.")
    sha256: str = Field(description="Of its content, in hex.")


class StoredModelObject(BaseModel):
    """A model in the repository. Times are Unix seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Its name; the configuration says `repository:NAME` to serve it.")
    object: Literal["repository.model"] = Field(description="Always `repository.model`.")
    format: Literal["safetensors", "gguf"] = Field(description="What its weights are.")
    architecture: str = Field(description="What its headers say it is.")
    size: int = Field(description="Bytes of all files.")
    files: list[FileStored] = Field(description="What was uploaded.")
    derived: list[FileStored] = Field(description="What was made of a GGUF, to be served.")
    unservable: str | None = Field(description="Why it cannot be served; null: it can.")
    configured: bool = Field(description="Whether the configuration of this server names it.")
    tenant: str = Field(description="Whose it is.")
    created_at: int = Field(description="When it was put in place.")
    created_by: str = Field(description="By whom it was announced.")


class StoredModels(BaseModel):
    """The models that the caller may know of, by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    object: Literal["list"] = Field(description="Always `list`.")
    data: list[StoredModelObject] = Field(description="The models.")


class Deleted(BaseModel):
    """What is gone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(description="Its id or name.")
    object: Literal["repository.upload", "repository.model"] = Field(description="What it was.")
    deleted: Literal[True] = Field(description="Always true.")


def parse_announced(data: bytes) -> ModelAnnounced:
    """Raises :class:`~gateway.errors.ApiError` 400 that names the field."""
    try:
        return ModelAnnounced.model_validate(strictjson.loads(data))
    except ValidationError as error:
        raise first_problem(error) from None
