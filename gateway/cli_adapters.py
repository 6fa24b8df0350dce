"""``sluice adapters``: adapters of a running server, over its API: only it can say whether they fit its model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer

from gateway.settings import Settings, SettingsError

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
#: An adapter may have to be fetched first.
_TIMEOUT: Final = 600.0

Config = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="SLUICE_CONFIG", help="Settings file (YAML).", dir_okay=False)
]
Url = Annotated[
    str | None, typer.Option(envvar="SLUICE_URL", help="Where the server is [host and port of the settings].")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="The adapter's plain name.")]


class _Api:
    """The server, and the key of whoever is at the terminal: SLUICE_API_KEY, api_key_file, or the development key."""

    def __init__(self, settings: Settings, url: str | None) -> None:
        key = settings.static_key() or _development_key(settings)
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104
        self._client = httpx.Client(
            base_url=url or f"http://{host}:{settings.port}",
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=_TIMEOUT,
        )

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer. Exits with a line that says what is wrong."""
        try:
            answer = self._client.request(method, path, json=body)
            value = answer.json()
        except httpx.HTTPError as error:
            raise _failed(f"{self._client.base_url} does not answer: {error}", EXIT_FAILED) from None
        except ValueError:
            raise _failed(f"{self._client.base_url} is not a Sluice server", EXIT_FAILED) from None
        if answer.is_success:
            return value
        fault = value.get("error") or {}
        param = f"{fault['param']}: " if fault.get("param") else ""
        raise _failed(f"{param}{fault.get('message')}", EXIT_USAGE if answer.status_code in (400, 422) else EXIT_FAILED)


def adapters_app(load: Callable[[Path | None], Settings]) -> typer.Typer:
    """The sub-commands; ``load`` reads the settings and may raise :class:`~gateway.settings.SettingsError`."""
    app = typer.Typer(help="Adapters of a running server.", no_args_is_help=True, rich_markup_mode=None)

    def api(config: Path | None, url: str | None) -> _Api:
        try:
            return _Api(load(config), url)
        except SettingsError as error:
            raise _failed(str(error), EXIT_USAGE) from None

    @app.command()
    def add(
        name: Name,
        source: Annotated[str, typer.Argument(help="A directory, hub:organisation/name, or https://.../x.tar.")],
        model: Annotated[str | None, typer.Option(help="Id of its model [the first].")] = None,
        sha256: Annotated[str | None, typer.Option(help="What it must be; an archive behind a URL needs it.")] = None,
        revision: Annotated[str | None, typer.Option(help="Commit or branch on the hub.")] = None,
        pin: Annotated[bool, typer.Option("--pin", help="It stays in the engine.")] = False,
        shared: Annotated[bool, typer.Option("--shared", help="For all tenants.")] = False,
        as_json: AsJson = False,
        url: Url = None,
        config: Config = None,
    ) -> None:
        """Register an adapter; of a name that is known a new version."""
        kind = "source" if "://" in source or source.startswith("hub:") else "path"
        given = str(Path(source).expanduser().absolute()) if kind == "path" else source
        body = {"name": name, kind: given, "pinned": pin, "shared": shared}
        body |= {key: value for key, value in (("model", model), ("sha256", sha256), ("revision", revision)) if value}
        _show([api(config, url).ask("POST", "/v1/adapters", body)], as_json)

    @app.command("list")
    def list_all(as_json: AsJson = False, url: Url = None, config: Config = None) -> None:
        """List the adapters."""
        _show(api(config, url).ask("GET", "/v1/adapters")["data"], as_json)

    @app.command()
    def remove(
        name: Name,
        drain: Annotated[bool, typer.Option("--drain", help="Wait for the requests that run on it.")] = False,
        as_json: AsJson = False,
        url: Url = None,
        config: Config = None,
    ) -> None:
        """Remove an adapter."""
        query = "?drain=true" if drain else ""
        _show([api(config, url).ask("DELETE", f"/v1/adapters/{name}{query}")], as_json)

    @app.command()
    def pin(
        name: Name,
        off: Annotated[bool, typer.Option("--off", help="Let it be evicted again.")] = False,
        as_json: AsJson = False,
        url: Url = None,
        config: Config = None,
    ) -> None:
        """Keep an adapter in the engine."""
        _show([api(config, url).ask("PATCH", f"/v1/adapters/{name}", {"pinned": not off})], as_json)

    return app


def _development_key(settings: Settings) -> str | None:
    try:
        return (settings.state_dir / "dev-key").read_text("utf-8").strip()
    except OSError:
        return None


def _failed(message: str, status: int) -> typer.Exit:
    for line in message.splitlines():
        typer.echo(f"sluice: {line}", err=True)
    return typer.Exit(status)


def _show(adapters: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(adapters, indent=2))
        return
    for each in adapters:
        pinned = " pinned" if each["pinned"] else ""
        sha256 = (each["sha256"] or "-")[:12]
        typer.echo(
            f"{each['id']}  {each['status']}{pinned}  {sha256}  {each['origin']}  {each['fault'] or ''}".rstrip()
        )
