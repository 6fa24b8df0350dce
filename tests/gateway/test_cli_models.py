"""``sluice models`` against a gateway over the stub engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from tests.support.gateways import KEY, threaded
from tests.support.stub_engine import StubEngine


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SLUICE_API_KEY", KEY)
    with threaded(StubEngine, tmp_path) as served:
        monkeypatch.setenv("SLUICE_URL", served.live.url)
        yield lambda *arguments: CliRunner().invoke(app, ["models", *arguments])


def test_out_of_memory_and_back(command: Any) -> None:
    assert command("list").stdout.startswith("stub  generate  ready")
    gone: Result = command("unload", "stub")
    assert (gone.exit_code, gone.output) == (0, "")
    assert command("list").stdout.startswith("stub  generate  unloaded")
    back = command("load", "stub", "--json")
    assert back.exit_code == 0, back.output
    (model,) = json.loads(back.stdout)
    assert (model["id"], model["state"]) == ("stub", "ready")


def test_what_is_wrong_is_said_in_one_line(command: Any) -> None:
    unknown = command("load", "no/body")
    assert (unknown.exit_code, unknown.stderr.count("\n")) == (1, 1)
    assert unknown.stderr.startswith("sluice: model: ")
    assert command("unload", "nobody").exit_code == 1
