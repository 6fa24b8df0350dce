from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

import gateway.cli_usage
from gateway.access.secret import deployment_secret
from gateway.cli_usage import usage_command
from gateway.settings import PriceSettings, Settings, SettingsError, load
from gateway.store.database import Database
from gateway.store.migrate import prepare
from gateway.store.usage import UsageRepository
from gateway.usage.prices import PriceList
from gateway.usage.records import Settled
from tests.support.postgres import PostgresServer
from tests.support.rows import DAY, NOON, settled

PRICES = PriceList({"m": PriceSettings(prompt=Decimal(1), completion=Decimal(2))})


class Terminal:
    """Runs the command against one state directory."""

    def __init__(self, folder: Path) -> None:
        self.flags: dict[str, Any] = {"state_dir": folder}
        self.app = typer.Typer(add_completion=False)
        self.app.command()(usage_command(self.load))

    def __call__(self, *words: str) -> Result:
        return CliRunner().invoke(self.app, list(words))

    def json(self, *words: str) -> Any:
        result = self(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def refused(self, *words: str) -> tuple[int, str]:
        result = self(*words)
        assert result.stdout == ""
        return result.exit_code, result.stderr

    def load(self, config: Path | None) -> Settings:
        return load(config, self.flags)

    def used(self, *rows: Settled) -> None:
        settings = self.load(None)
        database = Database(settings.store_url())
        try:
            prepare(database, deployment_secret(settings.deployment_secret(), settings.state_dir))
            UsageRepository(database).insert(rows, PRICES)
        finally:
            database.close()


@pytest.fixture
def sluice(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path / "state")


def test_nothing_was_used(sluice: Terminal) -> None:
    assert sluice().stdout == "No usage.\n"
    assert sluice.json() == []


def test_a_table_for_people(sluice: Terminal) -> None:
    sluice.used(settled("a", completion_tokens=12345), settled("b"), settled("c", principal="key-2", model="a-model"))
    assert sluice("--by", "key,model").stdout.splitlines() == [
        "key    model    requests  prompt  cached  completion  reasoning      cost",
        "key-1  m               2      14       4      12,350          2  0.024714",
        "key-2  a-model         1       7       2           5          1         -",
    ]


def test_json_for_programs(sluice: Terminal) -> None:
    sluice.used(settled("a"), settled("b", adapter="tuned", received=NOON + DAY))
    assert sluice.json("--by", "day,adapter", "--from", "2026-03-02") == [
        {
            "object": "usage",
            "day": "2026-03-02",
            "adapter": "tuned",
            "requests": 1,
            "prompt_tokens": 7,
            "cached_tokens": 2,
            "completion_tokens": 5,
            "reasoning_tokens": 1,
            "cost": "0.000017",
        }
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--from", "2026-03-02"], ["b", "c"]),
        (["--to", "2026-03-01"], ["a"]),
        (["--key", "key-2"], ["b"]),
        (["--tenant", "other"], ["c"]),
        (["--model", "n", "--key", "key-2"], ["b"]),
    ],
)
def test_filters(sluice: Terminal, words: list[str], expected: list[str]) -> None:
    sluice.used(
        settled("a", adapter="a"),
        settled("b", adapter="b", principal="key-2", model="n", received=NOON + DAY),
        settled("c", adapter="c", tenant="other", received=NOON + 2 * DAY),
    )
    assert [row["adapter"] for row in sluice.json("--by", "adapter", *words)] == expected


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--from", "yesterday"], "--from"),
        (["--to", "0"], "--to"),
        (["--from", "2026-03-02", "--to", "2026-03-01"], "--to"),
        (["--by", "colour"], "--by"),
        (["--by", "key,key"], "--by"),
        (["--key", "k" * 129], "--key"),
    ],
)
def test_a_wrong_flag_is_named(sluice: Terminal, words: list[str], named: str) -> None:
    status, text = sluice.refused(*words)
    assert status == 2
    assert text.startswith(f"sluice: {named}: ")
    assert "{" not in text


def test_more_rows_than_anybody_reads_are_told_of(sluice: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    sluice.used(*(settled(f"r{number}", principal=f"key-{number}") for number in range(5)))
    monkeypatch.setattr(gateway.cli_usage, "MAX_ROWS", 3)
    result = sluice("--by", "key", "--json")
    assert len(json.loads(result.stdout)) == 3
    assert "the first 3 rows" in result.stderr


def test_a_store_that_is_away(sluice: Terminal, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    sluice.flags["store"] = {"url": f"sqlite:///{tmp_path / 'file' / 'sluice.db'}"}
    status, text = sluice.refused()
    assert status == 1
    assert "the store is not available" in text


def test_settings_that_cannot_be_used() -> None:
    def refuse(_config: Path | None) -> Settings:
        raise SettingsError("port: no")

    app = typer.Typer(add_completion=False)
    app.command()(usage_command(refuse))
    result = CliRunner().invoke(app, [])
    assert (result.exit_code, result.stderr) == (2, "sluice: port: no\n")


def test_on_postgresql(sluice: Terminal, postgres_server: PostgresServer) -> None:
    sluice.flags["store"] = {"url": postgres_server.new_database()}
    sluice.used(settled("a"), settled("b"))
    assert [(row["key"], row["requests"]) for row in sluice.json("--by", "key")] == [("key-1", 2)]
