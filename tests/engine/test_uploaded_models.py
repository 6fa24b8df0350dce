"""What is uploaded over HTTP is served by a real engine, and says what the original says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine import samples
from engine.config import EngineConfig, require_files
from engine.pool import ModelPool, PoolPolicy
from engine.resident import ModelSpec
from engine.toy import make_toy_model
from engine.types import ModelState, ModelUnavailable
from tests.support.gateways import Threaded, threaded
from tests.support.uploads import gguf, upload_directory

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

GIB = 1024**3
ARGUMENTS = {"max_model_len": 1024, "kv_cache_memory_bytes": GIB // 4}


@pytest.fixture(scope="module")
def toy(default_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_model(tmp_path_factory.mktemp("models") / "toy", default_model)


@pytest.fixture(scope="module")
def house(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Threaded]:
    from gateway.engines import build_pool
    from gateway.serve import _resolve_models
    from gateway.settings import load

    state = tmp_path_factory.mktemp("state")
    flags: dict[str, Any] = {
        "model": str(toy),
        "served_model_name": "original",
        "engine": ARGUMENTS,
        "models": [
            {"name": "mine", "model": "repository:mine", "engine": ARGUMENTS, "memory": "2GiB"},
            {"name": "other", "model": "repository:other", "memory": "1GiB"},
        ],
        "pool": {"memory": "12GiB", "failed_pause": 1, "cold_wait": 600},
        "repository": {"enabled": True},
    }

    def build() -> Any:
        settings = load(flags={**flags, "state_dir": state})
        return build_pool(settings, _resolve_models(settings))

    with threaded(build, state, **{name: value for name, value in flags.items() if name != "engine"}) as gateway:
        yield gateway


def text(http: httpx.Client, model: str) -> Any:
    body = {"model": model, "prompt": "The river", "temperature": 0, "max_tokens": 24, "ignore_eos": True}
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"]


def test_a_directory_is_uploaded_and_served(house: Threaded, toy: Path) -> None:
    live = house.live
    with httpx.Client(base_url=live.url, headers=live.authorization, timeout=600) as http:
        absent = http.post("/v1/models/mine/load")
        assert absent.status_code == 503
        assert "there is no model" in absent.json()["error"]["message"]
        done = upload_directory(http, "mine", toy, chunk=1024 * 1024)
        assert (done["configured"], done["architecture"]) == (True, "LlamaForCausalLM")
        loaded = http.post("/v1/models/mine/load")
        assert loaded.status_code == 200, loaded.text
        assert text(http, "mine") == text(http, "original")
        assert http.delete("/v1/repository/models/mine").json()["error"]["code"] == "in_use"
    assert live.ledger.violations == []


def test_a_gguf_is_uploaded_and_becomes_what_the_converter_makes(
    house: Threaded, default_model: Path, tmp_path: Path
) -> None:
    source = samples._packaged_file(samples.SMOLLM2, samples.SMOLLM2.sources[0])
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "model.gguf").symlink_to(source)
    live = house.live
    with httpx.Client(base_url=live.url, headers=live.authorization, timeout=600) as http:
        done = upload_directory(http, "small", tmp_path / "small")
        assert (done["format"], done["architecture"], done["unservable"]) == ("gguf", "llama", None)
        place = live.settings.repository_directory() / "models" / "small"
        for file in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"):
            assert (place / file).read_bytes() == (default_model / file).read_bytes()
        assert http.delete("/v1/repository/models/small").status_code == 200

        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "model.gguf").write_bytes(gguf("mamba"))
        assert "'mamba'" in upload_directory(http, "other", tmp_path / "other")["unservable"]
        refused = http.post("/v1/models/other/load")
        assert refused.status_code == 503
        assert "'mamba'" in refused.json()["error"]["message"]


async def test_a_model_that_cannot_be_served_makes_nobody_leave(tmp_path: Path) -> None:
    config = EngineConfig(str(tmp_path / "nothing"), "nothing")
    refuse = partial(pytest.fail, "an engine was made")
    pool = ModelPool([ModelSpec(config)], PoolPolicy(GIB), lambda _: refuse(), check=require_files)
    with pytest.raises(ModelUnavailable, match="there is no model"):
        async with asyncio.timeout(30):
            await pool.load("nothing")
    assert pool.models()[0].state is ModelState.FAILED
