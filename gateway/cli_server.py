"""How commands reach a running server: what only it can know or do, they ask it over its API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer

from gateway.settings import Settings, SettingsError

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
#: An adapter may have to be fetched, a model to be loaded first.
_TIMEOUT: Final = 600.0

Config = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="SLUICE_CONFIG", help="Settings file (YAML).", dir_okay=False)
]
Url = Annotated[
    str | None, typer.Option(envvar="SLUICE_URL", help="Where the server is [host and port of the settings].")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class RunningServer:
    """The server, and the key of whoever is at the terminal: SLUICE_API_KEY, api_key_file, or the development key."""

    def __init__(self, settings: Settings, url: str | None) -> None:
        key = settings.static_key() or _development_key(settings)
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104
        try:
            self._client = httpx.Client(
                base_url=url or f"http://{host}:{settings.port}",
                headers={"authorization": f"Bearer {key}"} if key else {},
                timeout=_TIMEOUT,
            )
        except httpx.InvalidURL as error:
            raise failed(f"--url: {error}: {url}", EXIT_USAGE) from None

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer. Exits with a line that says what is wrong."""
        try:
            answer = self._client.request(method, path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise failed(f"{self._client.base_url} does not answer: {error}", EXIT_FAILED) from None
        return _understood(answer, str(self._client.base_url))


def reach(load: Callable[[Path | None], Settings], config: Path | None, url: str | None) -> RunningServer:
    """The server that settings or ``url`` name. Exits where ``load`` raises :class:`SettingsError`."""
    try:
        return RunningServer(load(config), url)
    except SettingsError as error:
        raise failed(str(error), EXIT_USAGE) from None


def failed(message: str, status: int) -> typer.Exit:
    """To be raised: ends the command with ``status`` after saying why."""
    for line in message.splitlines():
        typer.echo(f"sluice: {line}", err=True)
    return typer.Exit(status)


def _understood(answer: httpx.Response, server: str) -> Any:
    try:
        value = answer.json()
    except ValueError:
        raise failed(f"{server} is not a Sluice server", EXIT_FAILED) from None
    if answer.is_success and isinstance(value, dict):
        return value
    fault = value.get("error") if isinstance(value, dict) else None
    if not isinstance(fault, dict) or "message" not in fault:
        raise failed(f"{server} is not a Sluice server: it answered {answer.status_code}", EXIT_FAILED)
    param = f"{fault['param']}: " if fault.get("param") else ""
    raise failed(f"{param}{fault['message']}", EXIT_USAGE if answer.status_code in (400, 422) else EXIT_FAILED)


def _development_key(settings: Settings) -> str | None:
    try:
        return (settings.state_dir / "dev-key").read_text("utf-8").strip()
    except OSError:
        return None
