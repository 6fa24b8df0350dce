"""One model on two processes of a CPU, through `sluice serve`."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.faults.processes import ENGINE, Server, gone, serving

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

PROMPTS = ("hello", "The river is calm today and", "1, 2, 3,")


def answers(server: Server) -> list[str]:
    said = [server.completion(prompt=prompt, temperature=0, max_tokens=12) for prompt in PROMPTS]
    assert all(each.status_code == 200 for each in said)
    return [each.json()["choices"][0]["text"] for each in said]


def test_halves_of_a_model_say_what_the_whole_says(toy_model: Path, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "halves").mkdir()
    with serving(toy_model, tmp_path / "whole") as whole:
        expected = answers(whole)
    engine = json.dumps({**ENGINE, "tensor_parallel_size": 2})
    with serving(toy_model, tmp_path / "halves", {"SLUICE_ENGINE": engine}) as halves:
        assert answers(halves) == expected
        family = halves.family()
        names = " ".join(process.name() + " ".join(process.cmdline()) for process in family)
        assert {f"Worker_TP{rank}" for rank in (0, 1) if f"Worker_TP{rank}" in names} == {"Worker_TP0", "Worker_TP1"}
        halves.signal(signal.SIGTERM)
        assert halves.process.wait(60) == 0
        assert gone(family, 30)
