"""``sluice keys``: works on the database itself, whether a gateway runs or not."""

from __future__ import annotations

import getpass
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

from gateway.access.administration import Caller, KeyAdministration
from gateway.access.described import key_object, made_key_object
from gateway.access.principal import ALL_SCOPES, Principal
from gateway.access.secret import KEYS, deployment_secret
from gateway.errors import ApiError
from gateway.protocol.keys import KeyChange, KeyCreate, KeyRotation, checked
from gateway.settings import Settings, SettingsError
from gateway.store.audit import write_audit
from gateway.store.database import Database, StoreUnavailable
from gateway.store.keys import KeyNotFound, KeyRepository
from gateway.store.migrate import prepare

T = TypeVar("T")

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN: Final = re.compile(r"([1-9][0-9]{0,8})([smhdw])")
_QUOTA_FLAGS: Final = {
    "rpm": "requests_per_minute",
    "tpm": "tokens_per_minute",
    "tpd": "tokens_per_day",
    "concurrent": "concurrent",
}
_CLEARABLE: Final = ("models", "adapters", "expires", "weight", "labels", "quota", "guard_policy", *_QUOTA_FLAGS)
_FLAGS_OF_FIELDS: Final = {
    **{field: flag for flag, field in _QUOTA_FLAGS.items()},
    "scopes": "scope",
    "models": "model",
    "adapters": "adapter",
    "labels": "label",
    "expires_at": "expires",
    "ttl_seconds": "expires",
    "overlap_seconds": "overlap",
    "guard_policy": "guard-policy",
}

Config = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="SLUICE_CONFIG", help="Settings file (YAML).", dir_okay=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="The public id: the middle part of the key.")]
Tenant = Annotated[str | None, typer.Option(help="Who pays, and whose prefix cache it is [default].")]
Scope = Annotated[
    list[str] | None,
    typer.Option(help="inference, read_only, training or admin; may be repeated [inference and read_only]."),
]
Model = Annotated[list[str] | None, typer.Option(help="A model it may use; may be repeated [all].")]
Adapter = Annotated[list[str] | None, typer.Option(help="An adapter it may use; may be repeated [all].")]
Expires = Annotated[
    str | None, typer.Option(help="A span (90s, 15m, 12h, 30d, 4w), or a date or time (UTC unless it says) [never].")
]
Rpm = Annotated[int | None, typer.Option(help="Requests per minute.")]
Tpm = Annotated[int | None, typer.Option(help="Tokens per minute.")]
Tpd = Annotated[int | None, typer.Option(help="Tokens per day.")]
Concurrent = Annotated[int | None, typer.Option(help="Requests at once.")]
Weight = Annotated[float | None, typer.Option(help="Fair share relative to other tenants, 0.01 to 100 [1].")]
GuardPolicy = Annotated[
    str | None, typer.Option(help="One of the guard's policies for keys (setting guard.keys) [the deployment's].")
]
Label = Annotated[list[str] | None, typer.Option(metavar="NAME=TEXT", help="A text of yours; may be repeated.")]


class _Refused(Exception):
    """A command that cannot be carried out; the message says why."""


class _Store:
    """The opened store, and whoever is at the terminal as its caller."""

    def __init__(self, settings: Settings) -> None:
        self.database = Database(settings.store_url())
        secret = deployment_secret(settings.deployment_secret(), settings.state_dir)
        prepare(self.database, secret)
        self.repository = KeyRepository(self.database, secret.derive(KEYS))
        self.acts = KeyAdministration(self.repository, lambda entry: write_audit(self.database, [entry]))
        self.caller = Caller(Principal(f"cli:{_user()}"[:128], ALL_SCOPES), owner=True)


