from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.serve import ECHO_SECONDS, _Stop


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
    stop = _Stop(clock)
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
