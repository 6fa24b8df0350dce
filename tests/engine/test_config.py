from __future__ import annotations

import atexit
import json
import os
import stat
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine import config
from engine.adapters.manager import AdapterOptions
from engine.config import (
    EngineConfig,
    check_environment,
    check_versions,
    engine_arguments,
    keep_groups_local,
    keep_sockets_private,
    kind_of,
    may_sleep,
    needed_bytes,
    prepare_environment,
)
from engine.types import EngineUnavailable, RequestRejected, Sampling


def test_the_installed_version_is_the_tested_one() -> None:
    check_versions()


@pytest.mark.parametrize("found", ["0.33.0", "0.31.1+cpu", None])
def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch, found: str | None) -> None:
    monkeypatch.setattr(config, "_installed", lambda _: found)
    with pytest.raises(EngineUnavailable, match="install"):
        check_versions()


@pytest.mark.parametrize("value", ["1", "true"])
def test_unsafe_switches_are_refused(value: str) -> None:
    with pytest.raises(EngineUnavailable, match="VLLM_SERVER_DEV_MODE"):
        check_environment({"VLLM_SERVER_DEV_MODE": value})
    check_environment({"VLLM_SERVER_DEV_MODE": "0"})


def test_the_operators_environment_wins() -> None:
    environ = {"VLLM_NO_USAGE_STATS": "0"}
    prepare_environment(environ, model_is_local=True)
    assert environ["VLLM_NO_USAGE_STATS"] == "0"
    assert environ["HF_HUB_OFFLINE"] == "1"
    remote: dict[str, str] = {}
    prepare_environment(remote, model_is_local=False)
    assert "HF_HUB_OFFLINE" not in remote


def test_sockets_are_where_nobody_else_can_come(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[tuple[Any, ...]] = []
    monkeypatch.setattr(atexit, "register", lambda function, *given, **named: ends.append((function, given, named)))
    environ: dict[str, str] = {}
    keep_sockets_private(environ)
    directory = Path(environ["VLLM_RPC_BASE_PATH"])
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    ((remove, given, named),) = ends
    remove(*given, **named)
    assert not directory.exists()
    ours = dict(environ)
    keep_sockets_private(ours)
    assert (ours, len(ends)) == (environ, 1)


def test_process_groups_meet_on_the_loopback_interface() -> None:
    environ: dict[str, str] = {}
    keep_groups_local(environ)
    addresses = [each.address for each in psutil.net_if_addrs()[environ["GLOO_SOCKET_IFNAME"]]]
    assert "127.0.0.1" in addresses
    chosen = {"GLOO_SOCKET_IFNAME": "eth7"}
    keep_groups_local(chosen)
    assert chosen == {"GLOO_SOCKET_IFNAME": "eth7"}


def test_the_operators_arguments_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"))
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 131072}')
    defaults = engine_arguments(EngineConfig(str(tmp_path), "m"))
    assert defaults["max_model_len"] == 8192
    assert 0 < defaults["gpu_memory_utilization"] <= 0.9
    mine = {"max_model_len": 64, "enforce_eager": False, "model": "ignored"}
    chosen = engine_arguments(EngineConfig(str(tmp_path), "m", mine))
    assert (chosen["max_model_len"], chosen["enforce_eager"]) == (64, False)
    assert chosen["model"] == str(tmp_path)


