"""The Dockerfile as its linter reads it, and what the image gets to see of this repository."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


OPERATOR = ROOT / "deploy" / "operator" / "Dockerfile"


@pytest.mark.parametrize("file", [ROOT / "Dockerfile", OPERATOR], ids=["sluice", "operator"])
def test_hadolint_finds_nothing(file: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, file], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_context_is_what_the_build_copies_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        word.removeprefix("./")
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for word in line.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in allowed)


def test_the_image_runs_without_rights_and_has_its_bill_of_materials_and_health_check() -> None:
    final = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert "/healthz" in final
    assert "sbom.cdx.json" in DOCKERFILE
    assert "COPY --from=build /opt/sluice /opt/sluice" in final


def test_the_operators_image_has_what_it_needs_and_no_rights() -> None:
    text = OPERATOR.read_text("utf-8")
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    allowed = (ROOT / "deploy" / "operator" / "Dockerfile.dockerignore").read_text("utf-8").split()
    assert set(copied) == {line.removeprefix("!") for line in allowed if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert re.findall(r"uv==(\S+)", text) == re.findall(r"uv==(\S+)", DOCKERFILE)[:1]
