from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import layout as under_test
from engine.config import EngineConfig, engine_arguments, needed_bytes, on_cpu
from engine.layout import Layout, Objection, binding, cores_divided, objections, on_several_machines, short_of
from engine.types import EngineUnavailable

BINDING = "VLLM_CPU_OMP_THREADS_BIND"


def model(directory: Path, **shape: Any) -> str:
    (directory / "config.json").write_text(json.dumps(shape), "utf-8")
    return str(directory)


def said(layout: Layout, path: str, *, cpu: bool = True) -> list[str]:
    return [each.what for each in objections(layout, path, cpu=cpu)]


@pytest.mark.parametrize(
    ("arguments", "several"),
    [
        ({}, False),
        ({"tensor_parallel_size": 2, "data_parallel_size": 2, "distributed_executor_backend": "mp"}, False),
        ({"distributed_executor_backend": "ray"}, True),
        ({"data_parallel_backend": "ray"}, True),
        ({"nnodes": 2}, True),
        ({"data_parallel_address": "192.0.2.7"}, True),
    ],
)
def test_other_machines_are_noticed(arguments: dict[str, Any], several: bool) -> None:
    assert on_several_machines(arguments) is several


def test_vllms_own_words_are_read() -> None:
    given = {"tensor_parallel_size": 2, "pipeline_parallel_size": 3, "data_parallel_size": 4}
    read = Layout.of({**given, "distributed_executor_backend": "mp"})
    assert (read, read.copy, read.devices) == (Layout(2, 3, 4, "mp"), 6, 24)
    assert Layout.of({"max_model_len": 8}) == Layout()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tensor_parallel_size", 0),
        ("pipeline_parallel_size", "two"),
        ("data_parallel_size", True),
        ("distributed_executor_backend", "dask"),
    ],
)
def test_what_is_no_size_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(EngineUnavailable, match=f"engine.{name}"):
        Layout.of({name: value})


def test_heads_that_do_not_divide_and_stages_without_layers(tmp_path: Path) -> None:
    path = model(tmp_path, num_attention_heads=9, num_hidden_layers=2)
    assert said(Layout(tensor=3, pipeline=2), path) == []
    (heads,) = objections(Layout(tensor=2), path, cpu=True)
    assert "9 attention heads" in heads.what
    assert heads.remedy.endswith("one of 1, 3, 9")
    assert "2 layers" in said(Layout(pipeline=3), path)[0]
    inner = model(tmp_path, text_config={"num_attention_heads": 9})
    assert said(Layout(tensor=2), inner)
    assert said(Layout(tensor=2), "somebody/model-of-the-hub") == []


def test_executors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Ray" in said(Layout(backend="ray"), "hub/model", cpu=True)[0]
    monkeypatch.setattr(under_test, "find_spec", lambda _name: None)
    assert "not installed" in said(Layout(backend="ray"), "hub/model", cpu=False)[0]
    monkeypatch.setattr(under_test, "find_spec", lambda _name: object())
    assert said(Layout(backend="ray"), "hub/model", cpu=False) == []
    assert said(Layout(tensor=2, backend="uni"), "hub/model")


def test_too_few_devices() -> None:
    short = short_of(Layout(tensor=2, data=2), 2, cpu=True)
    assert isinstance(short, Objection)
    assert short.what.startswith("4 cores are needed")
    assert short_of(Layout(tensor=2), 2, cpu=True) is None
    assert short_of(Layout(tensor=8, backend="ray"), 1, cpu=False) is None


def test_the_engine_says_it_before_it_loads_anything(tmp_path: Path) -> None:
    path = model(tmp_path, num_attention_heads=9)
    with pytest.raises(EngineUnavailable, match="one of 1, 3, 9"):
        engine_arguments(EngineConfig(path, "m", {"tensor_parallel_size": 2}))


@pytest.mark.skipif(not on_cpu(), reason="the estimate of memory is a CPU's")
def test_every_process_takes_memory(tmp_path: Path) -> None:
    one = needed_bytes(EngineConfig(str(tmp_path), "m", {"kv_cache_memory_bytes": 1}))
    two = needed_bytes(EngineConfig(str(tmp_path), "m", {"kv_cache_memory_bytes": 1, "tensor_parallel_size": 2}))
    assert two == 2 * one


@given(st.integers(1, 16), st.lists(st.integers(0, 255), min_size=1, max_size=64, unique=True))
def test_each_process_has_cores_and_none_is_had_twice(processes: int, cores: list[int]) -> None:
    parts = [list(map(int, part.split(","))) for part in binding(processes, cores).split("|")]
    assert len(parts) == processes
    assert {len(part) for part in parts} == {max(1, len(cores) // processes)}
    taken = [core for part in parts for core in part]
    assert set(taken) <= set(cores)
    assert len(set(taken)) == min(len(taken), len(cores))


def test_cores_are_divided_only_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BINDING, raising=False)
    with cores_divided(Layout(), [0, 1]):
        assert BINDING not in os.environ
    with cores_divided(Layout(tensor=2), [0, 1]):
        assert os.environ[BINDING] == "0|1"
    assert BINDING not in os.environ
    monkeypatch.setenv(BINDING, "nobind")
    with cores_divided(Layout(tensor=2), [0, 1]):
        assert os.environ[BINDING] == "nobind"
    assert os.environ[BINDING] == "nobind"
