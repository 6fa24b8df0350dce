"""One tree of settings: ``sluice.yaml`` < ``SLUICE_*`` environment (nested with ``__``) < command-line flags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.limits.quota import Quota

PREFIX: Final = "SLUICE_"
MIN_SECRET_LENGTH: Final = 32
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


class QuotaSettings(_Section):
    """Limits of one key or model. Without a number there is no limit of that kind."""

    requests_per_minute: int | None = Field(None, ge=0, description="In any 60 seconds.")
    tokens_per_minute: int | None = Field(None, ge=0, description="Prompt and completion tokens in any 60 seconds.")
    tokens_per_day: int | None = Field(None, ge=0, description="Prompt and completion tokens in any 24 hours.")
    concurrent: int | None = Field(None, ge=0, description="Requests at once.")

    def quota(self) -> Quota:
        """As the limiter wants it."""
        return Quota(**self.model_dump())


class AddressLimitSettings(_Section):
    """A token bucket per caller's address (IPv6: per /64)."""

    burst: int | None = Field(None, ge=1, description="Requests at once; without it addresses are not limited.")
    per_second: float = Field(0.0, ge=0, description="Requests that come back per second.")


class AdaptiveSettings(_Section):
    """An adaptive bound on running sequences that holds a latency."""

    enabled: bool = Field(False, description="Adapt the number of running sequences.")
    min: int = Field(4, ge=1, description="Never fewer.")
    max: int | None = Field(None, ge=1, description="Never more; default: max_running.")
    target_latency: float = Field(1.0, gt=0, description="Time to first token, in seconds, to hold.")
    target_queue: int = Field(1, ge=0, description="Waiting requests above which the bound grows while latency allows.")


class PriceSettings(_Section):
    """Prices per million tokens, in a currency of your choice."""

    prompt: Decimal = Field(Decimal(0), ge=0, description="Prompt tokens that were not cached.")
    cached: Decimal | None = Field(None, ge=0, description="Cached prompt tokens; default: as prompt.")
    completion: Decimal = Field(Decimal(0), ge=0, description="Completion tokens, reasoning included.")


class LimitSettings(_Section):
    """What one request may ask for, and how much keys, addresses and models may take."""

    max_tokens: int = Field(8192, ge=1, description="Most completion tokens per choice; larger wishes are clamped.")
    max_n: int = Field(128, ge=1, le=128, description="Most choices per prompt.")
    max_messages: int = Field(2048, ge=1, description="Messages of one conversation.")
    max_prompts: int = Field(64, ge=1, description="Prompts of one completions request.")
    key: QuotaSettings = QuotaSettings()
    model: dict[str, QuotaSettings] = Field({}, description="Limits of a model over all its callers, by model id.")
    address: AddressLimitSettings = AddressLimitSettings()
    redis_failure: Literal["local", "closed"] = Field(
        "local",
        description="With Redis away: each replica admits its share by itself, or everything limited is answered 503.",
    )
    replicas: int = Field(
        1, ge=1, description="Most replicas that run; each one's share with Redis away is 1/replicas."
    )
    lease_seconds: float = Field(
        30.0, ge=1, description="A dead replica's concurrency leases return after this; live ones are renewed."
    )
    redis_timeout: float = Field(0.05, gt=0, description="Seconds one decision may wait for Redis.")
    namespace: str = Field(
        "sluice", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Deployments that share it share their limits."
    )


class AdmissionSettings(_Section):
    """Who is served when: the queue in front of the engine."""

    max_running: int | None = Field(
        None, ge=1, description="Sequences generating at once; default: what the engine batches."
    )
    max_queue: int = Field(1024, ge=0, description="Requests waiting for a slot; more are answered 503.")
    max_wait: float = Field(60.0, gt=0, description="Seconds a request may wait for a slot; longer is answered 503.")
    fair_share: bool = Field(True, description="Divide the engine between tenants by tokens served and weight.")
    max_memory_fraction: float = Field(
        0.92,
        gt=0,
        le=1,
        description="Share of the machine's (or container's) memory in use above which new work is shed.",
    )
    adaptive: AdaptiveSettings = AdaptiveSettings()


class StoreSettings(_Section):
    """The database of keys, usage and audit."""

    url: SecretStr | None = Field(
        None, description="SQLAlchemy URL (environment only); default: SQLite in the state directory."
    )
    url_file: Path | None = Field(None, description="A file that holds the URL.")
    poll_interval: float = Field(1.0, gt=0, description="Seconds between looks for changed keys.")
    max_stale: float = Field(3600.0, gt=0, description="Seconds that known keys go on working with the database away.")
    on_revoke: Literal["cut", "finish"] = Field("cut", description="What happens to a revoked key's running requests.")


