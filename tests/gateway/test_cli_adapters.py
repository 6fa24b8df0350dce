"""``sluice adapters`` against a gateway over the stub engine."""

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
    (tmp_path / "root" / "one").mkdir(parents=True)
    settings = {"enabled": True, "roots": [str(tmp_path / "root")]}
    monkeypatch.setenv("SLUICE_API_KEY", KEY)
    with threaded(StubEngine, tmp_path, adapters=settings) as served:
        monkeypatch.setenv("SLUICE_URL", served.live.url)
        yield lambda *arguments: CliRunner().invoke(app, ["adapters", *arguments])


def test_add_list_pin_remove(command: Any, tmp_path: Path) -> None:
    added: Result = command("add", "ad", str(tmp_path / "root" / "one"), "--json")
    assert added.exit_code == 0, added.output
    (made,) = json.loads(added.stdout)
    assert (made["id"], made["pinned"]) == ("stub:ad", False)
    assert command("pin", "ad").stdout.startswith("stub:ad  resident pinned")
    assert len(json.loads(command("list", "--json").stdout)) == 1
    assert "pinned" not in command("pin", "ad", "--off").stdout
    assert command("remove", "ad", "--drain").exit_code == 0
    assert command("list").stdout == ""


def test_what_is_wrong_is_said_in_one_line(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = command("add", "ad", "/etc")
    assert (outside.exit_code, outside.stderr.count("\n")) == (2, 1)
    assert "path" in outside.stderr
    unknown = command("remove", "nobody")
    assert (unknown.exit_code, unknown.stderr) == (1, "sluice: name: No such adapter.\n")
    monkeypatch.setenv("SLUICE_URL", "http://127.0.0.1:9")
    assert command("list").exit_code == 1
