"""Commands that ask a server which is not there, or is another one: one line each, never a traceback."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from gateway.cli import app


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Answers whatever is put into it."""
    said: dict[str, Any] = {"status_code": 200}

    def answer(_: object, method: str, path: str, json: object = None) -> httpx.Response:
        return httpx.Response(**said, request=httpx.Request(method, "http://other" + path))

    monkeypatch.setattr(httpx.Client, "request", answer)
    return said


@pytest.mark.parametrize(
    "said",
    [
        {"status_code": 200, "text": "<html>"},
        {"status_code": 200, "json": ["a"]},
        {"status_code": 401, "json": {"error": "Unauthorized"}},
        {"status_code": 404, "json": {"detail": "Not Found"}},
        {"status_code": 500, "json": {"error": {}}},
        {"status_code": 502, "json": "bad gateway"},
    ],
    ids=str,
)
def test_another_server_is_said_to_be_one(other: dict[str, Any], said: dict[str, Any]) -> None:
    other.update(said)
    for command in (["models", "list"], ["adapters", "list"], ["registry", "list"]):
        result = CliRunner().invoke(app, [*command, "--url", "http://other"])
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
        assert "is not a Sluice server" in result.stderr


@pytest.mark.parametrize("url", ["http://[broken", "http://x:port", "ftp://x", "nothing", "http://127.0.0.1:1"])
def test_an_address_that_leads_nowhere_is_named(url: str) -> None:
    result = CliRunner().invoke(app, ["models", "list", "--url", url])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2)
    assert result.stderr.startswith("sluice: ")
    assert result.stderr.count("\n") == 1
