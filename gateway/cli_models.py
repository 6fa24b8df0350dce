"""``sluice models``: models of a running server, over its API."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from gateway.cli_server import AsJson, Config, Url, reach
from gateway.settings import Settings

Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model's id.")]


def models_app(load: Callable[[Path | None], Settings]) -> typer.Typer:
    """The sub-commands; ``load`` reads the settings and may raise :class:`~gateway.settings.SettingsError`."""
    app = typer.Typer(help="Models of a running server.", no_args_is_help=True, rich_markup_mode=None)

    @app.command("list")
    def list_all(as_json: AsJson = False, url: Url = None, config: Config = None) -> None:
        """List the models, and where each of them is."""
        _show(reach(load, config, url).ask("GET", "/v1/models")["data"], as_json)

    @app.command("load")
    def into_memory(model: Model, as_json: AsJson = False, url: Url = None, config: Config = None) -> None:
        """Load a model; returns when it is there."""
        _show([reach(load, config, url).ask("POST", f"/v1/models/{quote(model)}/load")], as_json)

    @app.command("unload")
    def out_of_memory(model: Model, url: Url = None, config: Config = None) -> None:
        """Take a model out of memory; returns when its requests have ended and it is gone."""
        reach(load, config, url).ask("DELETE", f"/v1/models/{quote(model)}")

    return app


def _show(models: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(models, indent=2))
        return
    for each in models:
        pinned = " pinned" if each["pinned"] else ""
        memory = f"{each['memory_bytes'] / 2**20:.0f} MiB" if each["memory_bytes"] else "-"
        typer.echo(
            f"{each['id']}  {each['kind']}  {each['state']}{pinned}  {memory}  {each.get('detail', '')}".rstrip()
        )
