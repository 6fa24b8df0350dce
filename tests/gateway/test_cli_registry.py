"""``sluice registry`` against a gateway over the stub engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from tests.support.gateways import KEY, threaded
from tests.support.stub_engine import StubEngine


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SLUICE_API_KEY", KEY)
    with threaded(StubEngine, tmp_path, with_store=True) as served:
        monkeypatch.setenv("SLUICE_URL", served.live.url)
        yield lambda *arguments: CliRunner().invoke(app, ["registry", *arguments])
        assert served.live.store is not None
        served.live.store.close(5.0)


def test_add_activate_rollback_remove(command: Any) -> None:
    added = command("add", "chat", "stub", "--meta", "commit=3f2a", "--activate", "--json")
    assert added.exit_code == 0, added.output
    (made,) = json.loads(added.stdout)
    assert (made["active"], made["versions"][0]["metadata"]) == (1, {"commit": "3f2a"})
    assert command("add", "chat", "stub").stdout.splitlines()[-1] == "  chat@2  stub  -  draft"
    assert command("activate", "chat", "2").stdout.startswith("chat: chat@2 answers\n")
    assert command("rollback", "chat").stdout.startswith("chat: chat@1 answers\n")
    assert command("show", "chat").stdout == command("list").stdout
    divided = command("split", "chat", "1=3", "2=1")
    assert divided.stdout.startswith("chat: chat@1 75.0%, chat@2 25.0% answer, by user\n"), divided.output
    assert command("split", "chat", "--end").stdout.startswith("chat: chat@1 answers\n")
    begun = command("canary", "chat", "2", "--steps", "5,50", "--min-requests", "7", "--max-latency-ratio", "0")
    assert begun.stdout.startswith("chat: chat@1 answers, canary chat@2 at 5 %\n"), begun.output
    assert "chat@2  0 succeeded, 0 failed, median -" in command("show", "chat").stdout
    assert command("canary", "chat", "--stop").stdout.startswith("chat: chat@1 answers\n")
    assert command("remove", "chat@2").exit_code == 0
    assert command("remove", "chat").exit_code == 0
    assert command("list").stdout == ""


def test_what_is_wrong_is_said_in_one_line(command: Any) -> None:
    for arguments, status in (
        (("add", "chat", "nobody"), 1),
        (("add", "a:b", "stub"), 2),
        (("add", "chat", "stub", "--meta", "x"), 2),
        (("activate", "chat", "1"), 1),
        (("split", "chat", "x"), 2),
        (("split", "chat"), 2),
        (("canary", "chat", "1", "--steps", "a"), 2),
        (("canary", "chat"), 2),
        (("reset", "chat", "1"), 1),
        (("show", "chat"), 1),
    ):
        wrong = command(*arguments)
        assert (wrong.exit_code, wrong.stderr.count("\n")) == (status, 1), wrong.output


def test_a_shadow_comes_and_goes(command: Any) -> None:
    command("add", "chat", "stub", "--activate")
    command("add", "chat", "stub")
    assert "  chat@2 shadows 25 %" in command("shadow", "chat", "2", "--percent", "25").stdout.splitlines()
    assert "shadows" not in command("shadow", "chat", "--stop").stdout
    assert command("shadow", "chat").exit_code == 2
