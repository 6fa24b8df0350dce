"""The ``sluice`` command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from gateway.cli_adapters import adapters_app
from gateway.cli_keys import keys_app
from gateway.cli_models import models_app
from gateway.cli_registry import registry_app
from gateway.cli_usage import usage_command
from gateway.settings import Settings, SettingsError, load

T = TypeVar("T")


def _load(config: Path | None) -> Settings:
    return load(config, {})


app = typer.Typer(
    name="sluice",
    help="The front door of self-hosted LLMs: an OpenAI-compatible gateway with the vLLM engine in-process.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(keys_app(_load), name="keys")
app.add_typer(adapters_app(_load), name="adapters")
app.add_typer(models_app(_load), name="models")
app.add_typer(registry_app(_load), name="registry")
app.command("usage")(usage_command(_load))

Config = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="SLUICE_CONFIG", help="Settings file (YAML).", dir_okay=False)
]


@app.command()
def serve(
    config: Config = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [8000]; 0 takes a free one.")] = None,
    model: Annotated[str | None, typer.Option(help="Local directory or hub id [the embedded sample model].")] = None,
    served_model_name: Annotated[str | None, typer.Option(help="Id of the model on the wire.")] = None,
    dev: Annotated[
        bool | None, typer.Option("--dev", help="Development: makes a key, text logs, /docs, /console.")
    ] = None,
    allow_no_auth: Annotated[bool | None, typer.Option("--allow-no-auth", help="Serve everyone without a key.")] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="File that holds the static API key.")] = None,
    drain_timeout: Annotated[float | None, typer.Option(help="Seconds streams get after SIGTERM [30].")] = None,
    workers: Annotated[int | None, typer.Option(help="Front-end processes that share the engine [1].")] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the settings that would be used, and exit.")
    ] = False,
) -> None:
    """Serve a model. Settings: file, then SLUICE_* environment, then these flags."""
    flags: dict[str, Any] = {
        "host": host,
        "port": port,
        "model": model,
        "served_model_name": served_model_name,
        "dev": dev,
        "allow_no_auth": allow_no_auth,
        "api_key_file": api_key_file,
        "drain_timeout": drain_timeout,
        "workers": workers,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    settings = _settings(config, given)
    if print_config:
        typer.echo(settings.printable(), nl=False)
        return
    from gateway.serve import run

    raise typer.Exit(_or_explain(lambda: run(settings, lambda: load(config, given), [config] if config else [])))


@app.command()
def doctor(config: Config = None) -> None:
    """Say what keeps this machine from serving.

    Checks hardware, packages, memory, model, port, store and Redis, and says what to do.
    """
    from gateway.doctor import report

    raise typer.Exit(report(_settings(config, {}), typer.echo))


@app.command()
def version() -> None:
    """Print the versions of Sluice and vLLM."""
    from gateway.doctor import versions

    for name, found in versions():
        typer.echo(f"{name} {found}")


def _settings(config: Path | None, flags: dict[str, Any]) -> Settings:
    return _or_explain(lambda: load(config, flags))


def _or_explain(action: Callable[[], T]) -> T:
    try:
        return action()
    except SettingsError as error:
        for line in str(error).splitlines():
            typer.echo(f"sluice: {line}", err=True)
        raise typer.Exit(2) from None


def main() -> None:
    """Entry point of the ``sluice`` command."""
    app(prog_name="sluice", args=sys.argv[1:])


if __name__ == "__main__":
    main()
