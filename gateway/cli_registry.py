"""``sluice registry``: public names of a running server, over its API."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from gateway.cli_server import EXIT_USAGE, AsJson, Config, Url, failed, reach
from gateway.settings import Settings

_PATH: Final = "/v1/admin/registry"

Name = Annotated[str, typer.Argument(help="The public name.")]
Number = Annotated[int, typer.Argument(help="The version's number.", min=1)]


def registry_app(load: Callable[[Path | None], Settings]) -> typer.Typer:
    """The sub-commands; ``load`` reads the settings and may raise :class:`~gateway.settings.SettingsError`."""
    app = typer.Typer(help="Public names of a running server.", no_args_is_help=True, rich_markup_mode=None)

    @app.command("list")
    def list_all(as_json: AsJson = False, url: Url = None, config: Config = None) -> None:
        """List the public names."""
        _show(reach(load, config, url).ask("GET", _PATH)["data"], as_json)

    @app.command()
    def show(name: Name, as_json: AsJson = False, url: Url = None, config: Config = None) -> None:
        """Show one name and its versions."""
        _show([reach(load, config, url).ask("GET", f"{_PATH}/{name}")], as_json)

    @app.command()
    def add(
        name: Name,
        target: Annotated[str, typer.Argument(help="A model, model:adapter, or an adapter's name.")],
        sha256: Annotated[str | None, typer.Option(help="What the adapter's content must be.")] = None,
        metadata: Annotated[list[str] | None, typer.Option("--meta", help="KEY=VALUE, again for more.")] = None,
        activate: Annotated[bool, typer.Option("--activate", help="It answers at once.")] = False,
        as_json: AsJson = False,
        url: Url = None,
        config: Config = None,
    ) -> None:
        """Add a version of a name; of a new one the first."""
        body: dict[str, Any] = {"name": name, "target": target, "activate": activate, "metadata": _pairs(metadata)}
        if sha256 is not None:
            body["sha256"] = sha256
        _show([reach(load, config, url).ask("POST", _PATH, body)], as_json)

    @app.command()
    def activate(name: Name, version: Number, as_json: AsJson = False, url: Url = None, config: Config = None) -> None:
        """Give all traffic to one version."""
        _show([reach(load, config, url).ask("POST", f"{_PATH}/{name}/activate", {"version": version})], as_json)

    @app.command()
    def rollback(name: Name, as_json: AsJson = False, url: Url = None, config: Config = None) -> None:
        """Go back to the version before."""
        _show([reach(load, config, url).ask("POST", f"{_PATH}/{name}/rollback")], as_json)

    @app.command()
    def split(
        name: Name,
        arms: Annotated[list[str] | None, typer.Argument(help="VERSION=WEIGHT, for each version.")] = None,
        stick_to: Annotated[str, typer.Option(help="user, key or request: what keeps somebody in an arm.")] = "user",
        end: Annotated[bool, typer.Option("--end", help="All traffic to the active version again.")] = False,
        as_json: AsJson = False,
        url: Url = None,
        config: Config = None,
    ) -> None:
        """Divide the traffic between versions."""
        server, path = reach(load, config, url), f"{_PATH}/{name}/split"
        if end:
            _show([server.ask("DELETE", path)], as_json)
        else:
            _show([server.ask("PUT", path, {"arms": _weights(arms), "stick_to": stick_to})], as_json)

    @app.command()
    def canary(
        name: Name,
        version: Annotated[int | None, typer.Argument(help="The version that is to replace the active one.")] = None,
        steps: Annotated[str | None, typer.Option(help="Shares in percent, between commas [5,25,50,100].")] = None,
        min_requests: Annotated[int | None, typer.Option(help="Requests in a step, at least [100].")] = None,
        min_seconds: Annotated[float | None, typer.Option(help="Seconds of a step, at least [300].")] = None,
        min_success_rate: Annotated[float | None, typer.Option(help="Share that must succeed [0.99].")] = None,
        max_latency_ratio: Annotated[
            float | None, typer.Option(help="Of its median request to the active version's; 0: any [1.5].")
        ] = None,
        stick_to: Annotated[str | None, typer.Option(help="user, key or request.")] = None,
        stop: Annotated[bool, typer.Option("--stop", help="End it without a verdict.")] = False,
        as_json: AsJson = False,
        url: Url = None,
        config: Config = None,
    ) -> None:
        """Replace the active version step by step; back by itself if the new one does worse."""
        server, path = reach(load, config, url), f"{_PATH}/{name}/canary"
        if stop:
            _show([server.ask("DELETE", path)], as_json)
            return
        given: dict[str, Any] = {
            "version": version,
            "steps": None if steps is None else _numbers(steps),
            "min_requests": min_requests,
            "min_seconds": min_seconds,
            "min_success_rate": min_success_rate,
            "max_latency_ratio": max_latency_ratio,
            "stick_to": stick_to,
        }
        body = {field: value for field, value in given.items() if value is not None}
        if max_latency_ratio == 0:
            body["max_latency_ratio"] = None
        _show([server.ask("PUT", path, body)], as_json)

    @app.command()
    def shadow(
        name: Name,
        version: Annotated[int | None, typer.Argument(help="The version that is asked too.")] = None,
        percent: Annotated[float, typer.Option(help="Of the requests, how many.")] = 100.0,
        stop: Annotated[bool, typer.Option("--stop", help="End it.")] = False,
        as_json: AsJson = False,
        url: Url = None,
        config: Config = None,
    ) -> None:
        """Ask a version what the others are asked; nobody sees what it answers, nobody pays for it."""
        server, path = reach(load, config, url), f"{_PATH}/{name}/shadow"
        if stop:
            _show([server.ask("DELETE", path)], as_json)
        else:
            given = {} if version is None else {"version": version}
            _show([server.ask("PUT", path, {**given, "percent": percent})], as_json)

    @app.command()
    def reset(name: Name, version: Number, as_json: AsJson = False, url: Url = None, config: Config = None) -> None:
        """Let a version that failed be tried again."""
        _show([reach(load, config, url).ask("POST", f"{_PATH}/{name}/reset", {"version": version})], as_json)

    @app.command()
    def remove(
        name: Annotated[str, typer.Argument(help="The public name, or NAME@VERSION.")],
        url: Url = None,
        config: Config = None,
    ) -> None:
        """Remove a name, or one version of it."""
        reach(load, config, url).ask("DELETE", f"{_PATH}/{name}")

    return app


def _pairs(texts: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise failed(f"--meta: expected KEY=VALUE, got {text}", EXIT_USAGE)
        pairs[key] = value
    return pairs


def _weights(texts: list[str] | None) -> list[dict[str, float]]:
    weights = []
    for text in texts or []:
        version, _, weight = text.partition("=")
        try:
            weights.append({"version": int(version), "weight": float(weight)})
        except ValueError:
            raise failed(f"expected VERSION=WEIGHT, got {text}", EXIT_USAGE) from None
    return weights


def _numbers(text: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise failed(f"--steps: expected numbers between commas, got {text}", EXIT_USAGE) from None


def _answering(name: dict[str, Any]) -> str:
    split, canary = name["split"], name["canary"]
    if split is not None:
        whole = sum(arm["weight"] for arm in split["arms"])
        parts = [f"{name['id']}@{arm['version']} {arm['weight'] / whole:.1%}" for arm in split["arms"]]
        return f"{', '.join(parts)} answer, by {split['stick_to']}"
    active = "nothing" if name["active"] is None else f"{name['id']}@{name['active']}"
    if canary is None:
        return f"{active} answers"
    return f"{active} answers, canary {name['id']}@{canary['version']} at {canary['percent']:g} %"


def _show(names: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(names, indent=2))
        return
    for name in names:
        typer.echo(f"{name['id']}: {_answering(name)}")
        for each in (name["canary"] or {}).get("outcomes") or ():
            median = "-" if each["median_seconds"] is None else f"{each['median_seconds']:.2g} s"
            counts = f"{each['succeeded']} succeeded, {each['failed']} failed, median {median}"
            typer.echo(f"  {name['id']}@{each['version']}  {counts}")
        if name["shadow"] is not None:
            typer.echo(f"  {name['id']}@{name['shadow']['version']} shadows {name['shadow']['percent']:g} %")
        for each in name["versions"]:
            there = "" if each["available"] else "  not available"
            reason = f"  {each['reason']}" if each["reason"] else ""
            sha256 = (each["sha256"] or "-")[:12]
            typer.echo(f"  {each['id']}  {each['target']}  {sha256}  {each['stage']}{reason}{there}")
