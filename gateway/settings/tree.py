"""One tree of settings: ``sluice.yaml`` < ``SLUICE_*`` environment (nested with ``__``) < command-line flags."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, get_args

import yaml
from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableVariable

from gateway.settings.access import AccessSettings, JwtSettings
from gateway.settings.accounts import CacheSettings, LedgerSettings, StoreSettings, UsageSettings
from gateway.settings.adapters import AdapterSettings
from gateway.settings.agent import AgentSettings
from gateway.settings.console import ConsoleSettings
from gateway.settings.disaggregation import DisaggregationSettings
from gateway.settings.guard import GuardSettings
from gateway.settings.http import HttpSettings
from gateway.settings.limits import AdmissionSettings, LimitSettings
from gateway.settings.logs import LogSettings
from gateway.settings.media import MediaSettings
from gateway.settings.models import ModelSettings, PoolSettings, check_names, read_arguments
from gateway.settings.reload import ReloadSettings
from gateway.settings.repository import RepositorySettings
from gateway.settings.responses import ResponseSettings
from gateway.settings.section import SettingsError
from gateway.settings.speech import SpeechSettings
from gateway.settings.tracing import TracingSettings

PREFIX: Final = "SLUICE_"
MIN_SECRET_LENGTH: Final = 32
MAX_FILE_BYTES: Final = 1024 * 1024
MAX_VALUES: Final = 100_000
#: RFC 6750, section 2.1: b64token.
_SENDABLE: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
#: Variables of ours that are not settings: they find the settings, or belong to set-up and engine processes.
OTHER_VARIABLES: Final = frozenset(
    {"SLUICE_CONFIG", "SLUICE_EXTRA", "SLUICE_GATEWAY_PID", "SLUICE_ENGINE_LOG", "SLUICE_CPU_LORA", "SLUICE_URL"}
)


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
    model: str | None = Field(
        None,
        description="A directory, a hub id, `sample:NAME` or `repository:NAME`; default: the embedded chat model.",
    )
    served_model_name: str | None = Field(None, description="Id of the model on the wire; default: from `model`.")
    api_key: SecretStr | None = Field(None, description="The static API key (environment only).")
    api_key_file: Path | None = Field(None, description="A file that holds the static API key.")
    secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="Deployment secret (environment only) behind key hashes and cache salts, the same for all "
        "replicas; default: made on first run in the state directory.",
    )
    secret_file: Path | None = Field(None, description="A file that holds the deployment secret.")
    redis_url: SecretStr | None = Field(
        None,
        description="redis://, rediss://, redis+cluster:// or redis+sentinel://h1,h2/service (environment only); "
        "limits are then shared by replicas.",
    )
    redis_url_file: Path | None = Field(None, description="A file that holds the Redis URL.")
    allow_no_auth: bool = Field(False, description="Serve everyone without a key. Say it aloud or it is refused.")
    dev: bool = Field(False, description="Development: makes a key on first run, text logs, /docs, /console.")
    state_dir: Path = Field(Path(".sluice"), description="Where ledger, database, secret and development key live.")
    cache_dir: Path | None = Field(None, description="Where converted sample models are kept.")
    allowed_hosts: Annotated[list[str] | None, NoDecode] = Field(
        None, description="Accepted Host headers; default: loopback names when listening on loopback, else any."
    )
    workers: int = Field(1, ge=1, le=64, description="Front-end processes that share one engine (docs/scale-out.md).")
    drain_timeout: float = Field(30.0, ge=0, description="Seconds that streams get to finish after SIGTERM.")
    request_timeout: float = Field(600.0, gt=0, description="Deadline in seconds of one request, from its arrival.")
    keep_alive_interval: float = Field(15.0, gt=0, description="Silence in seconds before a stream sends a comment.")
    metrics_need_key: bool = Field(False, description="Ask for a key on /metrics too.")
    http: HttpSettings = HttpSettings()
    limits: LimitSettings = LimitSettings()
    admission: AdmissionSettings = AdmissionSettings()
    media: MediaSettings = MediaSettings()
    access: AccessSettings = AccessSettings()
    jwt: list[JwtSettings] = Field([], description="Accepted issuers of bearer JWTs.")
    store: StoreSettings = StoreSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    reload: ReloadSettings = ReloadSettings()
    ledger: LedgerSettings = LedgerSettings()
    usage: UsageSettings = UsageSettings()
    cache: CacheSettings = CacheSettings()
    speech: SpeechSettings = SpeechSettings()
    guard: GuardSettings = GuardSettings()
    responses: ResponseSettings = ResponseSettings()
    agent: AgentSettings = AgentSettings()
    adapters: AdapterSettings = AdapterSettings()
    console: ConsoleSettings = ConsoleSettings()
    disaggregation: DisaggregationSettings = DisaggregationSettings()
    repository: RepositorySettings = RepositorySettings()
    engine: dict[str, Any] = Field({}, description="vLLM's engine arguments by their own names.")
    models: list[ModelSettings] = Field([], description="More models, each with its own engine (docs/models.md).")
    pool: PoolSettings = PoolSettings()
    tool_parser: str = Field(
        "auto",
        min_length=1,
        description="Who reads tool calls: auto (by chat template), generic (plain JSON), or one of vLLM's parsers.",
    )
    schema_seconds: float = Field(
        3.0, gt=0, le=60, description="CPU seconds that making and trying out the grammar of one schema may take."
    )
    # An idle engine is asked for a sign of life after two seconds: before that its silence means nothing.
    hang_timeout: float = Field(
        8.0, ge=3, description="Seconds without progress after which the engine is unready: 3 or more."
    )
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
        if not value.startswith("["):
            return [name.strip() for name in value.split(",")]
        try:
            return yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError('expected names between commas, or a list such as ["a", "b"]') from None

    @field_validator("engine", mode="before")
    @classmethod
    def _read_numbers(cls, value: Any) -> Any:
        return read_arguments(value)

    @field_validator("models")
    @classmethod
    def _names_once(cls, value: list[ModelSettings]) -> list[ModelSettings]:
        return check_names(value)

    def serves_console(self) -> bool:
        """Whether there is a /console: where it was asked for, or in development."""
        return self.dev if self.console.enabled is None else self.console.enabled

    def static_key(self) -> str | None:
        """The configured key, if any. Raises :class:`SettingsError` for a file, or a key, that cannot be used."""
        key = _secret("api_key_file", self.api_key, self.api_key_file)
        if key is not None and not _SENDABLE.fullmatch(key):
            raise SettingsError(
                "api_key: nobody can send it: a bearer token has letters, digits and - . _ ~ + / only, and = at its end"
            )
        return key

    def deployment_secret(self) -> str | None:
        """The configured deployment secret, if any. Raises :class:`SettingsError`."""
        secret = _secret("secret_file", self.secret, self.secret_file)
        if secret is not None and len(secret) < MIN_SECRET_LENGTH:
            raise SettingsError(f"secret_file: fewer than {MIN_SECRET_LENGTH} characters")
        return secret

    def redis(self) -> str | None:
        """The Redis URL, if any. Raises :class:`SettingsError`."""
        return _secret("redis_url_file", self.redis_url, self.redis_url_file)

    def store_url(self) -> str:
        """The database URL. Raises :class:`SettingsError`."""
        configured = _secret("store.url_file", self.store.url, self.store.url_file)
        return configured or f"sqlite:///{(self.state_dir / 'sluice.db').resolve()}"

    def repository_directory(self) -> Path:
        """Where uploaded models are kept."""
        return (self.repository.directory or self.state_dir / "repository").expanduser().resolve()

    def printable(self) -> str:
        """The whole tree as YAML, secrets masked."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def _secret(name: str, given: SecretStr | None, file: Path | None) -> str | None:
    if given is not None:
        return given.get_secret_value()
    if file is None:
        return None
    try:
        text = file.read_text("utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{name}: {error.strerror}: {file}") from error
    if not text:
        raise SettingsError(f"{name}: {file} is empty")
    return text


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
    except UnreadableVariable as error:
        raise SettingsError(_unreadable(error)) from None