def keys_app(load: Callable[[Path | None], Settings]) -> typer.Typer:
    """The sub-commands; ``load`` reads the settings and may raise :class:`~gateway.settings.SettingsError`."""
    app = typer.Typer(help="Make and change API keys.", no_args_is_help=True, rich_markup_mode=None)

    @contextmanager
    def opened(config: Path | None) -> Iterator[_Store]:
        with _explained():
            store = _Store(load(config))
            try:
                yield store
            finally:
                store.database.close()

    @app.command()
    def create(
        name: Annotated[str, typer.Option(help="What people call it.")],
        tenant: Tenant = None,
        scope: Scope = None,
        model: Model = None,
        adapter: Adapter = None,
        expires: Expires = None,
        rpm: Rpm = None,
        tpm: Tpm = None,
        tpd: Tpd = None,
        concurrent: Concurrent = None,
        weight: Weight = None,
        guard_policy: GuardPolicy = None,
        label: Label = None,
        as_json: AsJson = False,
        config: Config = None,
    ) -> None:
        """Make a key. It is printed once and kept nowhere."""
        with opened(config) as store:
            quota = _quota(rpm, tpm, tpd, concurrent)
            values = _fields(name, tenant, scope, model, adapter, expires, quota, weight, _labels(label), guard_policy)
            made = store.acts.create(store.caller, checked(KeyCreate, values))
            _show_made(made_key_object(made), as_json)

    @app.command("list")
    def list_keys(
        tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
        revoked: Annotated[bool, typer.Option("--revoked", help="Revoked ones too.")] = False,
        as_json: AsJson = False,
        config: Config = None,
    ) -> None:
        """List the keys, newest first."""
        with opened(config) as store:
            records = _all_keys(store.repository, tenant, revoked)
            if as_json:
                typer.echo(json.dumps(records, indent=2))
            else:
                _table(records)

    @app.command()
    def show(key_id: KeyId, as_json: AsJson = False, config: Config = None) -> None:
        """Describe one key."""
        with opened(config) as store:
            _show(key_object(store.repository.get(key_id)), as_json)

    @app.command()
    def rotate(
        key_id: KeyId,
        overlap: Annotated[str, typer.Option(help="How long the old secret goes on working: 90s, 15m, 1h, 7d.")] = "0s",
        as_json: AsJson = False,
        config: Config = None,
    ) -> None:
        """Give a key a new secret. It is printed once; id, limits and usage stay."""
        with opened(config) as store:
            request = checked(KeyRotation, {"overlap_seconds": _span("overlap", overlap)})
            _show_made(made_key_object(store.acts.rotate(store.caller, key_id, request)), as_json)

    @app.command()
    def revoke(key_id: KeyId, as_json: AsJson = False, config: Config = None) -> None:
        """End a key, for good and within seconds everywhere."""
        with opened(config) as store:
            _show(key_object(store.acts.revoke(store.caller, key_id)), as_json)

    @app.command()
    def update(
        key_id: KeyId,
        name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
        tenant: Tenant = None,
        scope: Scope = None,
        model: Model = None,
        adapter: Adapter = None,
        expires: Expires = None,
        rpm: Rpm = None,
        tpm: Tpm = None,
        tpd: Tpd = None,
        concurrent: Concurrent = None,
        weight: Weight = None,
        guard_policy: GuardPolicy = None,
        label: Label = None,
        clear: Annotated[
            list[str] | None,
            typer.Option(metavar="FIELD", help=f"Back to the default; may be repeated: {', '.join(_CLEARABLE)}."),
        ] = None,
        as_json: AsJson = False,
        config: Config = None,
    ) -> None:
        """Change a key. What is not named stays; labels are added, `--label NAME=` removes one."""
        with opened(config) as store:
            labels = {each: text or None for each, text in _labels(label).items()}
            quota = _quota(rpm, tpm, tpd, concurrent)
            values = _fields(name, tenant, scope, model, adapter, expires, quota, weight, labels, guard_policy)
            request = checked(KeyChange, _cleared(values, clear or []))
            _show(key_object(store.acts.update(store.caller, key_id, request)), as_json)

    return app


# -- errors -----------------------------------------------------------------------------------------------------------


@contextmanager
def _explained() -> Iterator[None]:
    """Every foreseen fault as one line and an exit status: 2 for what was asked wrongly, 1 for what did not work."""
    try:
        yield
    except SettingsError as error:
        _complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None
    except _Refused as error:
        _complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None
    except ApiError as error:
        _complain(_in_flags(error))
        raise typer.Exit(EXIT_USAGE if error.status == 400 else EXIT_FAILED) from None
    except KeyNotFound:
        _complain("no such API key")
        raise typer.Exit(EXIT_FAILED) from None
    except StoreUnavailable as error:
        _complain(f"the store is not available: {error}")
        raise typer.Exit(EXIT_FAILED) from None


def _complain(message: str) -> None:
    for line in message.splitlines():
        typer.echo(f"sluice: {line}", err=True)


def _in_flags(error: ApiError) -> str:
    """The message, with the fields of the wire called as the flags are."""
    param = error.body.param
    if error.status != 400 or param is None:
        return error.body.message
    field = re.split(r"[.\[]", param.removeprefix("quota."))[0]
    return f"--{_FLAGS_OF_FIELDS.get(field, field)}: {error.body.message}"


