import json
from pathlib import Path

import pytest
import yaml

from loadtest import compare
from loadtest.report import Visit
from loadtest.systems import ENGINE_ARGUMENTS, SYSTEMS, Place
from loadtest.workload import Figures, Workload


def test_systems_take_turns_within_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def visit(name: str, model: Path, directory: Path, work: Workload) -> Figures:
        seen.append(name)
        return {"tokens_per_s": 1.0}

    monkeypatch.setattr(compare, "visit", visit)
    visits = compare.compare(["sluice", "vllm"], 3, Path("toy"), Workload())
    assert seen == ["sluice", "vllm"] * 3
    assert [(v.system, v.round) for v in visits[:3]] == [("sluice", 1), ("vllm", 1), ("sluice", 2)]


def test_every_model_server_gets_the_same_engine_arguments(tmp_path: Path) -> None:
    launches = {name: SYSTEMS[name].launch(Place(Path("toy"), 1, tmp_path)) for name in ("sluice", "vllm", "rust")}
    assert launches["vllm"].command == launches["rust"].command
    assert yaml.safe_load((tmp_path / "sluice.yaml").read_text())["engine"] == ENGINE_ARGUMENTS
    command = list(launches["vllm"].command)
    for name, value in ENGINE_ARGUMENTS.items():
        at = command.index(f"--{name.replace('_', '-')}")
        assert value is True or command[at + 1] == str(value)
    engines = [{k: v for k, v in each.environment.items() if k.startswith("VLLM_")} for each in launches.values()]
    assert engines[0] == engines[1]
    assert engines[2].keys() - engines[1].keys() == {"VLLM_USE_RUST_FRONTEND", "VLLM_RUST_FRONTEND_PATH"}


def test_settings_of_the_caller_do_not_leak_into_a_comparison(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLUICE_LOG__LEVEL", "debug")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    environment = SYSTEMS["sluice"].launch(Place(Path("toy"), 1, tmp_path)).environment
    assert "SLUICE_LOG__LEVEL" not in environment
    assert "VLLM_LOGGING_LEVEL" not in environment


@pytest.mark.parametrize("arguments", [["--systems", "sluice,nothing"], ["--rounds", "0"], ["--peer", "litellm"]])
def test_unknown_systems_and_no_rounds_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        compare.main(arguments)
    assert refused.value.code == 2


def test_a_missed_target_is_an_exit_code_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = [Visit(name, 1, 0.0, {"cpu_us_per_token": cpu}) for name, cpu in (("sluice", 90.0), ("vllm", 100.0))]
    monkeypatch.setattr(compare, "compare", lambda *_: slow)
    arguments = ["--systems", "direct", "--model", "toy"]
    assert compare.main(arguments) == 0
    assert compare.main([*arguments, "--check"]) == 1


@pytest.mark.slow
def test_the_gateway_over_the_stub_is_measured_whole(tmp_path: Path) -> None:
    """Start, readiness, load, checks and stop, on a real server without a model."""
    file = tmp_path / "figures.json"
    assert compare.main(["--systems", "stub", "--rounds", "1", "--quick", "--model", "toy", "--json", str(file)]) == 0
    (visit,) = json.loads(file.read_text())["visits"]
    assert visit["system"] == "stub"
    # On a busy machine most events of the stub arrive together with the one before.
    assert all(value > 0 for name, value in visit["figures"].items() if name != "gap_p50_ms")