def _unreadable(error: UnreadableVariable) -> str:
    """The variable that should be JSON and is not; pydantic-settings tells only the setting at its beginning."""
    named = re.search(r'field "(\w+)"', str(error))
    above = PREFIX + named[1].upper() if named else PREFIX
    found = [name for name, value in os.environ.items() if name.upper().startswith(above) and not _is_json(value)]
    return f'{" or ".join(found) or above}: expected JSON: a list such as ["a"], or an object such as {{"a": 1}}'


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _explain(problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    what = "unknown setting" if problem["type"] == "extra_forbidden" else problem["msg"].removeprefix("Value error, ")
    return f"{path}: {what}"


def _read(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        if config.stat().st_size > MAX_FILE_BYTES:
            raise SettingsError(f"{config}: larger than {MAX_FILE_BYTES} bytes")
        text = config.read_text("utf-8")
    except OSError as error:
        raise SettingsError(f"{config}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{config}: not UTF-8: {error.reason}") from error
    try:
        values = _OneOfEach.read(text, config.name)
    except yaml.YAMLError as error:
        raise SettingsError(f"{config}: not YAML: {error}") from error
    except RecursionError as error:
        raise SettingsError(f"{config}: nested too deeply") from error
    if _spelled_out(values, {}) > MAX_VALUES:
        raise SettingsError(f"{config}: more than {MAX_VALUES} values when its aliases are spelled out")
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{config}: expected a mapping of settings")
    for name in values:
        if not isinstance(name, str):
            raise SettingsError(f"{config}: {name!r}: expected the name of a setting")
    _refuse_secrets(values)
    return values


def _refuse_secrets(values: Mapping[str, Any]) -> None:
    for path in _secrets(Settings):
        found: Any = values
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        if found is not None:
            variable = PREFIX + "__".join(path).upper()
            raise SettingsError(
                f"{'.'.join(path)}: secrets do not belong in a settings file; use {variable} or {'.'.join(path)}_file"
            )


def _secrets(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where settings are that nobody may read."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _secrets(kind, (*above, name))
        elif SecretStr in get_args(kind):
            yield (*above, name)


class _OneOfEach(yaml.SafeLoader):
    """YAML's own loader takes the last of two settings of one name and forgets the other."""

    @classmethod
    def read(cls, text: str, name: str) -> Any:
        """What ``text`` says; ``name`` is what errors call it. Raises :class:`yaml.YAMLError`, RecursionError."""
        loader = cls(text)
        loader.name = name
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Raises :class:`yaml.YAMLError` that says where the second one stands."""
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands there twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _spelled_out(value: Any, counted: dict[int, float]) -> float:
    """How many values there are with every alias written out: few lines can stand for billions, or for no end."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in counted:
        counted[id(value)] = math.inf  # what a value inside of itself would find
        inside = value.values() if isinstance(value, dict) else value
        counted[id(value)] = 1 + sum(_spelled_out(each, counted) for each in inside)
    return counted[id(value)]


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    for name in environ:
        if name.upper().startswith(PREFIX) and name.upper().split("__")[0] not in known:
            raise SettingsError(f"{name}: unknown setting in the environment")
