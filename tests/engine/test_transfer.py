from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.config import EngineConfig, engine_arguments
from engine.transfer import transfer_config, weights_digest
from engine.types import EngineUnavailable

EXAMPLE = {
    "kv_connector": "ExampleConnector",
    "kv_role": "kv_both",
    "kv_connector_extra_config": {"shared_storage_path": "/srv/kv"},
}


def test_the_example_connector_is_ours_and_others_are_the_operators() -> None:
    ours = transfer_config(EXAMPLE)
    assert (ours["kv_connector"], ours["kv_connector_module_path"]) == ("KvFiles", "engine.kv_files")
    assert ours["kv_connector_extra_config"] == EXAMPLE["kv_connector_extra_config"]
    nixl = {"kv_connector": "NixlConnector", "kv_role": "kv_producer"}
    assert transfer_config(nixl) == nixl | {"kv_load_failure_policy": "recompute"}
    own = EXAMPLE | {"kv_connector_module_path": "somewhere"}
    assert transfer_config(own)["kv_connector"] == "ExampleConnector"


def test_a_cache_that_is_lost_is_computed_unless_the_operator_wants_otherwise() -> None:
    assert transfer_config(EXAMPLE | {"kv_load_failure_policy": "fail"})["kv_load_failure_policy"] == "fail"


@pytest.mark.parametrize("extra", [None, {}, {"shared_storage_path": ""}])
def test_no_directory_of_its_own(extra: object) -> None:
    # vLLM's default is /tmp, which everybody on the machine can read and write.
    with pytest.raises(EngineUnavailable, match="shared_storage_path"):
        transfer_config({"kv_connector": "ExampleConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra})


def test_a_directory_that_is_open_to_everybody(tmp_path: Path) -> None:
    config = EXAMPLE | {"kv_connector_extra_config": {"shared_storage_path": str(tmp_path / "kv")}}
    transfer_config(config)  # it will be made
    (tmp_path / "kv").mkdir(mode=0o750)
    transfer_config(config)
    (tmp_path / "kv").chmod(0o751)
    with pytest.raises(EngineUnavailable, match="open to everybody"):
        transfer_config(config)


def test_the_engine_is_given_what_was_made_of_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 128}))
    arguments = engine_arguments(EngineConfig(str(tmp_path), "toy", {"kv_transfer_config": EXAMPLE}))
    assert arguments["kv_transfer_config"]["kv_connector"] == "KvFiles"
    assert "kv_transfer_config" not in engine_arguments(EngineConfig(str(tmp_path), "toy"))


def test_models_are_told_apart(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for directory in (one, other):
        directory.mkdir()
        (directory / "model.safetensors").write_bytes(bytes(200_000))
    assert weights_digest("{}", one) == weights_digest("{}", other), "wherever it lies"
    assert weights_digest("{}", one) != weights_digest('{"a": 1}', one)
    assert weights_digest("{}", one) != weights_digest("{}", None)
    (other / "model.safetensors").write_bytes(bytes(199_999) + b"1")
    assert weights_digest("{}", one) != weights_digest("{}", other), "a fine-tune has the same shapes"