class AccessSettings(_Section):
    """Who may come in, and what those see who may not."""

    trusted_proxies: list[IPvAnyNetwork] = Field(
        [], description="Networks whose X-Forwarded-For is believed; the right-most hop outside of them is the caller."
    )
    model_denied: Literal["404", "403"] = Field(
        "404", description="Answer for a model that exists and is not allowed: as if it did not exist, or openly."
    )
    max_failures_per_minute: int = Field(
        300, ge=1, description="Wrong credentials from one address; more are answered 429 before they are looked at."
    )


class JwtSettings(_Section):
    """One issuer of bearer JWTs (OpenID Connect or plain)."""

    issuer: str = Field(min_length=1, description="Exact value of `iss`.")
    audience: str = Field(min_length=1, description="Must be `aud`, or one of its elements.")
    jwks_url: str | None = Field(None, description="Where its keys are; default: by OpenID Connect discovery.")
    algorithms: list[Literal["RS256", "ES256", "EdDSA"]] = Field(
        ["RS256", "ES256", "EdDSA"], min_length=1, description="Accepted signatures."
    )
    leeway: float = Field(30.0, ge=0, le=300, description="Seconds that clocks may differ.")
    refresh_interval: float = Field(300.0, ge=1, description="Seconds between fetches of the keys.")
    max_stale: float = Field(86_400.0, ge=1, description="Seconds that the last good keys work while fetches fail.")
    scope_claim: str = Field("scope", description="Claim with the scopes: words in a string, or a list.")
    scopes: dict[str, Literal["inference", "read_only", "training", "admin"]] = Field(
        {name: name for name in ("inference", "read_only", "training", "admin")},
        description="What a value of the scope claim means here.",
    )
    tenant_claim: str | None = Field(None, description="Claim with the tenant; default: the tenant is the issuer's.")
    tenant: str = Field("default", description="Tenant of tokens without a tenant claim.")
    models_claim: str | None = Field(None, description="Claim with the list of allowed models; default: all.")
    adapters_claim: str | None = Field(None, description="Claim with the list of allowed adapters; default: all.")
    quota_claim: str | None = Field(None, description="Claim with an object of limits, named as under limits.key.")
    weight_claim: str | None = Field(None, description="Claim with the fair-share weight.")


class UsageSettings(_Section):
    """What becomes of the ledger: rows in the database, prices, how long they stay."""

    database: bool = Field(True, description="Copy the ledger to the database, for `sluice usage` and the admin API.")
    prices: dict[str, PriceSettings] = Field({}, description="By model id, or base:adapter.")
    retention_days: int | None = Field(None, ge=1, description="Days that usage rows stay; default: for ever.")
    audit_retention_days: int | None = Field(None, ge=1, description="Days that audit rows stay; default: for ever.")


class CacheSettings(_Section):
    """Prefix-cache isolation between tenants."""

    isolation: bool = Field(True, description="Tenants never share cached prompts, so none can time another's.")
    groups: dict[str, list[str]] = Field({}, description="Groups of tenants that do share, by group name.")


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
    dev: bool = Field(False, description="Development: makes a key on first run, text logs, /docs.")
    state_dir: Path = Field(Path(".sluice"), description="Where ledger, database, secret and development key live.")
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
    admission: AdmissionSettings = AdmissionSettings()
    access: AccessSettings = AccessSettings()
    jwt: list[JwtSettings] = Field([], description="Accepted issuers of bearer JWTs.")
    store: StoreSettings = StoreSettings()
    log: LogSettings = LogSettings()
    ledger: LedgerSettings = LedgerSettings()
    usage: UsageSettings = UsageSettings()
    cache: CacheSettings = CacheSettings()
    engine: dict[str, Any] = Field({}, description="vLLM's engine arguments by their own names.")
    tool_parser: str = Field(
        "auto",
        min_length=1,
        description="Who reads tool calls: auto (by chat template), generic (plain JSON), or one of vLLM's parsers.",
    )
    schema_seconds: float = Field(
        1.0, gt=0, le=60, description="CPU seconds that making and trying out the grammar of one schema may take."
    )
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
        return _secret("api_key_file", self.api_key, self.api_key_file)

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
