"""One tree of settings: ``sluice.yaml`` < ``SLUICE_*`` environment (nested with ``__``) < command-line flags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

PREFIX: Final = "SLUICE_"
#: Variables of ours that are not settings: they find the settings, or belong to set-up and engine processes.
OTHER_VARIABLES: Final = frozenset({"SLUICE_CONFIG", "SLUICE_EXTRA", "SLUICE_GATEWAY_PID", "SLUICE_ENGINE_LOG"})


class SettingsError(Exception):
    """A setting that cannot be used; the message names it."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HttpSettings(_Section):
    """Bounds of the HTTP front. Times in seconds, sizes in bytes."""

    max_header_bytes: int = Field(32_768, ge=1024, description="Request line and headers together.")
    max_header_line: int = Field(16_384, ge=256, description="One header line.")
    max_headers: int = Field(100, ge=1, description="Header lines of one request.")
    max_body_bytes: int = Field(10 * 1024 * 1024, ge=1024, description="A JSON body.")
    header_timeout: float = Field(10.0, gt=0, description="From the first byte to the end of the headers.")
    idle_timeout: float = Field(60.0, gt=0, description="An idle keep-alive connection.")
    body_timeout: float = Field(30.0, gt=0, description="From the headers to the end of the body.")
    min_rate: int = Field(1024, ge=1, description="Bytes per second below which a slow sender or reader is cut.")
    write_stall_timeout: float = Field(30.0, gt=0, description="A client that does not read its answer is cut.")
    max_connections: int = Field(20_000, ge=1, description="Open connections.")


class LimitSettings(_Section):
    """What one request may ask for, and when the server stops taking more."""

    max_tokens: int = Field(8192, ge=1, description="Most completion tokens per choice; larger wishes are clamped.")
    max_n: int = Field(128, ge=1, le=128, description="Most choices per prompt.")
    max_messages: int = Field(2048, ge=1, description="Messages of one conversation.")
    max_prompts: int = Field(64, ge=1, description="Prompts of one completions request.")
    max_in_flight: int = Field(1024, ge=1, description="Generating requests at once; more are answered 503.")
    max_memory_fraction: float = Field(
        0.92,
        gt=0,
        le=1,
        description="Share of the machine's (or container's) memory in use above which new work is shed.",
    )


class LogSettings(_Section):
    """Structured logs on standard output."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level written.")
    format: Literal["json", "text"] = Field("json", description="One JSON object per line, or text for people.")
    file: Path | None = Field(None, description="Write to this file instead of standard output.")


class LedgerSettings(_Section):
    """The record of what was used, by whom."""

    path: Path | None = Field(None, description="Append-only JSON lines; default: ledger.jsonl in the state directory.")
    max_bytes: int = Field(64 * 1024 * 1024, ge=4096, description="Size at which the file is rotated; none is deleted.")


class Settings(BaseSettings):
    """Everything an operator can set. Secrets come from the environment or files, never from sluice.yaml."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        validate_default=True,
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    model: str | None = Field(None, description="A local directory or a hub id; default: the embedded sample model.")
    served_model_name: str | None = Field(None, description="Id of the model on the wire; default: from `model`.")
    api_key: SecretStr | None = Field(None, description="The static API key (environment only).")
    api_key_file: Path | None = Field(None, description="A file that holds the static API key.")
    allow_no_auth: bool = Field(False, description="Serve everyone without a key. Say it aloud or it is refused.")
    dev: bool = Field(False, description="Development: makes a key on first run, text logs, /docs.")
    state_dir: Path = Field(Path(".sluice"), description="Where the ledger and the development key live.")
    cache_dir: Path | None = Field(None, description="Where converted sample models are kept.")
    allowed_hosts: Annotated[list[str] | None, NoDecode] = Field(
        None, description="Accepted Host headers; default: loopback names when listening on loopback, else any."
    )
    drain_timeout: float = Field(30.0, ge=0, description="Seconds that streams get to finish after SIGTERM.")
    request_timeout: float = Field(600.0, gt=0, description="Deadline in seconds of one request, from its arrival.")
    keep_alive_interval: float = Field(15.0, gt=0, description="Silence in seconds before a stream sends a comment.")
    metrics_need_key: bool = Field(False, description="Ask for a key on /metrics too.")
    http: HttpSettings = HttpSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
    ledger: LedgerSettings = LedgerSettings()
    engine: dict[str, Any] = Field({}, description="vLLM's engine arguments by their own names.")
    hang_timeout: float = Field(8.0, gt=0, description="Seconds without progress after which the engine is unready.")
    engine_kill_timeout: float = Field(60.0, gt=0, description="Seconds without progress after which it is restarted.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings' signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags and file arrive merged by :func:`load` as init values of two layers; environment lies between."""
        flags, file = _split_layers(init_settings)
        return (_Layer(settings_cls, flags), env_settings, _Layer(settings_cls, file))

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        """The environment gives one string: a JSON list, or names between commas."""
        if not isinstance(value, str):
            return value
        return yaml.safe_load(value) if value.startswith("[") else [name.strip() for name in value.split(",")]

    @field_validator("engine", mode="before")
    @classmethod
    def _read_numbers(cls, value: Any) -> Any:
        """The environment gives text; vLLM wants numbers and booleans."""
        if not isinstance(value, dict):
            return value
        return {name: yaml.safe_load(each) if isinstance(each, str) else each for name, each in value.items()}

    def static_key(self) -> str | None:
        """The configured key, if any. Raises :class:`SettingsError` for a file that cannot be used."""
        if self.api_key is not None:
            return self.api_key.get_secret_value()
        if self.api_key_file is None:
            return None
        try:
            key = self.api_key_file.read_text("utf-8").strip()
        except OSError as error:
            raise SettingsError(f"api_key_file: {error.strerror}: {self.api_key_file}") from error
        if not key:
            raise SettingsError(f"api_key_file: {self.api_key_file} is empty")
        return key

    def printable(self) -> str:
        """The whole tree as YAML, secrets masked."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


_FLAGS: Final = "__flags__"
_FILE: Final = "__file__"


class _Layer(PydanticBaseSettingsSource):
    def __init__(self, settings_cls: type[BaseSettings], values: Mapping[str, Any]) -> None:
        super().__init__(settings_cls)
        self._values = dict(values)

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return self._values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._values


def _split_layers(source: PydanticBaseSettingsSource) -> tuple[dict[str, Any], dict[str, Any]]:
    values = source()
    if _FLAGS in values or _FILE in values:
        return values.get(_FLAGS, {}), values.get(_FILE, {})
    return values, {}


def load(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Settings from file, environment and flags. Raises :class:`SettingsError` naming what is wrong."""
    _refuse_unknown_variables(os.environ)
    try:
        return Settings(**{_FLAGS: dict(flags or {}), _FILE: _read(config)})  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("\n".join(map(_explain, error.errors()))) from None


def _explain(problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    what = "unknown setting" if problem["type"] == "extra_forbidden" else problem["msg"]
    return f"{path}: {what}"


def _read(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        text = config.read_text("utf-8")
    except OSError as error:
        raise SettingsError(f"{config}: {error.strerror}") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{config}: not YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{config}: expected a mapping of settings")
    if "api_key" in values:
        raise SettingsError("api_key: secrets do not belong in a settings file; use SLUICE_API_KEY or api_key_file")
    return values


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    for name in environ:
        if name.upper().startswith(PREFIX) and name.upper().split("__")[0] not in known:
            raise SettingsError(f"{name}: unknown setting in the environment")
