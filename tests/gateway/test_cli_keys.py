from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.access.keys import parse_key
from gateway.cli_keys import keys_app
from gateway.settings import Settings, SettingsError, load
from gateway.store.audit import AuditFilter, read_audit
from gateway.store.database import Database
from tests.support.postgres import PostgresServer


class Terminal:
    """Runs commands against one state directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.flags: dict[str, Any] = {"state_dir": folder}

    def __call__(self, *words: str) -> Result:
        return CliRunner().invoke(keys_app(self._load), list(words))

    def json(self, *words: str) -> Any:
        result = self(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def refused(self, *words: str) -> tuple[int, str]:
        result = self(*words)
        assert result.stdout == ""
        return result.exit_code, result.stderr

    def _load(self, config: Path | None) -> Settings:
        return load(config, self.flags)


@pytest.fixture
def sluice(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path / "state")


FLAGS = [
    *("--tenant", "team", "--scope", "admin", "--scope", "inference", "--model", "m", "--model", "n"),
    *("--adapter", "a", "--expires", "2100-01-01", "--rpm", "1", "--tpm", "2", "--tpd", "3", "--concurrent", "4"),
    *("--weight", "2.5", "--label", "a=b", "--label", "c=d=e"),
]


def test_every_flag_is_a_field(sluice: Terminal) -> None:
    made = sluice.json("create", "--name", "ci", *FLAGS)
    key = parse_key(made.pop("key").encode())
    assert key is not None
    assert made == sluice.json("show", made["id"])
    assert key.public_id == made["id"]
    assert {name: made[name] for name in ("name", "tenant", "scopes", "models", "adapters", "weight", "labels")} == {
        "name": "ci",
        "tenant": "team",
        "scopes": ["admin", "inference"],
        "models": ["m", "n"],
        "adapters": ["a"],
        "weight": 2.5,
        "labels": {"a": "b", "c": "d=e"},
    }
    assert made["quota"] == {
        "requests_per_minute": 1,
        "tokens_per_minute": 2,
        "tokens_per_day": 3,
        "concurrent": 4,
    }
    assert made["expires_at"] == int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())


def test_defaults(sluice: Terminal) -> None:
    made = sluice.json("create", "--name", "x")
    assert (made["tenant"], made["scopes"], made["models"]) == ("default", ["inference", "read_only"], None)
    assert made["created_by"].startswith("cli:")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000), ("4w", 2_419_200)]
)
def test_spans(sluice: Terminal, text: str, seconds: int) -> None:
    made = sluice.json("create", "--name", "x", "--expires", text)
    assert made["expires_at"] - made["created_at"] in (seconds, seconds + 1)


def test_for_people_the_key_is_the_last_line_and_nothing_else_shows_it(sluice: Terminal) -> None:
    result = sluice("create", "--name", "x")
    key = result.stdout.splitlines()[-1]
    parts = parse_key(key.encode())
    assert parts is not None
    assert "shown once" in result.stderr
    for words in (["list"], ["show", parts.public_id], ["revoke", parts.public_id], ["list", "--revoked"]):
        shown = sluice(*words)
        assert shown.exit_code == 0
        assert parts.public_id in shown.stdout
        assert parts.secret not in shown.output


def test_update_changes_what_is_named_and_clears_what_is_told(sluice: Terminal) -> None:
    made = sluice.json("create", "--name", "ci", *FLAGS)
    made.pop("key")
    words = ["--name", "cd", "--rpm", "9", "--label", "a=", "--label", "f=g"]
    cleared = ["--clear", "tpm", "--clear", "models", "--clear", "expires"]
    changed = sluice.json("update", made["id"], *words, *cleared)
    assert changed == {
        **made,
        "name": "cd",
        "quota": {**made["quota"], "requests_per_minute": 9, "tokens_per_minute": None},
        "labels": {"c": "d=e", "f": "g"},
        "models": None,
        "expires_at": None,
    }


def test_rotate_and_revoke(sluice: Terminal) -> None:
    made = sluice.json("create", "--name", "x")
    rotated = sluice.json("rotate", made["id"], "--overlap", "1h")
    assert rotated["key"] != made["key"]
    assert rotated["previous_until"] - rotated["rotated_at"] == 3600
    assert sluice.json("rotate", made["id"])["previous_until"] is None
    assert sluice.json("revoke", made["id"])["status"] == "revoked"
    assert sluice.refused("rotate", made["id"]) == (1, "sluice: The API key was revoked, which is final.\n")
    assert sluice.refused("update", made["id"], "--name", "y")[0] == 1


def test_lists(sluice: Terminal) -> None:
    ids = [sluice.json("create", "--name", str(i), "--tenant", f"t{i % 2}")["id"] for i in range(3)]
    sluice("revoke", ids[2])
    assert [each["id"] for each in sluice.json("list")] == [ids[1], ids[0]]
    assert [each["id"] for each in sluice.json("list", "--revoked", "--tenant", "t0")] == [ids[2], ids[0]]
    lines = sluice("list").stdout.splitlines()
    assert lines[0].split()[:3] == ["id", "name", "tenant"]
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["create", "--name", "x", "--scope", "root"], "--scope: "),
        (["create", "--name", "x", "--rpm", "-1"], "--rpm: "),
        (["create", "--name", "x", "--adapter", "../x"], "--adapter: "),
        (["create", "--name", "x", "--weight", "0"], "--weight: "),
        (["create", "--name", ""], "--name: "),
        (["create", "--name", "x", "--tenant", "a b"], "--tenant: "),
        (["create", "--name", "x", "--label", "novalue"], "--label: "),
        (["create", "--name", "x", "--expires", "soon"], "--expires: "),
        (["create", "--name", "x", "--expires", "2020-01-01"], "--expires: "),
        (["create", "--name", "x", "--expires", "999999w"], "--expires: "),
        (["rotate", "nobody", "--overlap", "-1h"], "--overlap: "),
        (["rotate", "nobody", "--overlap", "52w"], "--overlap: "),
        (["update", "nobody"], "nothing to change"),
        (["update", "nobody", "--clear", "name"], "--clear: "),
    ],
)
def test_wrong_words_are_named(sluice: Terminal, words: list[str], message: str) -> None:
    code, complaint = sluice.refused(*words)
    assert code == 2
    assert complaint.startswith(f"sluice: {message}")


def test_unknown_keys(sluice: Terminal) -> None:
    for words in (["show", "nobody"], ["rotate", "nobody"], ["revoke", "nobody"], ["update", "nobody", "--rpm", "1"]):
        code, complaint = sluice.refused(*words)
        assert (code, complaint.lower().rstrip(".\n")) == (1, "sluice: no such api key")


def test_acts_are_audited(sluice: Terminal) -> None:
    made = sluice.json("create", "--name", "x")
    sluice("revoke", made["id"])
    database = Database(f"sqlite:///{(sluice.folder / 'sluice.db').resolve()}")
    rows, _ = read_audit(database, AuditFilter(target=made["id"]))
    assert [(row.entry.act, row.entry.actor[:4], row.entry.allowed) for row in rows] == [
        ("key.revoke", "cli:", True),
        ("key.create", "cli:", True),
    ]
    database.close()


# -- faults -----------------------------------------------------------------------------------------------------------


def test_a_wrong_setting_is_explained(sluice: Terminal) -> None:
    sluice.flags["port"] = "many"
    code, complaint = sluice.refused("list")
    assert (code, complaint[:13]) == (2, "sluice: port:")


def test_another_secret_is_explained(sluice: Terminal) -> None:
    sluice.json("create", "--name", "x")
    sluice.flags["secret"] = "quite another secret, as long as it must be"
    code, complaint = sluice.refused("list")
    assert code == 2
    assert "another deployment secret" in complaint


def test_a_locked_database_is_explained(sluice: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    sluice.json("create", "--name", "x")
    monkeypatch.setattr("gateway.cli_keys.Database", lambda url: Database(url, timeout=0.05))
    other = sqlite3.connect(sluice.folder / "sluice.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("gateway.cli_keys.prepare", lambda database, secret: None)
    code, complaint = sluice.refused("create", "--name", "y")
    assert (code, complaint) == (1, "sluice: the store is not available: database is locked\n")
    other.close()


def test_a_server_that_is_away_is_explained_without_its_password(sluice: Terminal) -> None:
    sluice.flags["store"] = {"url": "postgresql://u:geheim@127.0.0.1:1/x"}
    code, complaint = sluice.refused("list")
    assert code == 1
    assert "not available" in complaint
    assert "geheim" not in complaint


def test_on_a_server(sluice: Terminal, postgres_server: PostgresServer) -> None:
    sluice.flags["store"] = {"url": postgres_server.new_database()}
    made = sluice.json("create", "--name", "x", *FLAGS)
    made.pop("key")
    assert sluice.json("list") == [made]


def test_settings_errors_of_the_loader_are_explained() -> None:
    def broken(config: Path | None) -> Settings:
        raise SettingsError("first\nsecond")

    result = CliRunner().invoke(keys_app(broken), ["list"])
    assert (result.exit_code, result.stderr) == (2, "sluice: first\nsluice: second\n")