@pytest.mark.parametrize(
    ("native", "stored", "size", "dtype"),
    [
        (True, "bfloat16", 1000, "bfloat16"),
        (False, "bfloat16", 1000, "float32"),
        (False, None, 1000, "float32"),
        (False, "bfloat16", 11_000, "bfloat16"),  # twice as much would be more than a fifth of the memory
        (False, "float32", 11_000, "float32"),
        (False, "bfloat16", 0, "bfloat16"),  # a hub id: its size is not known yet
    ],
)
def test_a_processor_without_bfloat16_computes_in_float32(
    native: bool, stored: str | None, size: int, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.config.multiplies_bfloat16", lambda: native)
    memory = psutil.virtual_memory()._replace(total=100_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    (tmp_path / "config.json").write_text(json.dumps({"torch_dtype": stored}))
    (tmp_path / "model.safetensors").write_bytes(b"\0" * size)
    model = EngineConfig(str(tmp_path), "m")
    assert engine_arguments(model)["dtype"] == dtype
    bare = needed_bytes(EngineConfig(str(tmp_path / "elsewhere"), "m"))
    in_memory = size * 2 if (dtype, stored) == ("float32", "bfloat16") or (dtype == "float32" and not stored) else size
    assert needed_bytes(model) - bare == int(in_memory * 1.3)
    assert engine_arguments(EngineConfig(str(tmp_path), "m", {"dtype": "float16"}))["dtype"] == "float16"


@pytest.mark.parametrize("field", ["max_tokens", "seed", "top_k"])
def test_integers_beyond_int64_never_reach_the_engine(field: str) -> None:
    from engine.sampling import check_bounds

    values: dict[str, Any] = {"max_tokens": 1, field: 2**70}
    sampling = Sampling(**values)
    with pytest.raises(RequestRejected) as caught:
        check_bounds(sampling, 100)
    assert caught.value.param == field


def test_greedy_choices_are_drawn_greedily() -> None:
    from engine.sampling import to_vllm

    params = to_vllm(Sampling(max_tokens=1, n=2, temperature=0.0), stream=False)
    assert (params.top_k, params.temperature) == (1, 1.0)
    assert to_vllm(Sampling(max_tokens=1, temperature=0.0), stream=False).temperature == 0.0


@pytest.mark.parametrize("name", ["enable_prompt_embeds", "enable_mm_embeds", "allowed_local_media_path"])
def test_doors_for_tensors_and_files_stay_shut(name: str, tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=name):
        engine_arguments(EngineConfig(str(tmp_path), "m", {name: "/"}))
    assert engine_arguments(EngineConfig(str(tmp_path), "m", {name: False}))


def test_pictures_are_bounded(tmp_path: Path) -> None:
    assert engine_arguments(EngineConfig(str(tmp_path), "m", max_images=3))["limit_mm_per_prompt"]["image"] == 3
    mine = {"limit_mm_per_prompt": {"image": 1}}
    assert engine_arguments(EngineConfig(str(tmp_path), "m", mine))["limit_mm_per_prompt"] == {"image": 1}


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "generate"),
        ({"architectures": ["GPT2LMHeadModel"]}, "generate"),
        ({"architectures": ["ChatGLMModel"]}, "generate"),
        ({}, "generate"),
        ({"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper"}, "transcribe"),
        ({"architectures": ["BertModel"]}, "embed"),
        ({"architectures": ["XLMRobertaModel"]}, "embed"),
        ({"architectures": ["DistilBertForSequenceClassification"]}, "classify"),
    ],
)
def test_what_a_directory_is_for(config: dict[str, object], kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    assert kind_of(str(tmp_path)) == kind


def test_a_sentence_transformer_embeds_whatever_it_is_built_on(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}', "utf-8")
    (tmp_path / "modules.json").write_text("[]", "utf-8")
    assert kind_of(str(tmp_path)) == "embed"
    assert kind_of("org/name") == "generate"


def test_sleep_is_refused_by_name_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = EngineConfig(str(tmp_path), "m", {"enable_sleep_mode": True})
    monkeypatch.setattr(config, "on_cpu", lambda: True)
    with pytest.raises(EngineUnavailable, match=r"engine\.enable_sleep_mode: there is no sleep on a CPU"):
        engine_arguments(asked)
    assert not may_sleep(asked)
    assert engine_arguments(EngineConfig(str(tmp_path), "m", {"enable_sleep_mode": False}))
    monkeypatch.setattr(config, "on_cpu", lambda: False)
    assert engine_arguments(asked)["enable_sleep_mode"] is True
    assert may_sleep(asked)


def test_who_may_not_sleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "on_cpu", lambda: False)
    assert not may_sleep(EngineConfig(str(tmp_path), "m"))
    sleepy = {"enable_sleep_mode": True}
    assert not may_sleep(EngineConfig(str(tmp_path), "m", sleepy, adapters=AdapterOptions(tmp_path)))
    assert not may_sleep(EngineConfig(str(tmp_path), "m", sleepy | {"kv_transfer_config": {"kv_connector": "x"}}))
