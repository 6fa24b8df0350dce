"""``sluice adapters``: adapters of a running server, over its API: only it can say whether they fit its model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from gateway.cli_server import AsJson, Config, RunningServer, Url, reach
from gateway.settings import Settings

Name = Annotated[str, typer.Argument(help="The adapter's plain name.")]


def adapters_app(load: Callable[[Path | None], Settings]) -> typer.Typer:
    """The sub-commands; ``load`` reads the settings and may raise :class:`~gateway.settings.SettingsError`."""
    app = typer.Typer(help="Adapters of a running server.", no_args_is_help=True, rich_markup_mode=None)

    def api(config: Path | None, url: str | None) -> RunningServer:
        return reach(load, config, url)

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
        _show([api(config, url).ask("DELETE", f"/v1/adapters/{quote(name, safe='')}{query}")], as_json)

    @app.command()
    def pin(
        name: Name,
        off: Annotated[bool, typer.Option("--off", help="Let it be evicted again.")] = False,
        as_json: AsJson = False,
        url: Url = None,
        config: Config = None,
    ) -> None:
        """Keep an adapter in the engine."""
        _show([api(config, url).ask("PATCH", f"/v1/adapters/{quote(name, safe='')}", {"pinned": not off})], as_json)

    return app


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