# -- from flags to fields ---------------------------------------------------------------------------------------------


def _fields(
    name: str | None,
    tenant: str | None,
    scope: Sequence[str] | None,
    model: Sequence[str] | None,
    adapter: Sequence[str] | None,
    expires: str | None,
    quota: dict[str, int],
    weight: float | None,
    labels: dict[str, Any],
    guard_policy: str | None,
) -> dict[str, Any]:
    """What was given, in the fields of :class:`~gateway.protocol.keys.KeyCreate`."""
    given: dict[str, Any] = {
        "name": name,
        "tenant": tenant,
        "scopes": list(scope) if scope else None,
        "models": list(model) if model else None,
        "adapters": list(adapter) if adapter else None,
        "quota": quota or None,
        "weight": weight,
        "labels": labels or None,
        "guard_policy": guard_policy,
    }
    given = {field: value for field, value in given.items() if value is not None}
    return given if expires is None else {**given, **_expiry(expires)}


def _quota(rpm: int | None, tpm: int | None, tpd: int | None, concurrent: int | None) -> dict[str, int]:
    given = {"rpm": rpm, "tpm": tpm, "tpd": tpd, "concurrent": concurrent}
    return {_QUOTA_FLAGS[flag]: value for flag, value in given.items() if value is not None}


def _cleared(values: dict[str, Any], clear: Sequence[str]) -> dict[str, Any]:
    """``values`` with null for what is to go back to its default."""
    for field in clear:
        if field not in _CLEARABLE:
            raise _Refused(f"--clear: '{field}' is none of {', '.join(_CLEARABLE)}")
        if field in _QUOTA_FLAGS:
            values["quota"] = {**(values.get("quota") or {}), _QUOTA_FLAGS[field]: None}
        else:
            values["expires_at" if field == "expires" else field] = None
    if not values:
        raise _Refused("nothing to change: name a field, or --clear one")
    return values


def _labels(given: Sequence[str] | None) -> dict[str, str]:
    labels: dict[str, str] = {}
    for each in given or ():
        name, equals, text = each.partition("=")
        if not equals or not name:
            raise _Refused(f"--label: expected NAME=TEXT, got '{each}'")
        labels[name] = text
    return labels


def _expiry(text: str) -> dict[str, int]:
    if _SPAN.fullmatch(text):
        return {"ttl_seconds": _span("expires", text)}
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _Refused(f"--expires: expected a span such as 30d, or a date such as 2030-12-31, got '{text}'") from None
    return {"expires_at": int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())}


def _span(flag: str, text: str) -> int:
    if text in ("0", "0s"):
        return 0
    match = _SPAN.fullmatch(text)
    if match is None:
        raise _Refused(f"--{flag}: expected a span such as 90s, 15m, 12h, 30d or 4w, got '{text}'")
    return int(match[1]) * _UNITS[match[2]]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


# -- for people -------------------------------------------------------------------------------------------------------


def _all_keys(repository: KeyRepository, tenant: str | None, revoked: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = None
    while True:
        page = repository.list(tenant=tenant, revoked=revoked, after=after, limit=1000)
        found += [key_object(record) for record in page.records]
        if not page.has_more:
            return found
        after = page.records[-1].id


def _show(described: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(described, indent=2))
        return
    rows = [(name, _words(name, value)) for name, value in described.items() if name not in ("object", "key")]
    width = max(len(name) for name, _ in rows)
    for name, words in rows:
        typer.echo(f"{name:<{width}}  {words}")


def _show_made(described: dict[str, Any], as_json: bool) -> None:
    _show(described, as_json)
    if not as_json:
        typer.echo("This key is shown once and kept nowhere:", err=True)
        typer.echo(described["key"])


def _table(described: Sequence[dict[str, Any]]) -> None:
    columns = ("id", "name", "tenant", "status", "scopes", "expires_at", "quota")
    rows = [columns, *(tuple(_words(name, each[name]) for name in columns) for each in described)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _words(name: str, value: Any) -> str:
    if value is None:
        return "all" if name in ("models", "adapters") else "-"
    if name.endswith(("_at", "_until")):
        return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(value))
    if name == "quota":
        value = {flag: value[field] for flag, field in _QUOTA_FLAGS.items() if value[field] is not None}
    if isinstance(value, dict):
        return " ".join(f"{each}={text}" for each, text in value.items()) or "-"
    return " ".join(value) if isinstance(value, list) else str(value)
