from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.samples import DEFAULT_MODEL_ID
from gateway.guardian.build import SAMPLE_MODEL
from gateway.serve import ECHO_SECONDS, Stopping, _resolve_models, _with_development_key, leave_alone_what_stays
from gateway.settings import SettingsError, load


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("second", "later", "at_once"),
    [
        (signal.SIGTERM, 0.0, False),
        (signal.SIGTERM, ECHO_SECONDS, False),
        (signal.SIGTERM, ECHO_SECONDS + 0.01, True),
        (signal.SIGINT, 0.0, True),
    ],
)
def test_an_echo_of_the_first_signal_is_not_a_second_one(second: int, later: float, at_once: bool) -> None:
    clock = Clock()
    stop = Stopping(clock)
    stop.received(signal.SIGTERM)
    assert stop.first.is_set()
    clock.now += later
    stop.received(second)
    assert stop.second.is_set() is at_once


@pytest.mark.slow
def test_a_sample_model_that_cannot_be_prepared_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = {**os.environ, "SLUICE_CACHE_DIR": str(tmp_path / "file"), "SLUICE_STATE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "gateway.cli", "serve", "--dev"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    said = done.stderr.strip()
    assert said.startswith("sluice: cannot write the sample model to ")
    assert "\n" not in said


def test_a_state_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"^state_dir: .*file/dev-key$"):
        _with_development_key(load(flags={"dev": True, "state_dir": tmp_path / "file"}))
    (tmp_path / "dev-key").touch()
    with pytest.raises(SettingsError, match="dev-key is empty; remove it"):
        _with_development_key(load(flags={"dev": True, "state_dir": tmp_path}))


def test_a_development_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    settings = load(flags={"dev": True, "state_dir": tmp_path / "new"})
    (first, path), (again, _) = _with_development_key(settings), _with_development_key(settings)
    assert first.static_key() == again.static_key()
    assert path is not None
    assert path.stat().st_mode & 0o077 == 0


def test_three_lines_bring_the_sample_guard_with_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "guardian.md").read_text()
    config = tmp_path / "sluice.yaml"
    config.write_text(page.split("```yaml\n")[1].split("```")[0])
    assert len(config.read_text().splitlines()) == 3
    monkeypatch.setattr("gateway.serve._sample", lambda _settings, name: f"/cache/{name}")
    models = _resolve_models(load(config))
    assert [(model.name, model.kind, model.preload) for model in models] == [
        (DEFAULT_MODEL_ID, "generate", True),
        (SAMPLE_MODEL, "classify", True),
    ]
    assert load(config).guard.policy.output
    named = {"models": [{"name": SAMPLE_MODEL, "model": "/models/mine", "kind": "classify"}], "model": "sample:x"}
    ours = load(config, flags=named)
    monkeypatch.setattr("gateway.serve._located", lambda _settings, model, _setting: (model, "first"))
    assert [model.path for model in _resolve_models(ours) if model.name == SAMPLE_MODEL] == ["/models/mine"]


def test_what_the_start_made_is_out_of_the_collectors_sight() -> None:
    kept: list[list[int]] = [[] for _ in range(1000)]
    leave_alone_what_stays()
    try:
        assert gc.get_freeze_count() > len(kept)
    finally:
        gc.unfreeze()
