"""What is older than a published fault allows does not serve (F76), and who reads SECURITY.md knows which that is."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from gateway.doctor import report
from gateway.floors import FLOORS, Floor, too_old
from gateway.serve import EXIT_FAILED, run
from gateway.settings import load
from tests.support.gateways import KEY

ROOT = Path(__file__).parents[2]


def with_one(old: Floor, version: str) -> Callable[[str], str]:
    """Versions as they are, but for one library."""
    return lambda name: version if name == old.distribution else metadata.version(name)


def test_what_is_installed_is_new_enough() -> None:
    assert list(too_old()) == []
    for floor in FLOORS:
        assert metadata.version(floor.distribution)


@pytest.mark.parametrize("floor", FLOORS, ids=lambda floor: floor.distribution)
def test_one_library_below_its_floor_is_named(floor: Floor) -> None:
    (said,) = too_old(with_one(floor, "0.0.1rc1"))
    assert said.startswith(f"{floor.distribution} 0.0.1rc1 is installed, which has {floor.fault}")
    assert list(too_old(with_one(floor, floor.version + "+cpu"))) == []


def test_numbers_are_compared_as_numbers() -> None:
    def only(version: str) -> list[str]:
        return list(too_old(lambda name: version if name == "pyjwt" else "999"))

    assert [only(each) == [] for each in ("2.9", "2.13.9", "2.14", "2.14.0.post1", "10.0")] == [
        False, False, True, True, True,
    ]  # fmt: skip


def test_a_server_with_an_old_library_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gateway.serve.too_old", lambda: too_old(with_one(FLOORS[0], "0.9")))
    monkeypatch.setattr("gateway.doctor.too_old", lambda: too_old(with_one(FLOORS[0], "0.9")))
    settings = load(flags={"state_dir": tmp_path / "state", "api_key": KEY, "port": 0})
    assert run(settings, lambda: settings) == EXIT_FAILED
    assert capsys.readouterr().err.startswith(f"sluice: {FLOORS[0].distribution} 0.9 is installed")
    lines: list[str] = []
    assert report(settings, lines.append) == 1
    assert any(line.startswith(f"WRONG {FLOORS[0].distribution} 0.9") for line in lines)


def test_what_may_be_installed_is_not_below() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = [re.fullmatch(r"([a-z0-9-]+)(?:\[.*\])?>=([0-9.]+).*", each) for each in project["dependencies"]]
    least = {bound[1]: bound[2] for bound in bounds if bound}
    declared = [floor for floor in FLOORS if floor.distribution in least]
    assert len(declared) >= 4
    for floor in declared:
        assert list(too_old(with_one(floor, least[floor.distribution]))) == []


def test_the_security_policy_has_the_same_table() -> None:
    page = (ROOT / "SECURITY.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| ([0-9.]+) \| (\S+) \|$", page, re.MULTILINE)
    assert rows == [(floor.distribution, floor.version, floor.fault) for floor in FLOORS]
